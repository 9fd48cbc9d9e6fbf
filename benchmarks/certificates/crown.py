"""Certified radii by bound propagation (IBP, CROWN-IBP, CROWN, alpha-CROWN) through auto-LiRPA.

Within a certified radius no image of the box [0, 1] has another predicted class, in the norm asked for.
"""

import contextlib
import copy
import io
import logging
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from marginbench.benchmarks.certificates._ball import ball
from marginbench.benchmarks.certificates._compat import FastTranspose, load_auto_lirpa
from marginbench.benchmarks.certificates._memory import Footprint
from marginbench.benchmarks.certificates._record import Unbounded
from marginbench.benchmarks.certificates._search import Limits, largest_verified
from marginbench.benchmarks.certificates._soundness import UnsoundError, check_at_images, check_in_balls
from marginbench.benchmarks.certificates._trace import bounded_module, prepared
from marginbench.benchmarks.certificates.certificate import Needs, certificate
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.benchmarks.machine.device import precision_of
from marginbench.benchmarks.machine.memory import Chunks, does_not_fit, out_of_memory
from marginbench.methods import logit_margin
from marginbench.methods.errors import ParameterError
from marginbench.methods.maths.rounding import SAFETY, in_reach, logit_allowance

log = logging.getLogger(__name__)
Bound = Literal["IBP", "CROWN-IBP", "CROWN", "alpha-CROWN"]  # auto-LiRPA's names
Slope = Literal["adaptive", "same-slope", "zero-lb", "one-lb"]
ConvMode = Literal["auto", "dense", "patches", "matrix"]
At = Literal["search", "epsilon"]

AUTO_LIRPA = Needs("auto_LiRPA", "install auto-LiRPA: pip install --no-deps auto-lirpa appdirs setuptools")
LOST = "rounding in float32 may move the logits by more than every logit gap"
UNITS = 1e12  # and its inverse: logits of such sizes are bounded as they are
ROUNDING = 1e-6  # relative and absolute; the edge of a float32 box differs from x + epsilon by less


@certificate(needs=AUTO_LIRPA)
def ibp(
    q: Query,
    *,
    conv_mode: ConvMode = "auto",
    rounds: PositiveInt = 8,
    tolerance: PositiveFloat = 0.01,
    at: At = "search",
) -> Tensor | Answer:
    """Interval bounds; settings as in `Search`."""
    return certified_radius(q, Search("IBP", None, conv_mode, rounds, tolerance, at=at))


@certificate(needs=AUTO_LIRPA)
def crown_ibp(
    q: Query,
    *,
    conv_mode: ConvMode = "auto",
    rounds: PositiveInt = 8,
    tolerance: PositiveFloat = 0.01,
    at: At = "search",
) -> Tensor | Answer:
    """CROWN from interval bounds of the hidden layers; settings as in `Search`."""
    return certified_radius(q, Search("CROWN-IBP", None, conv_mode, rounds, tolerance, at=at))


@certificate(needs=AUTO_LIRPA, exact_on_linear=True)
def crown(
    q: Query,
    *,
    conv_mode: ConvMode = "auto",
    rounds: PositiveInt = 8,
    tolerance: PositiveFloat = 0.01,
    at: At = "search",
) -> Tensor | Answer:
    """CROWN (Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv 1811.00866); settings as in `Search`."""
    return certified_radius(q, Search("CROWN", None, conv_mode, rounds, tolerance, at=at))


@certificate(needs=AUTO_LIRPA)
def alpha_crown(
    q: Query,
    *,
    conv_mode: ConvMode = "auto",
    rounds: PositiveInt = 8,
    tolerance: PositiveFloat = 0.01,
    iterations: PositiveInt = 10,
    at: At = "search",
) -> Tensor | Answer:
    """CROWN with optimised slopes (Xu et al., ICLR 2021, arXiv 2011.13824); settings as in `Search`."""
    search = Search("alpha-CROWN", None, conv_mode, rounds, tolerance, iterations=iterations, at=at)
    return certified_radius(q, search)


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


def certified_radius(q: Query, search: Search) -> Tensor | Answer:
    """The largest radius found at which lower bounds of all z_y - z_j, j != y, are positive.

    Distances `q.upper` of adversarial examples only choose where the search starts: a certified radius above them
    must stay visible, since it is a contradiction. Radii `q.at` are checked without the slack for rounding: they are
    meant for float64. Bounds are lowered by what rounding in float32 may move, which is measured: see
    `logit_allowance`; to that comes what it moves the bounds at radius 0.

    Bounds that are none are refused: at all images those at radius 0 must be the logit gaps, and around some images
    those of all neurons must hold what the network computes: see `_soundness.py`.

    Args:
        q: about the layers of `Net.decision_net()`, which gives the tightest bounds. Images may be flat, [B, D].

    Returns:
        [B] radii of the type of x, 0 for a wrong prediction, on the device of x; or why there are none.
    """
    with torch.no_grad(), precision_of(q.x):
        q = _in_common_units(q)
        margin = logit_margin(q.net(q.x), q.y)
        allowance = logit_allowance(q.net, q.x, q.epsilon, q.norm)
        right = margin > 0
        correct = (right & (margin > (allowance.amin(1) if q.at is None else 0))).nonzero().squeeze(1)
        radius = torch.zeros_like(margin)
        if len(correct) == 0:
            return Answer(reason=_lost(q, search)) if bool(right.any()) else radius
        if bool(margin[correct].isinf().any()):
            return Answer(reason="bounds need logits that are finite")
        try:
            library = load_auto_lirpa()
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == AUTO_LIRPA.module
            reason = "" if missing else f" ({error})"
            return Answer(reason=f"{AUTO_LIRPA.advice}{reason}")
        facts = q.rows(correct), margin[correct], allowance[correct]
        try:
            try:
                radius[correct] = _radii(library, *facts, search)
            except Exception as error:
                if search.conv_mode != "auto" or isinstance(error, Unbounded | UnsoundError) or out_of_memory(error):
                    raise
                log.debug("auto-LiRPA fails with patches", exc_info=error)  # as where two streams meet
                radius[correct] = _radii(library, *facts, replace(search, conv_mode="matrix"))
        except Exception as error:  # auto-LiRPA raises whatever it likes for a layer that it does not know
            return Answer(reason=does_not_fit(error, q.x.device) if out_of_memory(error) else _reason(error))
        return radius


