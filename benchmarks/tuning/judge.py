"""What a trial is worth: the suite on validation images, evaluated as far as the objective asks."""

from dataclasses import dataclass
from typing import Any

from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.tuning import Objective
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.evaluation import probe_keys
from marginbench.benchmarks.suites.schema import Suite
from marginbench.methods import Norm

# A search rewards what fools weaker attacks: by 20 steps of FMN and blend the digits' tuned cosface was robust on
# 76.5 % of the validation images in L-infinity, by these on 42 %.
ATTACKS = "quick"
WORST = -1.0  # of a trial that failed: below every other one


def judged_on(suite: Suite, objective: Objective) -> Suite:
    """The suite as trials are evaluated: on all validation images, and attacked only where the objective asks for it.

    Its trainings are those of the suite; the test images are not loaded into it.
    """
    attacks: Any = {} if objective == "validation_accuracy" else ATTACKS
    changes = {
        "data.evaluate": "validation",
        "evaluation.points": suite.data.validation,
        "evaluation.attacks": attacks,
        "evaluation.certificates": {},
        **{f"evaluation.{key}": None for key in probe_keys()},
    }
    return derive(suite, changes).model_copy(update={"name": f"{suite.name}+tuning"})


@dataclass(frozen=True)
class Judge:
    """Compares trials by an objective."""

    objective: Objective
    norm: Norm
    floor: float  # clean accuracy

    @property
    def directions(self) -> int:
        """How many values a trial has."""
        return 2 if self.objective == "pareto" else 1

    def accuracies(self, record: Record) -> tuple[float, float | None]:
        """Clean accuracy, and robust accuracy if that was measured, on the validation images."""
        robust = record.metrics.get(f"robust_accuracy_{self.norm}")
        return record.metrics["clean_accuracy"], None if self.objective == "validation_accuracy" else robust

    def values(self, clean: float, robust: float | None) -> list[float]:
        """The values of a trial, the larger the better.

        validation_accuracy: clean accuracy. robust_accuracy: robust accuracy r, if the clean accuracy c is not below
        the floor; else c - 1, so that what comes nearer to the floor is better, and all of these are worse than those
        above it (Deb's rule of feasibility). pareto: (c, r).
        """
        if robust is None:
            return [clean]
        if self.objective == "pareto":
            return [clean, robust]
        return [robust if clean >= self.floor else clean - 1.0]

    @property
    def failed(self) -> list[float]:
        """The values of a trial that diverged or failed otherwise."""
        return [WORST] * self.directions
