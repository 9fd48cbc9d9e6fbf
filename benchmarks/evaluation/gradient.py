"""Are the gradients that attacks follow the slopes of the network? Autograd against differences, part by part.

With the gap f = z_y - z_r to the largest other logit r at the image, along a direction d, the fundamental theorem of
calculus says

    (f(x + h d) - f(x - h d)) / 2h = mean of <grad f(x + t d), d> over t in [-h, h]

for every continuous and piecewise smooth f: kinks of ReLUs and of pooling do no harm. The mean is taken over a few
midpoints. Small steps see gradients that are wrong, noisy or invented (straight-through); larger steps see gradients
that vanish where the network is a staircase. Directions are random signs on the whole image and on parts of it:
a network that hides a few rows has right slopes nearly everywhere else.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import attached
from marginbench.benchmarks.evaluation.evidence import Evidence, doubt
from marginbench.benchmarks.machine.memory import Chunks

POINTS = 32
ENOUGH = 8  # points at which a part must have a slope that can be measured
BLOCKS = 8  # of rows and of columns
SUBSETS = 4  # random ones of the pixels, disjoint
ROUNDING = 8  # logits may be off by so many units of their largest
MEASURABLE = 10  # times what rounding may do: slopes above are compared
RELEVANT = 1e-3  # of the largest slope at the image, over all parts
BLUR = 0.01  # pixels by which images are moved first: off the ties of flat backgrounds


@dataclass(frozen=True)
class _Scale:
    step: float  # h, in pixels
    midpoints: int
    tolerance: float  # of the slopes, relative
    share: float  # of the points at which they must differ by more


# Honest networks reach shares of 0.1 and 0.25, also with max pooling; faults nearly 1 in the part concerned.
_SMALL = {torch.float64: _Scale(1e-4, 2, 0.05, 0.5), torch.float32: _Scale(1e-3, 2, 0.05, 0.5)}
_LARGE = _Scale(0.03, 4, 0.3, 0.5)


@doubt
def gradient_mismatch(e: Evidence) -> str | None:
    """Gradients are not the slopes of the logits: autograd and differences disagree, in a part of the image at least.

    Attacks that follow such gradients find adversarial examples farther away than they are.
    """
    index = e.correct.nonzero()[:, 0]
    index = index[:: max(1, len(index) // POINTS)][:POINTS]
    if len(index) == 0:
        return None
    net, x = _precise(e.net, e.x[index])
    noise = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 1
    x = x + BLUR * noise.to(x)
    for scale in (_SMALL[x.dtype], _LARGE):
        shares = dict(_shares(net, x, e.y[index], scale))
        worst = max(shares, key=lambda part: shares[part])
        if shares[worst] > scale.share:
            return f"{worst}: at {shares[worst]:.0%} of the points, by more than {scale.tolerance:.0%}"
    return None


def _precise(net: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy in float64 that gives the same logits, and the images; or, where there is none, what was given."""
    with torch.no_grad():
        logits = net(x)
        try:
            precise = copy.deepcopy(net).double()
            found = precise(x.double())
            same = found.dtype == torch.float64 and torch.allclose(found.to(logits), logits, 1e-2, 1e-2, equal_nan=True)
        except Exception:  # code that names its type raises anything
            same = False
    return (precise, x.double()) if same else (net, x.float())


def _shares(net: nn.Module, x: Tensor, y: Tensor, scale: _Scale) -> Iterator[tuple[str, float]]:
    """Part of the image to the share of points at which its slopes differ, for parts that enough points tell about."""
    x = x.clamp(scale.step, 1 - scale.step)  # the whole segment lies in the box
    parts = dict(_parts(tuple(x.shape[1:])))
    columns = Chunks(POINTS).map(lambda rows: _slopes(net, x[rows], y[rows], parts, scale), len(x))
    autograd, secant, rounding = (torch.cat(tensors, -1) for tensors in zip(*columns, strict=True))
    size = torch.maximum(autograd.abs(), secant.abs())  # [R, N]
    told = (size > RELEVANT * size.amax(0)) & (size > MEASURABLE * rounding)
    differs = (autograd - secant).abs() - rounding > scale.tolerance * size
    for name, own, wrong in zip(parts, told, told & differs, strict=True):
        yield name, float(wrong.sum() / own.sum()) if own.sum() >= min(ENOUGH, len(x)) else 0.0


def _slopes(
    net: nn.Module, x: Tensor, y: Tensor, parts: dict[str, Tensor], scale: _Scale
) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes along a direction in each of R parts by autograd and by differences, [R, N], and their rounding [N]."""
    with torch.no_grad():
        logits = net(x)
    rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    largest = logits.where(logits.isfinite(), 0.0).abs().amax(1)
    rounding = ROUNDING * torch.finfo(logits.dtype).eps * largest / scale.step

    def gap(points: Tensor) -> Tensor:
        z = attached(net, points)
        return (z.gather(1, y[:, None]) - z.gather(1, rival))[:, 0]

    def slope(point: Tensor, direction: Tensor) -> Tensor:
        point = point.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(gap(point).sum(), point)
        return (gradient * direction).flatten(1).sum(1)

    middles = [scale.step * ((2 * k + 1) / scale.midpoints - 1) for k in range(scale.midpoints)]
    autograd, secant = [], []
    for number, part in enumerate(parts.values()):
        draw = torch.randint(2, x.shape, generator=torch.Generator().manual_seed(number))
        d = (2 * draw - 1).to(x) * part.to(x)
        autograd.append(torch.stack([slope(x + t * d, d) for t in middles]).mean(0))
        with torch.no_grad():
            secant.append((gap(x + scale.step * d) - gap(x - scale.step * d)) / (2 * scale.step))
    return torch.stack(autograd), torch.stack(secant), rounding


def _parts(shape: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    """Parts of images of shape [C, H, W], as masks: all, rows, columns, patterns, channels, random subsets."""
    channel, row, column = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    yield "the whole image", torch.ones(shape, dtype=torch.bool)
    for name, place, length in (("rows", row, shape[1]), ("columns", column, shape[2])):
        count = min(BLOCKS, length)
        yield from ((f"{name}, part {i + 1} of {count}", place * count // length == i) for i in range(count))
    yield from ((f"checkerboard {i + 1} of 2", (row + column) % 2 == i) for i in range(2))
    yield from ((f"every fourth pixel, from {i + 1}", (row * shape[2] + column) % 4 == i) for i in range(4))
    if 1 < shape[0] <= BLOCKS:
        yield from ((f"channel {i + 1}", channel == i) for i in range(shape[0]))
    order = torch.randperm(channel.numel(), generator=torch.Generator().manual_seed(0)).view(shape)
    yield from ((f"random pixels {i + 1} of {SUBSETS}", order % SUBSETS == i) for i in range(SUBSETS))
