"""Do auto-LiRPA's bounds bound? Asked in every run, of the very network: no fault of its operations may pass.

At radius 0 the lower bound of a logit gap is that gap: another number means a wrong operation or a wrong trace. Faults
of relaxations show only where neurons cross their kinks. So around some images, at the radii certified, the values of
all neurons at points of the ball are compared with the bounds of these neurons.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import attached
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.machine.device import precision_of
from marginbench.methods import Norm, logit_margin
from marginbench.methods.maths.perturb import pgd
from marginbench.methods.maths.rounding import corner, double_copy, in_reach

if TYPE_CHECKING:
    from marginbench.benchmarks.certificates._bounds import Bound, Bounds

ROUNDINGS = 10  # times what float32 may move: a bound that is further from the truth is asked for in float64
CHECKED = 8  # images around which the bounds of all neurons are compared with values
NEAR = 1e-7  # pixels; some formulas know radius 0 as a special case
POINTS = 6  # of each kind, for every image
STEPS = 8  # of the points that walk to another class
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}  # relative to the largest value of an operation


NONE = torch.zeros(0, dtype=torch.int64)


class UnsoundError(Exception):
    """What auto-LiRPA calls bounds are none; the text says how that was seen, for the user."""

    def __init__(self, seen: str, wrong: Tensor = NONE, error: float = torch.inf) -> None:
        super().__init__(f"the bounds of an operation of this network are wrong: {seen}")
        self.wrong = wrong  # indices of the images
        self.error = error  # the largest


def check_at_images(bounds: "Bounds", q: Query, margin: Tensor, allowance: Tensor) -> float:
    """How far bounds at radius 0, or next to it, are from the truth; what float32 leaves in doubt is asked in float64.

    Args:
        bounds: of these images, without slack.
        margin: [B], least logit gaps of the network.
        allowance: [B], what float32 may move them.

    Raises:
        UnsoundError: further than rounding explains.
    """
    try:
        return _error_at_images(bounds, margin, ROUNDINGS * allowance)
    except UnsoundError as seen:
        few = seen.wrong[:CHECKED]
        some = _in_double(q.rows(few))
        if some is None:
            raise
        with precision_of(some.x):
            try:
                exact, again = logit_margin(some.net(some.x), some.y), bounds.again(some)
            except Exception:  # a type written into its code
                raise seen from None
            _error_at_images(again, exact, allowance[few].double())
        return seen.error


def _error_at_images(bounds: "Bounds", margin: Tensor, limit: Tensor) -> float:
    method: Bound = bounds.search.bound if bounds.search.bound == "IBP" else "CROWN-IBP"  # which is cheap
    index = torch.arange(len(margin), device=margin.device)
    at_zero, near = (bounds.margin(torch.full_like(margin, radius), index, method) for radius in (0.0, NEAR))
    error = torch.maximum((at_zero - margin).abs(), near - margin)
    wrong = (~(error <= limit)).nonzero()[:, 0]
    if len(wrong):
        i = int(wrong[0])
        seen = f"a logit gap of {float(margin[i]):.6g} has the lower bound {float(at_zero[i]):.6g}"
        raise UnsoundError(f"at {len(wrong)} of {len(margin)} images, where {seen}", wrong, float(error.max()))
    return float(error.max())


def check_in_balls(bounds: "Bounds", q: Query, radius: Tensor) -> None:
    """Compare the bounds over some of the balls with what the network computes at points of these balls.

    In float64 where the network has a copy there, in which rounding hides nothing.

    Args:
        bounds: of the same network and images.
        radius: [B]; of balls with radius 0 nothing is asked.

    Raises:
        UnsoundError: a value lies outside its bounds.
    """
    sample = (radius > 0).nonzero()[:, 0]
    sample = sample[:: max(1, len(sample) // CHECKED)][:CHECKED]
    if len(sample) == 0:
        return
    q = q.rows(sample)
    precise = _in_double(q)
    for query in [q] if precise is None else [precise, q]:
        with precision_of(query.x):
            try:
                _check_balls(bounds.again(query), query.net, query.y, radius[sample].to(query.x))
            except UnsoundError:
                raise
            except Exception:  # a type written into its code
                if query is q:
                    raise
            else:
                return


def _in_double(q: Query) -> Query | None:
    net = double_copy(q.net) if q.x.dtype == torch.float32 else None
    return None if net is None else replace(q, net=net, x=q.x.double())


def _check_balls(bounds: "Bounds", net: nn.Module, y: Tensor, radius: Tensor) -> None:
    start = 0
    while start < len(radius):
        part = torch.arange(start, min(start + bounds.chunks.size, len(radius)), device=radius.device)
        with _lines(bounds) as lines:
            bounds.margin(radius[part], part, bounds.search.bound)
        if bounds.chunks.size < len(part):  # memory was short: what is left is of some of the images
            continue
        start += len(part)
        enclosures = [_enclosures(module) for module in bounds.modules]
        x = _points(net, bounds.images[part], y[part], radius[part], bounds.norm)
        logits = net(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        gaps = (bounds.specification(part) @ logits.unsqueeze(-1)).squeeze(-1)
        size = _sizes(logits, bounds.specification(part))
        for module, known, line in zip(bounds.modules, enclosures, lines, strict=True):
            _compare(line(x), None, gaps, size, "logit gap")
            module(x.view(-1, *bounds.x.shape[1:]))
            for name, (low, high) in known.items():
                values = module[name].forward_value.unflatten(0, x.shape[:2])
                operation = type(module[name]).__name__.removeprefix("Bound")
                _compare(low, high, values, values.abs().max(), operation)


@contextmanager
def _lines(bounds: "Bounds") -> Iterator[list[Callable[[Tensor], Tensor]]]:
    """A block in which bounds are computed; then the list has, for every network, what bounds the gaps from below.

    These are functions of points [P, B, ...] to [P, B, S], or to the bounds [B, S] of the whole ball, for intervals.
    """
    lines: list[Callable[[Tensor], Tensor]] = []
    balls: list[Any] = []
    make = bounds.ball

    def watched(*args: Any) -> Any:
        found = make(*args)
        concretize = found.concretize

        def noted(x: Tensor, A: Any, sign: int = -1, **other: Any) -> Any:  # noqa: N803
            value = concretize(x, A, sign=sign, **other)
            if sign == -1:
                found.noted = A, value
            return value

        found.concretize, found.noted = noted, None
        balls.append(found)
        return found

    bounds.ball = watched
    try:
        yield lines
    finally:
        bounds.ball = make
    for module, one in zip(bounds.modules, balls[-len(bounds.modules) :], strict=True):
        lines.append(_line(module, one.noted))


def _line(module: Any, noted: Any) -> Callable[[Tensor], Tensor]:
    if noted is None:  # intervals are not linear in the image
        intervals: Tensor = module.ibp_lower.detach()
        return lambda x: intervals
    rows, value = noted
    lower: Tensor = module.final_node().lower.detach()
    if not isinstance(rows, Tensor):  # patches: no linear layer follows
        return lambda x: lower
    rows, constant = rows.detach().flatten(2), lower - value.detach()
    return lambda x: (rows @ x.flatten(2).unsqueeze(-1)).squeeze(-1) + constant


def _enclosures(module: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Bounds by the names of operations, as the last computation left them. Those of maxima hold for sums alone."""
    found = {}
    for name, node in module.named_children():
        low, high = getattr(node, "lower", None), getattr(node, "upper", None)
        inner = node.perturbed and node.inputs and name != module.final_name and not getattr(node, "only_sums", False)
        if inner and isinstance(low, Tensor) and isinstance(high, Tensor):
            found[name] = low.detach(), high.detach()
    return found


