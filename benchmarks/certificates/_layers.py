"""The layers that networks are rewritten into: auto-LiRPA traces them into operations whose bounds are right."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.certificates._curves import CURVES, Curve
from marginbench.methods.maths.lipschitz import Bounded

CURVED, LARGEST, MOVED = (f"marginbench::{name}" for name in ("Curved", "Largest", "Moved"))  # operations in a trace


class Simple(nn.Sequential):
    """A network of layers that certificates know, as `simplified` makes it."""


class Reshape(Bounded):
    """[B, ...] to [B, *shape], row by row."""

    in_words = "a reshape"

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.flattens = len(shape) == 1 and shape != (1,)  # a number per image, [B], has no dimension to flatten

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if self.flattens else x.reshape(-1, *self.shape)

    def lipschitz(self, x: Tensor) -> float:
        return 1.0


class PerChannel(nn.Module):
    """scale x + shift, with one number [C] each per channel, or per feature where `flat`."""

    in_words = "a factor for each channel"
    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor, flat: bool) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.flat = flat

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 2))
        return self.scale.view(shape) * x + self.shift.view(shape)


class Shift(Bounded):
    """x + constant, with a constant [1, ...] for each entry."""

    in_words = "a constant that is added"
    constant: Tensor

    def __init__(self, constant: Tensor) -> None:
        super().__init__()
        self.register_buffer("constant", constant)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.constant

    def lipschitz(self, x: Tensor) -> float:
        return 1.0


class Curved(Bounded):
    """f(x) entry by entry, for a function of `CURVES` and its parameters."""

    def __init__(self, kind: str, *parameters: float) -> None:
        super().__init__()
        self.text = " ".join([kind, *(repr(float(value)) for value in parameters)])
        self.in_words = kind

    def forward(self, x: Tensor) -> Tensor:
        if not torch._C._get_tracing_state():
            return curve_of(self.text).function(x)
        out: Tensor = _CurvedOperation.apply(x, self.text)
        return out

    def lipschitz(self, x: Tensor) -> float | None:
        steep = curve_of(self.text).steep
        return steep if math.isfinite(steep) else None


def curve_of(text: str) -> Curve:
    """The function of a text as in "elu 1.0 1.0 1.0"."""
    kind, *parameters = text.split()
    return CURVES[kind](*map(float, parameters))


class Largest(nn.Module):
    """[B, C n, H, W] to the same shape: of every n neighbouring channels the largest is kept, the others become 0.

    So their sum is the maximum. `valid` [1, n, H, W], 1 or 0, says which take part.
    """

    in_words = "a maximum, as in max pooling"
    valid: Tensor

    def __init__(self, valid: Tensor) -> None:
        super().__init__()
        self.register_buffer("valid", valid)

    def forward(self, x: Tensor) -> Tensor:
        if not torch._C._get_tracing_state():
            return largest(x, self.valid)
        out: Tensor = _LargestOperation.apply(x, self.valid)
        return out


def largest(x: Tensor, valid: Tensor) -> Tensor:
    """See `Largest`."""
    groups = grouped(x, valid)
    candidates = groups.masked_fill(valid.unsqueeze(1) == 0, -torch.inf)
    first = candidates.argmax(2, keepdim=True)
    kept: Tensor = torch.zeros_like(groups).scatter(2, first, groups.gather(2, first)).view_as(x)
    return kept


def grouped(x: Tensor, valid: Tensor) -> Tensor:
    """[B, C n, H, W] as [B, C, n, H, W]."""
    groups: Tensor = x.unflatten(1, (-1, valid.shape[1]))
    return groups


class Moved(Bounded):
    """weight x[index]: [B, ...] to [B, *index.shape], with int64 numbers of the entries of an image, row by row."""

    in_words = "a rearrangement of large maps"
    index: Tensor
    weight: Tensor

    def __init__(self, index: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        if not torch._C._get_tracing_state():
            return moved(x, self.index, self.weight)
        out: Tensor = _MovedOperation.apply(x, self.index, self.weight)
        return out

    def lipschitz(self, x: Tensor) -> Tensor:
        """Exact: the columns of the matrix are orthogonal, for every entry of the result is one of x."""
        squares = torch.zeros(x[0].numel(), dtype=torch.float64, device=x.device)
        weight = self.weight.double().expand(self.index.shape)
        return squares.index_add(0, self.index.flatten(), weight.flatten().square()).max().sqrt()


def moved(x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """See `Moved`."""
    return weight * x.flatten(1)[:, index]


class _CurvedOperation(torch.autograd.Function):
    @staticmethod
    def symbolic(g: Any, x: Any, text: str) -> Any:
        return g.op(CURVED, x, curve_s=text).setType(x.type())

    @staticmethod
    def forward(ctx: Any, x: Tensor, text: str) -> Tensor:
        return curve_of(text).function(x)


def _operation(name: str, function: Callable[..., Tensor]) -> Any:
    """A function of values and constant tensors, under its name in a trace."""

    class Operation(torch.autograd.Function):
        @staticmethod
        def symbolic(g: Any, x: Any, *constants: Any) -> Any:
            return g.op(name, x, *constants).setType(x.type())

        @staticmethod
        def forward(ctx: Any, x: Tensor, *constants: Tensor) -> Tensor:
            return function(x, *constants)

    return Operation


_LargestOperation, _MovedOperation = _operation(LARGEST, largest), _operation(MOVED, moved)
