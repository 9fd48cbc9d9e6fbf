"""How a setting was chosen: what `marginbench tune` writes for each row, and what the records of tuned rows carry."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from marginbench.benchmarks.machine.files import digest
from marginbench.methods import Norm
from marginbench.methods.words import counted

TUNED = "+tuned"  # ends the name of a tuned row
Objective = Literal["validation_accuracy", "robust_accuracy", "pareto"]
Pick = Literal["floor", "knee", "clean", "robust"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial: a setting, and what it gave on the validation images."""

    number: int  # 0 is the default of the row
    method: str  # spec
    recipe: dict[str, Any] = field(default_factory=dict)  # what it changes of the suite's recipe, by dotted key
    status: Literal["done", "failed"]  # a diverged training has failed
    value: float | None = None  # of the objective, the larger the better; none where there are two
    clean_accuracy: float | None = None
    robust_accuracy: float | None = None
    seconds: float = 0.0  # of training and evaluation; 0 for a setting that an earlier trial had
    passes: float = 0.0  # forward and backward through the network, each over a batch, of the training
    repeats: int | None = None  # the number of that earlier trial
    error: str | None = None
    finished: str  # UTC, ISO 8601

    @property
    def setting(self) -> str:
        return in_words(self.method, self.recipe)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The chosen setting of a row, with its provenance. All is about validation images."""

    row: str  # what was tuned; its default is trial 0
    method: str  # spec of the choice
    recipe: dict[str, Any] = field(default_factory=dict)  # what it changes of the suite's recipe, by dotted key
    chosen: int  # number of the trial
    suite: str
    trained_by: str  # digest of the suite's recipe
    data: str  # fingerprint of training and validation images
    revision: int  # of the method
    source: str | None = None  # hash of its file, of a plug-in
    objective: Objective
    rule: str  # how the choice was made, in words
    norm: Norm | None = None  # of the robust accuracy
    epsilon: float | None = None  # its radius, in pixels of [0, 1]
    floor: float | None = None  # clean accuracy that was asked for
    sampler: str  # `random`, or from which trial on it is TPE
    seed: int  # of the sampler
    repetition: int  # seed of the trainings, which no row of a table has
    trials: int
    distinct: int  # settings among the trials
    failed: int  # trials
    seconds: float  # of all trainings and evaluations
    passes: float  # forward and backward through the network, each over a batch, of all trainings
    date: str  # of the last trial; UTC, ISO 8601
    trained_for: dict[Norm, float] = field(default_factory=dict)  # radii, of a method that trains for some; pixels
    versions: dict[str, str] = field(default_factory=dict)
    space: dict[str, str] = field(default_factory=dict)  # what was searched, in words
    importance: dict[str, float] = field(default_factory=dict)  # share of the variance of the value, by fANOVA
    history: list[Trial] = field(default_factory=list)

    @property
    def id(self) -> str:
        """64 hexadecimal digits, of all but what other versions of the libraries may say of the same trials."""
        values = asdict(self)
        without = {"versions", "importance"} | ({"trained_for"} if not self.trained_for else set())
        return digest({key: value for key, value in values.items() if key not in without})

    @property
    def name(self) -> str:
        """Of its row in tables."""
        return f"{self.row}{TUNED}"

    @property
    def stream(self) -> str:
        """The name of the suite that the draws of the trials were seeded from: that of the file, without changes."""
        return self.suite.partition("+")[0]

    @property
    def keeps_default(self) -> bool:
        """The choice is the default: the tuned row is the same as the other one."""
        return self.history[self.chosen].setting == self.history[0].setting

    @property
    def drawn(self) -> str:
        """Where the trials come from: `the default, 7 drawn at random, 12 by TPE`."""
        start = re.search(r"\d+", self.sampler)  # an earlier marginbench wrote `TPE, after 8 random trials`
        first = min(int(start[0]), self.trials) if start else self.trials
        counts = {"drawn at random": first - 1, "by TPE": self.trials - first}
        return ", ".join(["the default", *(f"{count} {how}" for how, count in counts.items() if count)])

    @property
    def choice(self) -> str:
        """The rule, with the clean accuracy that it asks for."""
        if self.floor is None or not (self.objective == "robust_accuracy" or "floor" in self.rule):
            return self.rule
        return f"{self.rule} (floor: {100 * self.floor:.4g} % clean)"

    @property
    def way(self) -> str:
        """What rows must have in common to be compared, in words: the budget, and the rule of the choice."""
        recipe = ", recipe included," if any(key.startswith("training.") for key in self.space) else ""
        objective = " ".join([self.objective.replace("_", " "), *([self.norm] if self.norm else [])])
        trials = f"{counted(self.trials, 'trial')}{recipe} by {objective} ({self.drawn}; seed {self.seed})"
        return f"{trials}, of which {self.choice}"


def in_a_sentence(tuning: Tuning) -> str:
    """Where a setting comes from: `Trial 7 of 20 by validation accuracy ...`."""
    what = f"Trial {tuning.chosen} of {tuning.trials} by {tuning.objective.replace('_', ' ')} on validation images"
    how = f"{tuning.drawn}; seed {tuning.seed}, {tuning.date.partition('T')[0]}"
    cost = f"{counted(round(tuning.passes), 'pass', 'passes')}, {tuning.seconds:.0f} s"
    settings = f"{counted(tuning.distinct, 'distinct setting')}, {tuning.failed} failed"
    return f"{what} ({how}): {tuning.choice}. {settings}; {cost}."


def in_words(method: str, recipe: Mapping[str, Any]) -> str:
    """A setting in one text: `arcface(m=0.2)+training.learning_rate=0.003`."""
    return "+".join([method, *(f"{key}={recipe[key]:g}" for key in sorted(recipe))])
