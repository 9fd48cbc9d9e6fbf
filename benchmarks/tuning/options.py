"""What `tune` is asked to do. Imports nothing heavy, so that `marginbench tune --help` answers at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from marginbench.benchmarks.records.tuning import Objective, Pick
from marginbench.benchmarks.runs.options import RunOptions
from marginbench.methods.errors import ParameterError
from marginbench.methods.facts import Norm

if TYPE_CHECKING:
    from marginbench.methods import Method

Sampler = Literal["tpe", "random"]
TRIALS = 20
FLOOR = 0.95
ROBUST: Sequence[Objective] = ("robust_accuracy", "pareto")
OF_OBJECTIVES: Mapping[str, Sequence[Objective]] = {"norm": ROBUST, "floor": ROBUST, "pick": ("pareto",)}


@dataclass(frozen=True)
class TuneOptions:
    """Options that `run_all` has too mean the same there.

    Raises:
        ParameterError: a value that is wrong whatever the suite.
    """

    methods: Sequence[str | Path | Method | type[Method]] | None = None
    trials: int = TRIALS  # of each row, the default included
    objective: Objective = "validation_accuracy"
    norm: Norm | None = None  # of the robust accuracy; default: linf
    floor: float | None = None  # clean accuracy of a robust setting, as a share of that of ce's default; default: 0.95
    pick: Pick | None = None  # from a Pareto front; default: floor
    recipe: bool = False  # the learning rate and the weight decay too
    sampler: Sampler = "tpe"
    seed: int = 0  # of the sampler and of the trainings
    merge: Sequence[str | Path] = ()  # output folders of other calls, whose trials are taken over
    run: RunOptions = field(default_factory=RunOptions)  # suite, set, device, out, jobs, ...

    def __post_init__(self) -> None:
        kinds: Mapping[str, Any] = {"objective": Objective, "norm": Norm, "pick": Pick, "sampler": Sampler}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value not in get_args(kind) and not (name in OF_OBJECTIVES and value is None):
                raise ParameterError(name, value, f"must be one of {', '.join(get_args(kind))}")
        for name, smallest in (("trials", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ParameterError(name, value, f"must be a whole number from {smallest} on")
        if self.floor is not None and not 0 <= self.floor <= 1:
            raise ParameterError("floor", self.floor, "must be a share from 0 to 1 of the clean accuracy of ce")
        for name, objectives in OF_OBJECTIVES.items():
            if getattr(self, name) is not None and self.objective not in objectives:
                problem = f"is for the objective {' or '.join(objectives)}; it is {self.objective} here"
                raise ParameterError(name, getattr(self, name), problem)

    @property
    def norm_asked(self) -> Norm:
        """That of the robust accuracy."""
        return self.norm or "linf"

    @property
    def share(self) -> float:
        """Of the clean accuracy of ce's default, which a robust setting must have."""
        return FLOOR if self.floor is None else self.floor

    @property
    def rule(self) -> Pick:
        """How one is picked from a Pareto front."""
        return self.pick or "floor"

    @property
    def name(self) -> str:
        """Of the folder of this tuning: what was asked for, without what are its defaults.

        Trials of a Pareto front are the same for every rule that picks from it, and so is the folder.
        """
        parts: list[str] = [self.objective]
        if self.objective != "validation_accuracy":
            parts += [self.norm_asked]
        if self.objective == "robust_accuracy" and self.share != FLOOR:
            parts += [f"floor={self.share:g}"]
        parts += ["recipe"] * self.recipe + [self.sampler] * (self.sampler != "tpe")
        return "+".join([*parts, *([f"seed={self.seed}"] if self.seed else [])])