def _in_common_units(q: Query) -> Query:
    """The same about logits times a power of 2, where they are so large or small that their squares leave float32."""
    logits = q.net(q.x)
    size = float(logits.abs().where(in_reach(logits), 0).max()) if len(q.x) else 0.0
    last = q.layers[-1] if len(q.layers) else None
    if 1 / UNITS <= size <= UNITS or not 0 < size < torch.inf or not isinstance(last, nn.Linear):
        return q
    factor = 2.0 ** -round(math.log2(size))
    scaled = copy.deepcopy(last)
    for parameter in scaled.parameters():
        parameter.mul_(factor)
    return replace(q, net=nn.Sequential(*q.layers[:-1], scaled).eval())


def _radii(library: ModuleType, q: Query, margin: Tensor, allowance: Tensor, search: Search) -> Tensor:
    """The radii [B] of images with these margins [B] and allowances [B, K], of which the bounds have been checked.

    Raises:
        UnsoundError: the bounds are wrong.
    """
    bounds = Bounds(library, q, search)
    error = check_at_images(bounds, q, margin, allowance.amin(1))
    if q.at is None:
        bounds.slack = allowance + SAFETY * error
    if q.at is None and search.at == "search":
        found = _search(bounds, q, margin - bounds.slack.amin(1), search)
    else:
        radius, asked = (_epsilon(q), _widened(q)) if q.at is None else (q.at.to(margin), q.at.to(margin))
        holds = bounds.margin(asked, torch.arange(len(asked), device=asked.device), search.bound) > 0
        found = torch.where(holds, radius, 0)
    check_in_balls(bounds, q, found)
    return found


def _search(bounds: "Bounds", q: Query, at_zero: Tensor, search: Search) -> Tensor:
    cap = 1.0 if q.norm == "linf" else q.x[0].numel() ** 0.5  # of the box [0, 1]
    linear = _linear_radius(bounds, at_zero, search.bound, cap)
    found = largest_verified(
        lambda epsilon, index: bounds.margin(epsilon, index, search.bound),
        at_zero,
        linear,
        torch.full_like(linear, torch.inf) if q.upper is None else q.upper.to(linear),
        Limits(cap, search.rounds, search.tolerance),
    )
    return (found * (1 - ROUNDING) - ROUNDING).clamp(min=0)


def _epsilon(q: Query) -> Tensor:
    """[B], the suite's radius."""
    return torch.full_like(q.y, q.epsilon, dtype=q.x.dtype)


def _widened(q: Query) -> Tensor:
    """[B] radii from which rounding leaves the suite's radius, as `certified_radius` takes it off what it has found."""
    return (_epsilon(q) + ROUNDING) / (1 - ROUNDING)


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


def _linear_radius(bounds: Bounds, at_zero: Tensor, method: Bound, cap: float) -> Tensor:
    """[B] where the margin would vanish if it kept falling as it does near zero."""
    tiny = torch.full_like(at_zero, 1e-4 * cap)
    cheap: Bound = method if method == "IBP" else "CROWN-IBP"
    margin = bounds.margin(tiny, torch.arange(len(at_zero), device=at_zero.device), cheap)
    failed = (margin <= 0).nonzero().squeeze(1)  # of deep networks intervals know nothing even there
    if method != cheap and len(failed):
        margin[failed] = bounds.margin(tiny[failed], failed, method)
    drop = at_zero - margin
    radius = tiny * at_zero / drop
    return torch.where((drop > 0) & radius.isfinite(), radius, 0.1 * cap).clamp(max=cap)


def _lost(q: Query, search: Search) -> str:
    """Why no logit gap can be told from 0. Random numbers look like rounding until operations are recorded."""
    if torch.equal(q.net(q.x), q.net(q.x)):
        return LOST
    try:
        prepared(q.layers, q.x, search.limit)
    except Exception as error:
        return _reason(error)
    return "the model answers differently when it is asked again"


def _reason(error: Exception) -> str:
    """Why there is no certificate, without internals of auto-LiRPA; these are logged."""
    if isinstance(error, Unbounded | UnsoundError):
        return str(error)
    log.debug("auto-LiRPA failed", exc_info=error)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [type(frame.f_locals.get("self")).__name__ for frame in frames if "operators" in frame.f_code.co_filename]
    bounds = [name.removeprefix("Bound") for name in names if name.startswith("Bound")]
    return f"auto-LiRPA fails on this network{f', at an operation of the kind {bounds[-1]}' if bounds else ''}"
