"""What `tune` is asked to do. Imports nothing heavy, so that `marginbench tune --help` answers at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from marginbench.benchmarks.records.tuning import Objective
from marginbench.benchmarks.runs.options import RunOptions
from marginbench.methods.errors import ParameterError
from marginbench.methods.facts import Norm

if TYPE_CHECKING:
    from marginbench.methods import Method

Sampler = Literal["tpe", "random"]
Pick = Literal["floor", "knee", "clean", "robust"]
TRIALS = 20
FLOOR = 0.95


@dataclass(frozen=True)
class TuneOptions:
    """Options that `run_all` has too mean the same there.

    Raises:
        ParameterError: a value that is wrong whatever the suite.
    """

    methods: Sequence[str | Path | Method | type[Method]] | None = None
    trials: int = TRIALS  # of each row, the default included
    objective: Objective = "validation_accuracy"
    norm: Norm = "linf"  # of the robust accuracy
    floor: float = FLOOR  # clean accuracy that a robust setting must have, as a share of that of the default of ce
    pick: Pick = "floor"  # from a Pareto front
    recipe: bool = False  # the learning rate and the weight decay too
    sampler: Sampler = "tpe"
    seed: int = 0  # of the sampler and of the trainings
    merge: Sequence[str | Path] = ()  # output folders of other calls, whose trials are taken over
    run: RunOptions = field(default_factory=RunOptions)  # suite, set, device, out, jobs, ...

    def __post_init__(self) -> None:
        kinds: Mapping[str, Any] = {"objective": Objective, "norm": Norm, "pick": Pick, "sampler": Sampler}
        for name, kind in kinds.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ParameterError(name, getattr(self, name), f"must be one of {known}")
        for name, smallest in (("trials", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ParameterError(name, value, f"must be a whole number from {smallest} on")
        if not 0 <= self.floor <= 1:
            raise ParameterError("floor", self.floor, "must be a share from 0 to 1 of the clean accuracy of ce")

    @property
    def name(self) -> str:
        """Of the folder of this tuning: what was asked for, without what are its defaults.

        Trials of a Pareto front are the same for every rule that picks from it, and so is the folder.
        """
        parts: list[str] = [self.objective]
        if self.objective != "validation_accuracy":
            parts += [self.norm]
        if self.objective == "robust_accuracy" and self.floor != FLOOR:
            parts += [f"floor={self.floor:g}"]
        parts += ["recipe"] * self.recipe + [self.sampler] * (self.sampler != "tpe")
        return "+".join([*parts, *([f"seed={self.seed}"] if self.seed else [])])
