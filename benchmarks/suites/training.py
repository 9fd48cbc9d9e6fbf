"""The section `training` of a suite: the budget, the optimiser and its schedule, the augmentation."""

import inspect
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, field_validator, model_validator
from torch import nn

from marginbench.benchmarks.section import Count, Section, Settings
from marginbench.benchmarks.suites.augment import Augment
from marginbench.methods import Norm
from marginbench.methods.errors import suggest
from marginbench.methods.words import counted

OURS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.AdamW, "sgd": torch.optim.SGD}
"""Names with settings of our own: `adam` is fused, `sgd` has Nesterov's momentum 0.9."""
UNFIT = ("Optimizer", "LBFGS", "SparseAdam", "Muon")  # abstract; needs a closure; sparse gradients only; matrices only
ELSEWHERE = {"lr": "training.learning_rate", "weight_decay": "training.weight_decay"}
FIXED = ("params", "maximize", "foreach", "fused", "capturable", "differentiable")  # arguments that are not settings


class Training(Section):
    epochs: Count
    batch_size: Count
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    no_decay: list[Literal["vectors", "depthwise"]] | None = None  # weights that it leaves out; default: none
    optimiser: str = "adam"  # or sgd, or a class of torch.optim by its name
    optimiser_settings: Settings | None = None  # further arguments of the class
    schedule: Literal["one_cycle", "constant", "drops", "linear"] = "one_cycle"
    drops: list[list[NonNegativeFloat]] | None = None  # [epoch, factor on the learning rate from then on], in order
    warm_up: PositiveFloat | None = None  # epochs in which the rate rises linearly; one_cycle has its own
    nesterov: bool | None = None  # of sgd; default: yes
    precision: Literal["float32", "bf16"] = "float32"
    epsilon: dict[Norm, PositiveFloat] | None = None  # radii that methods train for; default: the evaluation's
    augment: Augment | None = None  # default: the images as they are

    @field_validator("optimiser")
    @classmethod
    def _known_optimiser(cls, name: str) -> str:
        if name not in (known := optimisers()):
            raise ValueError(f"unknown optimiser: {suggest(name, known)}")
        return name

    @model_validator(mode="after")
    def _settings_fit(self) -> "Training":
        known = [*inspect.signature(self.optimiser_class).parameters]
        settings = self.optimiser_settings or {}
        for key in settings:
            if key in ELSEWHERE:
                raise ValueError(f"optimiser_settings.{key}: the key for it is {ELSEWHERE[key]}")
            if key not in known or key in FIXED:
                free = [name for name in known if name not in (*ELSEWHERE, *FIXED)]
                raise ValueError(f"optimiser_settings.{key}: no setting of {self.optimiser}: {suggest(key, free)}")
        if self.optimiser not in OURS and self.nesterov is not None:
            raise ValueError("nesterov: of sgd; other optimisers have optimiser_settings")
        if "weight_decay" not in known and self.weight_decay:
            raise ValueError(f"weight_decay: {self.optimiser} has none")
        if self.no_decay is not None and not self.weight_decay:
            raise ValueError("no_decay: weight_decay is 0, so that there is nothing to leave out")
        if self.optimiser in OURS and not self.optimiser_settings:
            return self  # nothing can be wrong, and to make the first optimiser takes torch a second
        try:
            self.optimiser_class([nn.Parameter(torch.zeros(1, 1))], **self.optimiser_arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"optimiser_settings: {self.optimiser}: {error}") from None
        return self

    @model_validator(mode="after")
    def _drops_fit(self) -> "Training":
        if (self.drops is not None) != (self.schedule == "drops"):
            raise ValueError('schedule = "drops" and drops = [[EPOCH, FACTOR], ...] go together')
        drops = self.drops or []
        if any(len(drop) != 2 for drop in drops) or drops != sorted(drops, key=lambda drop: drop[0]):
            raise ValueError("drops: write [[EPOCH, FACTOR], ...] with growing epochs, as in [[100, 0.1], [150, 0.01]]")
        if drops and drops[-1][0] >= self.epochs:
            raise ValueError(
                f"drops: that at epoch {drops[-1][0]:g} is never reached with epochs={self.epochs}: set both"
            )
        if self.warm_up is not None and self.schedule == "one_cycle":
            raise ValueError("warm_up: one_cycle has its own")
        if self.warm_up is not None and self.warm_up > self.epochs:
            raise ValueError(f"warm_up: longer than the training, which has {counted(self.epochs, 'epoch')}")
        return self

    @property
    def optimiser_class(self) -> type[torch.optim.Optimizer]:
        return optimisers()[self.optimiser]

    @property
    def optimiser_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the class that belong to the recipe, not to the machine."""
        arguments: dict[str, Any] = {"lr": self.learning_rate}
        if "weight_decay" in inspect.signature(self.optimiser_class).parameters:
            arguments["weight_decay"] = self.weight_decay
        if self.optimiser == "sgd":
            arguments |= {"momentum": 0.9, "nesterov": self.nesterov is not False}
        for key, value in (self.optimiser_settings or {}).items():
            arguments[key] = tuple(value) if isinstance(value, list) else value  # TOML knows no tuples
        return arguments


def optimisers() -> dict[str, type[torch.optim.Optimizer]]:
    """Those that a suite can name."""
    classes = inspect.getmembers(torch.optim, inspect.isclass)
    of_torch = {name: cls for name, cls in classes if issubclass(cls, torch.optim.Optimizer) and name not in UNFIT}
    return OURS | of_torch
