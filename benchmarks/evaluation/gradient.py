"""Are the gradients that attacks follow the slopes of the network? Autograd against differences, part by part.

With the gap f = z_y - z_r to the largest other logit r at the image, along a direction d, the fundamental theorem of
calculus says

    (f(x + h d) - f(x - h d)) / 2h = mean of <grad f(x + t d), d> over t in [-h, h]

for every continuous and piecewise smooth f: kinks of ReLUs and of pooling do no harm. The mean is taken over a few
midpoints, and over many more before a network is doubted: there may be more kinks than midpoints. Small steps see
gradients that are wrong, noisy or invented (straight-through); larger steps see gradients that vanish where the network
is a staircase. Directions are random signs on the whole image and on parts of it: a network that hides a few rows has
right slopes nearly everywhere else.

At pixels on the walls of the box, slopes into the box are compared with the gradients that attacks see there, which
`attached` takes a hair inside: a network that limits its input to [0, 1] is as good as one that does not, one that
limits it to [0.0001, 0.9999] hides every black and white pixel. Slopes may well fall from the wall on, as of a square
root or a logarithm: attacks see more than there is, not less. The gradient at the wall is thus compared with the slope
next to it, if rounding lets one, and pixel by pixel with the mean on a longer way: it must hardly be smaller.

Every network is a staircase at the scale of its own rounding, which is coarse where an operation computes in bfloat16
or half precision. What rounding does to f is measured: the spread of f among neighbours that this type takes for the
same image. Slopes that it drowns are not compared, and such networks are asked over long steps alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import HAIR, attached
from marginbench.benchmarks.evaluation.coarse import coarsest_type, is_coarse, spread
from marginbench.benchmarks.evaluation.evidence import Evidence, doubt
from marginbench.benchmarks.machine.memory import ROWS, Chunks
from marginbench.methods.maths.rounding import double_copy

POINTS = 24
ENOUGH = 12  # points at which a part must have a slope that can be measured
BLOCKS = 8  # of rows and of columns
SUBSETS = 4  # random ones of the pixels, disjoint
ROUNDING = 8  # logits may be off by so many units of their largest
MEASURABLE = 10  # times what rounding may do: slopes above are compared
RELEVANT = 1e-3  # of the largest slope at the image, over all parts
VALUES = 2**16  # pixels of a pass over many points and parts
FINER = 32  # times as many places, before a network is doubted
BLUR = 0.01  # pixels by which images are moved first: off the ties of flat backgrounds


@dataclass(frozen=True)
class _Scale:
    step: float  # h, in pixels; the segment is as long as 2 h, or h on a wall
    midpoints: int  # 0 next to a wall, where the gradient is that at the start
    tolerance: float  # of the slopes, relative
    share: float  # of the points at which they must differ by more
    wall: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """Of the segment."""
        return (0.0 if self.wall else -self.step), self.step

    @property
    def places(self) -> list[float]:
        """On the segment, where gradients are taken."""
        start, end = self.ends
        return [start + (end - start) * (k + 0.5) / self.midpoints for k in range(self.midpoints)] or [start]


# Honest networks, with max pooling too, stay below shares of 0.1, and else of 0.3; faults come near 1 in their part.
_SMALL = {torch.float64: _Scale(1e-5, 2, 0.1, 0.6), torch.float32: _Scale(1e-3, 4, 0.2, 0.6)}
_LARGE = _Scale(0.01, 4, 0.5, 0.6)
_WALL = _Scale(1e-3, 4, 0.1, 0.6, wall=True)  # sees a quarter of the pixels hidden
_NEXT = _Scale(4 * HAIR, 0, 0.2, 0.6, wall=True)
_COARSE = _Scale(0.1, 8, 0.5, 0.6)  # for operations in less than float32


@doubt
def gradient_mismatch(e: Evidence) -> str | None:
    """Gradients are not the slopes of the logits: autograd and differences disagree, in a part of the image at least.

    Attacks that follow such gradients find adversarial examples farther away than they are.
    """
    index = e.correct.nonzero()[:, 0]
    index = index[:: max(1, len(index) // POINTS)][:POINTS]
    index = index[e.arrays["upper_linf"][index] > _WALL.step]  # segments must not lead far beyond the boundary
    if len(index) == 0:
        return None
    net, image = _precise(e.net, e.x[index])
    kind = coarsest_type(net, image[:1])
    for look in _looks(image, kind):
        told, differs = _compared(net, e.y[index], look)
        shares = {part: _share(told[part], differs[part]) for part in look.parts}
        for part in sorted(shares, key=lambda part: -shares[part]):
            if shares[part] <= look.scale.share:
                break
            share = _share(told[part], _compared(net, e.y[index], look.finer(part))[1][part])
            if share > look.scale.share:
                return f"{part}: at {share:.0%} of the points, by more than {look.scale.tolerance:.0%}"
    return None


@dataclass(frozen=True)
class _Look:
    scale: _Scale
    x: Tensor  # [B, C, H, W], where the segments begin on a wall, and else their middles
    kind: torch.dtype  # the coarsest in which the network computes
    directions: Tensor  # [B, C, H, W]
    parts: dict[str, Tensor]  # masks [1, C, H, W], or [B, C, H, W]

    def finer(self, part: str) -> "_Look":
        """At one part, and at more places of the segment."""
        scale = replace(self.scale, midpoints=FINER * self.scale.midpoints)
        return replace(self, scale=scale, parts={part: self.parts[part]})


def _looks(image: Tensor, kind: torch.dtype) -> Iterator[_Look]:
    """At the images [B, C, H, W], on small and larger segments around them, and from the walls."""

    def drawn(seed: int) -> Tensor:
        return torch.rand(image.shape, generator=torch.Generator().manual_seed(seed)).to(image)

    blurred = image + BLUR * (2 * drawn(0) - 1)
    parts = {name: mask[None].to(image.device) for name, mask in _parts(tuple(image.shape[1:]))}
    signs = 2 * torch.randint(2, image.shape, generator=torch.Generator().manual_seed(1)).to(image) - 1
    for scale in (_COARSE,) if is_coarse(kind) else (_SMALL[kind], _LARGE):
        yield _Look(scale, blurred.clamp(scale.step, 1 - scale.step), kind, signs, parts)  # segments lie in the box
    if is_coarse(kind):
        return
    stays = drawn(2) < 0.5  # not all: in a flat background values tie
    walls = {f"pixels at {wall}": stays & (image == wall) for wall in (0, 1)}
    held = walls["pixels at 0"] | walls["pixels at 1"]
    x = torch.where(held, image, blurred.clamp(_WALL.step, 1 - _WALL.step))
    for scale in (_WALL, _NEXT) if kind == torch.float64 else (_WALL,):
        yield _Look(scale, x, kind, 1 - 2 * image.round(), walls)


def _precise(net: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy in float64 that gives the same logits, and the images; or, where there is none, what was given."""
    with torch.no_grad():
        logits = net(x)
        precise = double_copy(net)
        if precise is None:
            return net, x.float()
        try:
            found = precise(x.double())
            same = found.dtype == torch.float64 and torch.allclose(found.to(logits), logits, 1e-2, 1e-2, equal_nan=True)
            same &= not torch.equal(found, found.float().double())  # else float32 inside
        except Exception:  # code that names its type raises anything
            same = False
    return (precise, x.double()) if same else (net, x.float())


