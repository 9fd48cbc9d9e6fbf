"""Lower bounds of logit differences over a ball, by auto-LiRPA: which bound, and the network prepared for it."""

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from marginbench.benchmarks.certificates._ball import ball
from marginbench.benchmarks.certificates._compat import FastTranspose
from marginbench.benchmarks.certificates._memory import Footprint
from marginbench.benchmarks.certificates._trace import bounded_module, prepared
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.machine.memory import Chunks
from marginbench.methods.errors import ParameterError

Bound = Literal["IBP", "CROWN-IBP", "CROWN", "alpha-CROWN"]  # auto-LiRPA's names
Slope = Literal["adaptive", "same-slope", "zero-lb", "one-lb"]
ConvMode = Literal["auto", "dense", "patches", "matrix"]
At = Literal["search", "epsilon"]


@dataclass(frozen=True)
class Search:
    """Which bound, and how its largest radius is sought."""

    bound: Bound
    slopes: Sequence[Slope] | None = None
    """Lower slopes of the ReLU relaxation; the best bound of every logit difference counts, and each is a full
    computation. By default `adaptive`, as in the CROWN paper. alpha-CROWN optimises the slopes from these on; where
    torch passes no gradient through the edges of `clamp`, its default is `same-slope`: the others start on the edges
    and would stay there."""
    conv_mode: ConvMode = "auto"
    """`dense` multiplies the network out into matrices, `patches` and `matrix` leave convolutions to auto-LiRPA; `auto`
    is `dense` on small images and `patches` on others, or `matrix` where auto-LiRPA fails with patches."""
    rounds: int = 8  # bound computations per image at most
    tolerance: float = 0.01  # of the search, relative
    chunk: int | None = None
    """Images per bound computation, fewer when memory runs out; by default what `_memory.Footprint` says."""
    iterations: int = 10  # steps of alpha-CROWN
    at: At = "search"
    """`epsilon` bounds every image once, at the suite's radius, which is its radius where it is verified, and else 0:
    certified accuracy is that of a search, at a fraction of its cost, and mean radii are lower."""
    watch: Callable[[Bound, Tensor], None] | None = None
    """Called with the bound and the indices of the images, among those predicted correctly, at every computation."""

    def __post_init__(self) -> None:
        if self.bound not in get_args(Bound):
            raise ParameterError("bound", self.bound, f"choose one of {', '.join(get_args(Bound))}")
        if self.conv_mode not in get_args(ConvMode):
            raise ParameterError("conv_mode", self.conv_mode, f"choose one of {', '.join(get_args(ConvMode))}")

    @property
    def limit(self) -> int:
        """Entries of weights up to which a network is multiplied out into matrices."""
        return {"auto": 2**20, "dense": 2**62}.get(self.conv_mode, 0)

    def options(self, slope: Slope) -> dict[str, Any]:
        """auto-LiRPA's, with one of the lower slopes."""
        chosen = {"conv_mode": self.conv_mode} if self.conv_mode in ("patches", "matrix") else {}
        return {
            **chosen,
            "relu": slope,  # the name in auto-LiRPA 0.3
            "activation_bound_option": slope,  # and in 0.7
            "sparse_features_alpha": False,  # 0.3 mixes up the neurons of two passes
            "sparse_spec_alpha": False,
            "optimize_bound_args": {"iteration": self.iterations},
        }

    @property
    def all_slopes(self) -> Sequence[Slope]:
        """The slopes, or their default."""
        if self.slopes is not None:
            return self.slopes
        return ["same-slope" if self.bound == "alpha-CROWN" and not _clamp_passes_edges() else "adaptive"]


