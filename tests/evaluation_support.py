"""An evaluation in one call."""

from typing import Any

from torch import Tensor

from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.contract.fixtures import small_data
from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.evaluation.evaluated import Evaluated
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.methods import Net, Norm, NotApplicable, Radii

SETTINGS = Evaluation(
    points=64,
    epsilon={"linf": 0.05, "l2": 0.25},
    attacks=PRESETS["quick"],
    certificates={"crown": {}},
)


def no_certificate(net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
    return NotApplicable("none")


def evaluated(net: Net, data: Dataset | None = None, certify: Any = no_certificate, **changed: Any) -> Evaluated:
    """With other fields of the settings."""
    return evaluate(net, certify, data or small_data(), SETTINGS.model_copy(update=changed), "test")
