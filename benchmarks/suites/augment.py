"""Augmentation by the recipe: the same random changes of the training images for every method.

A suite names the transforms in `training.augment`. Each takes the batch as a whole, on the device. Random numbers are
drawn on the CPU: they are the same on every device, and where images are grouped by what happens to them, the host need
not wait for the device.
"""

from typing import Any

import torch
from pydantic import (
    RootModel,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)
from torch import Tensor

from marginbench.benchmarks.data.scan import TRANSFORMS, Transform
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import suggest
from marginbench.methods.userfile import BUILT_IN


class Augment(RootModel[dict[str, dict[str, Any]]]):
    """The transforms of a suite: a list of names, or a table of settings by name. Their order makes no difference.

    It holds the settings alone: another process can read it before it has loaded the plug-ins.
    """

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, list):
            value = {str(name): {} for name in value}
        if not isinstance(value, dict):
            return value
        if not value:
            raise ValueError(f"empty: {suggest('', TRANSFORMS)}")
        for name in value:
            if name not in TRANSFORMS:
                raise ValueError(f"unknown transform {name!r}: {suggest(name, TRANSFORMS)}")
        fields: dict[str, Any] = {name: (TRANSFORMS[name], ...) for name in value}
        return create_model("Transforms", **fields)(**value).model_dump()

    @classmethod
    def inside(cls, name: str) -> type[Transform]:
        """What its key `name` holds, for error messages about that."""
        return TRANSFORMS[name]

    @model_serializer(mode="wrap")
    def _versioned(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it enters records and hashes: with the source of what is not built in."""
        values = handler(self)
        for name in self.root:
            if (source := TRANSFORMS.source(name)) is not None:
                values[name] = {**values[name], "source": source}
        return dict(values)

    def __call__(self, x: Tensor, fill: Tensor, stream: torch.Generator) -> Tensor:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            for change in self.transforms.values():
                x = change(x, fill, stream)
        return x

    def check(self, x: Tensor, fill: Tensor) -> None:
        """Ask the transforms from outside for what the contract promises, on a few images.

        Raises:
            MarginbenchError: another shape or type, pixels outside of [0, 1], or randomness that is not the stream's.
        """
        for name, change in self.transforms.items():
            if not type(change).__module__.startswith(BUILT_IN):
                _check(name, change, x, fill)

    @property
    def transforms(self) -> dict[str, Transform]:
        """By name, in the order in which they are applied."""
        made = {name: TRANSFORMS.find(name, "transform")(**settings) for name, settings in self.root.items()}
        return dict(sorted(made.items(), key=lambda item: (item[1].place, item[0])))


@torch.no_grad()
def _check(name: str, change: Transform, x: Tensor, fill: Tensor) -> None:
    out, again = (change(x.clone(), fill, torch.Generator().manual_seed(0)) for _ in range(2))
    if not isinstance(out, Tensor) or (out.shape, out.dtype, out.device) != (x.shape, x.dtype, x.device):
        found = f"{out.dtype} {list(out.shape)} on {out.device}" if isinstance(out, Tensor) else type(out).__name__
        problem = f"{x.dtype} {list(x.shape)} on {x.device} became {found}"
    elif not bool(((out >= 0) & (out <= 1)).all()):
        problem = "images should stay in [0, 1]: end with .clamp(0, 1)"
    elif not torch.equal(out, again):
        problem = "draw all random numbers from `stream`: with equal streams the images differ"
    else:
        return
    raise MarginbenchError(f"transform {name!r}: {problem}")
