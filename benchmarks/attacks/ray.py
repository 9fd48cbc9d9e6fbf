"""What every upper bound needs: is the point adversarial, how far is it, and the nearest one on its ray."""

from typing import Any

import torch
from torch import Tensor, nn

from marginbench.methods import Norm, predicted_class

PUSHES = (1e-3, 4e-3, 0.016, 0.064, 0.25)  # of its length, by which a segment is prolonged
HAIR = 2e-6  # pixels: distinct from the walls in float32, also behind a normalisation


@torch.no_grad()
def is_adversarial(net: nn.Module, points: Tensor, y: Tensor) -> Tensor:
    """[B] bool: does the network put the points [B, C, H, W] in another class than y ([B] int64), or none?"""
    return changes_class(net(points), y)


def changes_class(logits: Tensor, y: Tensor) -> Tensor:
    """[B] bool: do logits [B, K] predict another class than y, or none, see `predicted_class`?"""
    return predicted_class(logits) != y


def attached(net: nn.Module, x: Tensor) -> Tensor:
    """The logits [B, K], with a graph to the images x [B, C, H, W] even where the network ignores them.

    Where a gradient is asked for, it is the slope into the box, also at pixels on its walls: `clamp`, `relu` and others
    have slope 0 at their limits, so that a network that limits its input to [0, 1] would hide every black and white
    pixel. The network is then asked a hair inside, see `off_walls`, straight through: the logits are those there.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        values: Tensor = net(x)
        return values
    logits: Tensor = net(x + (off_walls(x) - x).detach())
    return logits + 0 * x.flatten(1).sum(1, keepdim=True)


class Attached(nn.Module):
    """The network, which `attached` asks; all else is as in the network itself."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.training = net.training

    def forward(self, x: Tensor) -> Tensor:
        return attached(self.net, x)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)


def off_walls(x: Tensor) -> Tensor:
    """The images with pixels in the box [0, 1] at least `HAIR` away from its walls; others stay as they are."""
    return torch.where((x < 0) | (x > 1), x, x.clamp(HAIR, 1 - HAIR))


def or_inside(net: nn.Module, candidate: Tensor, y: Tensor) -> Tensor:
    """The candidates, or the points a hair inside the box, for which attacks ask, where only these are adversarial."""
    missed = ~is_adversarial(net, candidate, y)
    if not bool(missed.any()):
        return candidate
    inside = off_walls(candidate)
    return select(missed & is_adversarial(net, inside, y), inside, candidate)


def distance(delta: Tensor, norm: Norm) -> Tensor:
    """[B] float32 length of each perturbation, in pixels of [0, 1], never below the true one.

    The length is computed in float64 and rounded up. Pass the difference of two float32 images as
    `a.double() - b.double()`, otherwise its own rounding is lost.

    Args:
        delta: [B, ...] float32 or float64.
    """
    flat = delta.flatten(1).double()
    length = flat.norm(dim=1) if norm == "l2" else flat.abs().amax(1)
    # The sum of n squares and the subtraction before it are off by at most (n + 4) / 2 units of 2^-52.
    above = length * (1 + (flat.shape[1] + 4) * torch.finfo(torch.float64).eps)
    rounded = above.float()
    up = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.double() < above, up, rounded)


def tighten(
    net: nn.Module, x: Tensor, candidate: Tensor, y: Tensor, norm: Norm, steps: int = 20
) -> tuple[Tensor, Tensor]:
    """Bisect the segment from x to the candidate, keeping the adversarial end.

    Args:
        x: [B, C, H, W] float32 images in [0, 1]; candidate: the same shape.
        y: [B] int64 true labels.
        steps: halvings; the result is within 2^-steps of the candidate's distance from a class change on the
            segment.

    Returns:
        The adversarial points [B, C, H, W] float32 in [0, 1], x itself where the candidate is not
        adversarial, and their distances [B] float32, +inf where the candidate is not adversarial.
    """
    candidate = or_inside(net, inside_box(candidate, x), y)
    point, found = candidate.clone(), is_adversarial(net, candidate, y)
    low, high = x.new_zeros(len(x)), x.new_ones(len(x))
    for _ in range(steps):
        middle = (low + high) / 2
        trial = x.lerp(candidate, middle.view(-1, 1, 1, 1)).clamp(0, 1)
        flips = is_adversarial(net, trial, y)
        point = select(flips & found, trial, point)
        low, high = torch.where(flips, low, middle), torch.where(flips, middle, high)
    found &= is_adversarial(net, point, y)
    reached = distance(point.double() - x.double(), norm)
    return select(found, point, x), reached.masked_fill(~found, torch.inf)


@torch.no_grad()
def pushed(net: nn.Module, x: Tensor, candidate: Tensor, y: Tensor) -> Tensor:
    """The candidates, or the first points a little farther on their rays that are adversarial, where they are not.

    For searches in coarser arithmetic than float32, which stop on a boundary that is a hair off.

    Args:
        x, candidate: [B, C, H, W] float32 in [0, 1].
        y: [B] int64 true labels.
    """
    found = candidate = inside_box(candidate, x)
    missed = ~is_adversarial(net, found, y)
    for share in PUSHES:
        if not bool(missed.any()):
            break
        farther = x.lerp(candidate, 1 + share).clamp(0, 1)
        reached = missed & is_adversarial(net, farther, y)
        found, missed = select(reached, farther, found), missed & ~reached
    return found


def inside_box(candidate: Tensor, x: Tensor) -> Tensor:
    """The candidate clamped to [0, 1], and the pixels of x where it is not a number."""
    return torch.where(candidate.isnan(), x, candidate).clamp(0, 1)


def select(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Per image: `yes` where the [B] condition holds, else `no`. Images [B, C, H, W]."""
    return torch.where(condition.view(-1, 1, 1, 1), yes, no)


class Closest:
    """The closest adversarial point seen so far for each image; x itself while there is none."""

    def __init__(self, x: Tensor, norm: Norm) -> None:
        self.x = x
        self.norm: Norm = norm
        self.point = x.clone()  # [B, C, H, W]
        self.distance = x.new_full((len(x),), torch.inf)  # [B]

    def offer(self, point: Tensor, adversarial: Tensor) -> None:
        """Keep the points [B, C, H, W] that are adversarial ([B] bool) and closer than the ones before."""
        reached = distance(point.double() - self.x.double(), self.norm).masked_fill(~adversarial, torch.inf)
        better = reached < self.distance
        self.point = select(better, point, self.point)
        self.distance = torch.where(better, reached, self.distance)
