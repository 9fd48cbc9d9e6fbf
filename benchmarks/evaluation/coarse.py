"""In which type a network computes, and what its rounding does to values and slopes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from marginbench.benchmarks.evaluation.evidence import Evidence

NEIGHBOURS = 4  # of each image, between which rounding decides


def coarsest_type(net: nn.Module, x: Tensor) -> torch.dtype:
    """The floating type with the fewest digits among the results of all operations on the images x, and x itself."""
    with torch.no_grad(), _Types() as seen:
        net(x)
    kinds: list[torch.dtype] = [x.dtype, *seen.found]
    return max(kinds, key=lambda kind: torch.finfo(kind).eps)


def is_coarse(kind: torch.dtype) -> bool:
    """Coarser than float32."""
    return torch.finfo(kind).eps > torch.finfo(torch.float32).eps


def hardly_measurable(e: Evidence) -> str | None:
    """Why `gradient_mismatch` sees only the worst of what it looks for, or None where it sees all."""
    kind = coarsest_type(e.net, e.x[:1])
    if not is_coarse(kind):
        return None
    name = str(kind).removeprefix("torch.")
    return f"the network computes in {name}, which rounds small differences away: only gradients far off would be seen"


def spread(gap: Callable[[Tensor], Tensor], x: Tensor, kind: torch.dtype) -> Tensor:
    """[B], by how much a function of images differs among neighbours that the type can hardly tell apart."""
    if kind == torch.float64:
        return x.new_zeros(len(x))
    stream, unit = torch.Generator().manual_seed(2), torch.finfo(kind).eps
    moved = [x + unit * (torch.rand(x.shape, generator=stream).to(x) - 0.5) for _ in range(NEIGHBOURS)]
    values = torch.stack([gap(point).to(x) for point in moved])
    return values.amax(0) - values.amin(0)


class _Types(TorchDispatchMode):
    """A block in which the floating types of all results are noted, also of casts that autocast makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.found |= {leaf.dtype for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.is_floating_point()}
        return out
