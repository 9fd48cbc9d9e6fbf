"""Probabilities in the place of logits, at any scale: sound numbers for accuracy, useless ones for margins.

Where a softmax or a sigmoid is sure, its gradient vanishes in float32 and many classes tie: attacks stop too early, and
margins look longer than they are. Attacks standardise logits, so that a factor and a shift hide nothing of it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import attached
from marginbench.methods.maths.perturb import pgd
from marginbench.methods.maths.rounding import in_reach

FACTORS = (-1e6, -1e3, -10.0, 10.0, 1e3, 1e6)  # contrast of the images that saturate what can saturate
ROUNDING = 5e-3  # of what a row adds up to: as in bfloat16
LEAK = 0.05  # of what rows add up to: what else than probabilities may be in them
PRESSED = 4 * LEAK  # as much leaks where outputs are pressed up: logits grow a few times within the box
FARTHEST = [i for i, factor in enumerate(FACTORS) if abs(factor) >= 1e3]
STEPS = 10  # of gradient ascent, across the box
FEW = 16
EDGE = 0.02  # of the range of all outputs: nearer, an output counts as being at its end
HARDLY_ANY, MOST, NEARLY_ALL = 0.25, 0.5, 0.9


@torch.no_grad()
def probabilities(net: Callable[[Tensor], Tensor], x: Tensor) -> str | None:
    """In what the network's outputs [B, K] are probabilities, or None if they are not.

    They are looked at on images far out of the box too: logits grow there, so that some that happen to be small and
    positive are acquitted. Rows are those of a softmax if they have one sum and no negative entry, or if one class
    takes all that the lowest output leaves to it: of `a p + b` the lowest is b. Classes have a sigmoid each if all
    outputs lie in [0, 1] and fill it, or far out at the two ends of another range, to which most have come already.
    Cosines of features that are not negative lie in [0, 1] too, but anywhere in it, far out as well.

    Args:
        x: images [B, C, H, W] in [0, 1].
    """
    near = net(x).double()
    far = _far(net, x, near)
    ever = in_reach(near).any(0)  # a class that is masked by a large number would make every row add up to that
    if int(ever.sum()) > 1:
        near, far = near[:, ever], far[..., ever]
    everything = torch.cat([near, far.flatten(0, 1)])
    if not bool(near.isfinite().all()) or bool((near == near[0]).all()):
        return None
    if (total := _common_sum(everything)) is not None:
        if bool((everything >= -ROUNDING * abs(total)).all()) and total > 0:
            return f"every row is non-negative and sums to {total:.4g}"
        if near.shape[1] > 2 and far.numel() and _one_takes_all(far.flatten(0, 1), everything.min(), total):
            return "every row is an affine function of probabilities"
    low, high = everything.min(), everything.max()
    fills = 0 <= low < 0.1 and 0.9 < high <= 1
    if fills and (_at_ends(near, low, high) > MOST or not _stays_inside(net, x, far, low, high)):
        return "every output lies in [0, 1]"
    if _all_arrive(far, low, high) and _at_ends(near, low, high) > MOST:
        return f"every output lies between {low:.4g} and {high:.4g}, most at one of them"
    return None


@torch.no_grad()
def nearly_probabilities(net: nn.Module, x: Tensor) -> str | None:
    """What the outputs [B, K] look like if they are probabilities and a little of something else; None if they do not.

    As `softmax(10 z) + 0.001 z`, whose other part grows far out of the box, where `probabilities` looks too. The sums
    of rows differ by at most `LEAK` of their mean, no output lies further than that below 0 or above the mean, and two
    classes or more have nearly all of some row. Of 288 networks of the built-in methods (digits, MNIST) none is taken
    for one: where their sums are positive at all, they differ by 45 % or more. Of the same with `softmax(10 z) + c z`
    in the place of z, 269 are seen with c = 0.001, 13 with c = 0.01.

    Networks of two classes that are fitted to 0 and 1 by squared error have such outputs too. But nothing holds them:
    where gradient ascent presses them up within the box, they leave [0, 1] of the mean by 0.4 or more, and leaks by at
    most 0.11. Sentences cannot be pressed.

    Args:
        x: images [B, C, H, W] in [0, 1], `FEW` at least: of fewer, sums may be alike by chance.
    """
    out = net(x).double()
    ever = in_reach(out).any(0)
    out = out[:, ever] if int(ever.sum()) > 1 else out
    total = float(out.sum(1).mean())
    if len(out) < FEW or not total > 0:
        return None
    share = out / total
    low, high = float(share.min()), float(share.max())
    sure = int((share.amax(0) > 1 - 2 * LEAK).sum())  # classes that have nearly all of some row
    differ = float((share.sum(1) - 1).abs().max())
    alike = differ < LEAK and -LEAK < low < LEAK and high < 1 + LEAK and sure > 1
    if alike and not (x.is_floating_point() and _leaves(net, x[:FEW], total, ever)):
        return f"every row sums to {total:.4g} up to {differ:.1%}, and no output is far below 0 or above that sum"
    return None


def _leaves(net: nn.Module, x: Tensor, total: float, ever: Tensor) -> bool:
    """Whether outputs leave [0, total] by more than leaks, where the largest of each image is pressed up in the box."""
    top = net(x).argmax(1, keepdim=True)
    everywhere = x.new_ones(len(x))
    up = pgd(
        lambda image: attached(net, image).gather(1, top)[:, 0],
        x,
        torch.zeros_like(x),
        epsilon=everywhere,
        step=everywhere / STEPS,
        steps=STEPS,
        norm="linf",
    )
    share = net(x + up)[:, ever].double() / total
    return bool(share.max() > 1 + PRESSED) or bool(share.min() < -PRESSED)


def _far(net: Callable[[Tensor], Tensor], x: Tensor, near: Tensor) -> Tensor:
    """Outputs [6, n, K] of the images with too much contrast; without those images that give no finite ones."""
    try:
        out = torch.stack([net(0.5 + factor * (x - 0.5)).double() for factor in FACTORS])
    except Exception:  # the model may refuse what is no image
        return near.new_zeros(len(FACTORS), 0, near.shape[1])
    return out[:, out.isfinite().all(2).all(0)]


def _common_sum(out: Tensor) -> float | None:
    """The sum of every row, if it differs by rounding alone: little beside what the entries differ by."""
    sums, sizes = out.sum(1), (out - out.mean()).abs().sum(1)
    allowed = ROUNDING * sizes + 1e-6 * out.abs().max()
    return float(sums.mean()) if bool(((sums - sums.mean()).abs() <= allowed).all()) else None


def _one_takes_all(out: Tensor, lowest: Tensor, total: float) -> bool:
    """Whether, above the lowest output, one class has the whole of most rows."""
    share = (out.amax(1) - lowest) / (total - out.shape[1] * lowest)
    return bool((share > 1 - EDGE).double().mean() > 0.5)


def _stays_inside(net: Callable[[Tensor], Tensor], x: Tensor, far: Tensor, low: Tensor, high: Tensor) -> bool:
    """Whether few outputs are at the ends though the images are far out, and are not brought back by the network."""
    if not far.numel() or _at_ends(far[FARTHEST], low, high) > HARDLY_ANY:
        return False
    outside = 0.5 + FACTORS[-1] * (x - 0.5)
    return not torch.allclose(net(outside), net(outside.clamp(0, 1)))


def _all_arrive(far: Tensor, low: Tensor, high: Tensor) -> bool:
    """Whether outputs [6, n, K] reach both ends with every contrast, and nearly all are there."""
    if not far.numel():
        return False
    edge = EDGE * (high - low)
    reached = (far.amin((1, 2)) < low + edge) & (far.amax((1, 2)) > high - edge)
    return bool(reached.all()) and _at_ends(far, low, high) > NEARLY_ALL


def _at_ends(out: Tensor, low: Tensor, high: Tensor) -> float:
    """The share of outputs that are at an end; 0 where there are none."""
    edge = EDGE * (high - low)
    return float(((out < low + edge) | (out > high - edge)).double().mean().nan_to_num())
