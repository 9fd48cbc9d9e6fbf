"""The exact program beside the attacks: its images are upper bounds, and hide no fault."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_support import SETTINGS, no_certificate
from torch import Tensor

from marginbench.benchmarks.attacks.scan import ATTACKS, Attack
from marginbench.benchmarks.certificates.scan import CERTIFICATES, Certificate
from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.evaluation import sandwich as margins
from marginbench.benchmarks.evaluation.evaluated import Evaluated
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.nets.make import make_net
from marginbench.methods import Net

MILP = SETTINGS.model_copy(update={"points": 8, "attacks": {"blend": {}}, "certificates": {"milp": {}}})

Small = tuple[Net, Dataset]


@pytest.fixture(scope="module")
def few_units() -> Small:
    """Twelve random ReLUs behind 16 pixels, and images that are what the network says."""
    stream = torch.Generator().manual_seed(8)
    net = make_net("mlp", 6, (1, 4, 4), 3, torch.tensor([0.5]), torch.tensor([0.3]))
    x = torch.randint(256, (8, 1, 4, 4), generator=stream, dtype=torch.uint8)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream))
        y = net(x / 255).argmax(1)
    split = Split(x, y, 255)
    return net, Dataset(split, split, split, 3, "random")


def exactly(few_units: Small, **changes: Any) -> Evaluated:
    net, data = few_units
    return evaluate(net, no_certificate, data, MILP.model_copy(update=changes), "test")


def test_adversarial_images_of_the_milp_are_upper_bounds(few_units: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(margins, "ROWS", 5)  # two chunks
    result = exactly(few_units)
    correct = result.arrays["prediction"] == result.arrays["label"]
    blend, milp = (result.arrays[f"upper_linf_{name}"] for name in ("blend", "milp"))
    assert correct.sum() > 4 and (milp[correct] < 0.9 * blend[correct]).all()
    assert np.array_equal(result.arrays["upper_linf"], milp)
    assert (result.arrays["lower_linf_milp"][correct] > 0.998 * milp[correct] - 1e-5).all()
    facts = result.estimators["milp_linf"]
    assert facts["points"] == facts["solved"] == correct.sum()
    assert "upper_l2_milp" not in result.arrays and "not_applicable" in result.estimators["milp_l2"]
    assert "contradiction" not in result.doubts


def test_unsolved_points_are_counted_and_keep_their_interval(few_units: Small) -> None:
    result = exactly(few_units, certificates={"milp": {"time_limit": 0.0}})
    correct = result.arrays["prediction"] == result.arrays["label"]
    facts = result.estimators["milp_linf"]
    assert facts["points"] == correct.sum() > 0 and facts["solved"] == 0
    assert (result.arrays["lower_linf"] == 0).all()
    assert np.array_equal(result.arrays["upper_linf"], result.arrays["upper_linf_blend"])


@pytest.mark.parametrize("order", [("crown", "milp"), ("milp", "crown")])
def test_a_certificate_that_the_milp_refutes_is_a_contradiction(
    few_units: Small, monkeypatch: pytest.MonkeyPatch, order: tuple[str, str]
) -> None:
    """It certifies less than the attack's distance, so that only the nearer image of the program can refute it."""
    found = exactly(few_units, certificates={}).arrays
    claimed = torch.from_numpy(0.95 * found["upper_linf_blend"][found["prediction"] == found["label"]])

    def liar(q: Query) -> Tensor:
        return claimed if q.norm == "linf" else torch.zeros(len(q.x))

    monkeypatch.setitem(CERTIFICATES, "crown", Certificate("crown", liar))
    assert "contradiction" not in exactly(few_units, certificates={"crown": {}}).doubts
    result = exactly(few_units, certificates={key: {} for key in order})
    assert result.doubts["contradiction"] == f"{len(claimed)} points"


def test_the_milp_hides_no_weak_gradient_attack(few_units: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that fails in L-infinity stays behind the black-box attacks, however near the program's images are."""
    honest = ATTACKS["fmn"]

    def lame(q: Query) -> Tensor:
        return q.x if q.norm == "linf" else honest.propose(q)

    attacks: dict[str, Any] = {"fmn": {}, "blend": {}, "noise": {}}
    assert exactly(few_units, attacks=attacks).doubts == {}
    monkeypatch.setitem(ATTACKS, "fmn", Attack("fmn", lame))
    result = exactly(few_units, attacks=attacks)
    assert np.isfinite(result.arrays["upper_linf"]).all()
    assert {"black_box_wins", "noise_wins", "no_backward"} <= set(result.doubts)


def test_the_milp_is_no_black_box_attack(few_units: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come nearer than gradients do: that is what it is for."""
    monkeypatch.setitem(ATTACKS, "fmn", replace(ATTACKS["blend"], gradient=True))  # far off
    result = exactly(few_units, attacks={"fmn": {}})
    upper, far = result.arrays["upper_linf"], result.arrays["upper_linf_fmn"]
    assert (upper < 0.9 * far).any() and "black_box_wins" not in result.doubts