def _compare(low: Tensor, high: Tensor | None, values: Tensor, size: Tensor, operation: str) -> None:
    slack = TOLERANCE[values.dtype] * size
    outside = (values < low - slack) | (values > high + slack if high is not None else False)
    if bool(outside.any()):
        raise UnsoundError(f"values leave those of {operation}")


def _sizes(logits: Tensor, specification: Tensor) -> Tensor:
    """What rounding of the gaps is relative to: the largest logit in reach, and the rival's own where it is not."""
    near = in_reach(logits.flatten(0, 1)).view_as(logits)
    own = logits.abs()
    beyond: Tensor = (specification.abs() @ own.where(~near, 0).unsqueeze(-1)).squeeze(-1)
    return own.where(near, 0).max() + beyond


def _points(net: nn.Module, x: Tensor, y: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """[P, B, C, H, W], points of each ball: corners, points inside, and some that walk to other classes."""
    each = radius.view(-1, *[1] * (x.ndim - 1))
    corners = torch.stack([corner(x, each, norm, seed) for seed in range(POINTS)])
    stream = torch.Generator(x.device).manual_seed(0)
    inside = x + (corners - x) * torch.rand(corners.shape, generator=stream, dtype=x.dtype, device=x.device)
    start, many = corners.flatten(0, 1), x.repeat(POINTS, *[1] * (x.ndim - 1))
    labels, epsilon = y.repeat(POINTS), radius.repeat(POINTS)

    def loss(image: Tensor) -> Tensor:
        return -logit_margin(attached(net, image), labels)

    with torch.enable_grad():
        delta = pgd(loss, many, start - many, epsilon=epsilon, step=epsilon / 4, steps=STEPS, norm=norm)
    return torch.cat([corners, inside, (many + delta).detach().view_as(corners)])
