"""Certified radii by bound propagation (IBP, CROWN-IBP, CROWN, alpha-CROWN) through auto-LiRPA.

Within a certified radius no image of the box [0, 1] has another predicted class, in the norm asked for.
"""

import copy
import logging
import math
import traceback
from dataclasses import replace
from types import ModuleType

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from marginbench.benchmarks.certificates._bounds import At, Bound, Bounds, ConvMode, Search
from marginbench.benchmarks.certificates._compat import load_auto_lirpa
from marginbench.benchmarks.certificates._record import Unbounded
from marginbench.benchmarks.certificates._search import Limits, largest_verified
from marginbench.benchmarks.certificates._soundness import UnsoundError, check_at_images, check_in_balls
from marginbench.benchmarks.certificates._trace import prepared
from marginbench.benchmarks.certificates.certificate import certificate
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.benchmarks.extras import Needs
from marginbench.benchmarks.machine.device import precision_of
from marginbench.benchmarks.machine.memory import does_not_fit, out_of_memory
from marginbench.methods import logit_margin
from marginbench.methods.maths.rounding import SAFETY, in_reach, logit_allowance

log = logging.getLogger(__name__)

AUTO_LIRPA = Needs("auto_LiRPA", "install auto-LiRPA: pip install --no-deps auto-lirpa appdirs setuptools")
LOST = "rounding in float32 may move the logits by more than every logit gap"
FEW = 4  # images that tell how far intervals fall too fast
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
    if q.at is None:  # else it was done when these radii were found
        check_in_balls(bounds, q, found)
    return found


def _search(bounds: Bounds, q: Query, at_zero: Tensor, search: Search) -> Tensor:
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


def _linear_radius(bounds: Bounds, at_zero: Tensor, method: Bound, cap: float) -> Tensor:
    """[B] where the margin would vanish if it kept falling as it does near zero.

    That is asked with intervals, which are cheap, and corrected by what the method itself says of a few images: in L2
    the box of the ball makes intervals fall ten times too fast. Of deep networks they may know nothing.
    """
    cheap: Bound = method if method == "IBP" else "CROWN-IBP"
    every = torch.arange(len(at_zero), device=at_zero.device)

    def radius_of(index: Tensor, bound: Bound) -> Tensor:
        tiny = torch.full_like(at_zero[index], 1e-4 * cap)
        drop = at_zero[index] - bounds.margin(tiny, index, bound)
        known = (drop > 0) & (drop < at_zero[index])
        return torch.where(known, tiny * at_zero[index] / drop, torch.nan)

    radius = radius_of(every, cheap)
    if method != cheap:
        unknown = radius.isnan()
        few = ~unknown & ((~unknown).cumsum(0) <= FEW)
        asked = (unknown | few).nonzero().squeeze(1)
        exact = torch.full_like(radius, torch.nan)
        exact[asked] = radius_of(asked, method)
        radius = torch.where(unknown, exact, radius * (exact / radius).nanmedian().nan_to_num(nan=1.0))
    return radius.nan_to_num(nan=0.1 * cap).clamp(max=cap)


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