class Bounds:
    """Lower bounds of the worst logit difference; the networks are prepared once.

    Args:
        library: auto-LiRPA.
        q: the network and images; its norm is that of the balls.
    """

    slack: Tensor
    """[B, K], 0 at first: by class, what is taken off the bounds of the gaps to it."""

    def __init__(self, library: ModuleType, q: Query, search: Search) -> None:
        self.library, self.norm, self.search = library, q.norm, search
        self.images = q.x
        self.ball: Callable[..., Any] = partial(ball, library)
        net, x = prepared(q.layers, q.x, search.limit)
        self.x, self.label, self.logits = x, q.y, net(x[:1])
        self.modules = [bounded_module(library, net, x, search.options(slope)) for slope in search.all_slopes]
        self.slack = q.x.new_zeros(len(q.x), self.logits.shape[1])
        self.footprint = Footprint(self.modules[0], x, self.logits.shape[1])
        self.chunks = Chunks(search.chunk or self.footprint.chunk())
        if q.norm == "l2":
            for module in self.modules:  # its shortcut for the first layer, an interval, ignores the box
                module.check_IBP_first_linear = lambda node: False

    def again(self, q: Query) -> "Bounds":
        """The same bounds, without slack, of a network and images like these, in their type; of fewer at once."""
        chunk = max(1, self.chunks.size * self.x.element_size() // q.x.element_size())
        return Bounds(self.library, q, replace(self.search, watch=None, chunk=chunk))

    def margin(self, epsilon: Tensor, index: Tensor, method: Bound) -> Tensor:
        """[b] lower bounds of min_j z_label - z_j, less the slack, over the balls of radii epsilon [b].

        -inf instead of NaN.
        """
        if self.search.watch is not None:
            self.search.watch(method, index)
        parts = self.chunks.map(lambda part: self._margin(epsilon[part], index[part], method), len(index))
        margin = torch.cat(parts)
        return torch.where(margin.isfinite(), margin, -torch.inf)

    def specification(self, index: Tensor) -> Tensor:
        """[b, K-1, K], the logit differences of these images."""
        return _specification(self.label[index], self.logits)

    def _margin(self, epsilon: Tensor, index: Tensor, method: Bound) -> Tensor:
        x, c = self.x[index], self.specification(index)
        lower = []
        for module in self.modules:
            # a new set for every pass: auto-LiRPA writes into it; made outside the guard, which knows no subclasses
            perturbed = self.library.BoundedTensor(x, self.ball(x, epsilon, self.norm))
            with (
                torch.set_grad_enabled(method == "alpha-CROWN"),
                contextlib.redirect_stdout(io.StringIO()),
                FastTranspose(),
                self.footprint.guard(len(x), method == "alpha-CROWN"),
            ):
                # without slopes to optimise alpha-CROWN is CROWN, and auto-LiRPA fails
                bound = method if method != "alpha-CROWN" or module.optimizable_activations else "CROWN"
                bounds, _ = module.compute_bounds(x=(perturbed,), C=c, method=bound, bound_upper=False)
            lower.append(bounds.detach())
        slack = self.slack[index].gather(1, _rivals(self.label[index], self.logits))
        return (torch.stack(lower).amax(0) - slack).amin(1)


def _specification(label: Tensor, logits: Tensor) -> Tensor:
    """[B, K-1, K] with rows e_label - e_j for all j != label, of the type of logits [B, K]."""
    classes = logits.shape[1]
    unit = torch.eye(classes, dtype=logits.dtype, device=logits.device)
    return unit[label].unsqueeze(1) - unit[_rivals(label, logits)]


def _rivals(label: Tensor, logits: Tensor) -> Tensor:
    """[B, K-1] int64, all classes but the label [B], of logits [B, K]."""
    classes = logits.shape[1]
    return (label.unsqueeze(1) + torch.arange(1, classes, device=label.device)) % classes


def _clamp_passes_edges() -> bool:
    """Whether `clamp` has slope 1 at its limits; in torch 2.15 it has slope 0."""
    with torch.enable_grad():
        edge = torch.zeros(1, requires_grad=True)
        (slope,) = torch.autograd.grad(edge.clamp(0, 1), edge)
    return bool(slope)