def _share(told: Tensor, differs: Tensor) -> float:
    """Of the points [B] that tell about a part, how many have slopes that differ; 0 if they are too few."""
    return float((told & differs).sum() / told.sum()) if told.sum() >= min(ENOUGH, len(told)) else 0.0


def _compared(net: nn.Module, y: Tensor, look: _Look) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """By part of the image, which points tell about it, and at which its slopes differ: [B] bool."""
    x = look.x
    masks = torch.stack([*look.parts.values()]).expand(-1, *x.shape)

    def slopes(pairs: slice) -> Tensor:
        """Of pairs of a part and a point: [4, b]."""
        of = torch.arange(pairs.start, pairs.stop, device=x.device)
        point, direction = of % len(x), look.directions[of % len(x)] * masks[of // len(x), of % len(x)]
        return _slopes(net, x[point], y[point], direction, look)

    rows = max(POINTS, min(ROWS, VALUES // x[0].numel()))
    found = torch.cat(Chunks(rows).map(slopes, len(masks) * len(x)), 1).view(4, len(masks), len(x))
    autograd, secant, rounding, hidden = found
    size = torch.maximum(autograd.abs(), secant.abs())
    told = (size > RELEVANT * size.amax(0)) & (size > MEASURABLE * rounding)
    differs = ((autograd - secant).abs() - rounding > look.scale.tolerance * size) | (hidden > look.scale.tolerance)
    return dict(zip(look.parts, told, strict=True)), dict(zip(look.parts, differs, strict=True))


def _slopes(net: nn.Module, x: Tensor, y: Tensor, direction: Tensor, look: _Look) -> Tensor:
    """Slopes [B] along the directions by autograd and by differences, what rounding may do to them, what is hidden.

    Hidden is the share of the gradients on the way from a wall, pixel by pixel, that the gradient at the wall lacks.
    """
    scale = look.scale
    with torch.no_grad():
        logits = net(x)
    rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    largest = logits.where(logits.isfinite(), 0.0).abs().amax(1).to(x)

    def gap(points: Tensor) -> Tensor:
        z = attached(net, points)
        return (z.gather(1, y[:, None]) - z.gather(1, rival))[:, 0]

    with torch.no_grad():
        noise = torch.maximum(spread(gap, x, look.kind), torch.finfo(look.kind).eps / 2 * largest)
    rounding = (noise + ROUNDING * torch.finfo(x.dtype).eps * largest) / scale.step

    def slopes(t: float) -> Tensor:
        """Of each pixel, at a place of the segment: [B, CHW]."""
        point = (x + t * direction).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(gap(point).sum(), point)
        return (gradient * direction).flatten(1)

    mean = torch.zeros_like(x).flatten(1)
    for t in scale.places:
        mean += slopes(t) / len(scale.places)
    hidden = torch.zeros_like(rounding)
    if scale.wall and scale.midpoints:
        lacking = (mean.abs() - slopes(0.0).abs()).clamp(min=0).sum(1)
        hidden = lacking / mean.abs().sum(1).clamp(min=torch.finfo(mean.dtype).tiny)
    with torch.no_grad():
        start, end = scale.ends
        secant = (gap(x + end * direction) - gap(x + start * direction)) / (end - start)
    return torch.stack([mean.sum(1), secant.to(mean), rounding, hidden])


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
