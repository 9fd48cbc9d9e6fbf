"""Where an attack may begin: at the image, and behind the boundary, where gradients at the image lead nowhere."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from marginbench.benchmarks.attacks._linear import LARGEST, linearise, nearest_rivals
from marginbench.benchmarks.attacks._together import copies_at_once, reference_logits
from marginbench.benchmarks.attacks.ray import Closest, is_adversarial, select, tighten
from marginbench.benchmarks.estimator import Query
from marginbench.methods import Norm, predicted_class

HALVINGS = 6  # of the line to another image
SPARE = 2  # lines more than starts are tried, since the nearest image is not always behind the nearest boundary
RIVALS = 10  # classes with the largest logits among which the nearest one is chosen
DRAWS = 4  # noisy images, each twice as far as the one before


def starting_points(q: Query, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """At most `count` starts [B, C, H, W], and the rivals [B, 1] int64 to follow from them.

    The first start is x, with the rival that is nearest in the linearised network, where the network has a gradient at
    x. Others are `boundary_starts`, with the rival that has the largest logit at each point.
    """
    nearest = nearest_rivals(q.net, q.x, q.y, q.norm, RIVALS)
    alive = (linearise(q.net, q.x, q.y, nearest)[1] != 0).flatten(1).any(1)
    behind = boundary_starts(q, count)
    points = [q.x, *behind]
    shifted = [select(alive, one, other) for one, other in zip(points, behind, strict=False)]
    free = torch.full_like(nearest, LARGEST)
    points = [*shifted, *points[len(shifted) :]][:count]
    return points, [nearest.where(alive[:, None], free), *[free] * (len(points) - 1)]


@torch.no_grad()
def boundary_starts(q: Query, count: int) -> list[Tensor]:
    """At most `count` starts [B, C, H, W] for each image, the nearest first.

    For each class other than y, the line to the nearest image of `q.reference` that the network puts there crosses a
    boundary: the start is the first point behind it, as far as bisection tells. Where classes are missing, a noisy
    image takes the place, adversarial or not.
    """
    x, y, norm = q.x, q.y, q.norm
    noisy = _noisy(q)
    if len(q.reference) == 0:
        return [noisy]
    logits = reference_logits(q)
    classes = predicted_class(logits)
    gaps = torch.cdist(x.flatten(1), q.reference.flatten(1), p=2.0 if norm == "l2" else torch.inf)
    labels = torch.arange(logits.shape[1], device=q.x.device)
    reach, nearest = torch.stack([_nearest(gaps, classes == label) for label in labels]).unbind(1)
    reach = reach.masked_fill(labels[:, None] == y, torch.inf)
    points, distances = [], []
    for label in reach.argsort(0)[: min(count + SPARE, len(labels) - 1)]:
        usable = reach.gather(0, label[None])[0].isfinite()
        if not bool(usable.any()):
            break
        image = q.reference[nearest.gather(0, label[None])[0].long()]
        point, distance = tighten(q.net, x, select(usable, image, x), y, norm, HALVINGS)
        points.append(select(distance.isfinite(), point, noisy))
        distances.append(distance)
    if not points:
        return [noisy]
    order = torch.stack(distances).argsort(0)[:count]
    return list(torch.stack(points)[order, torch.arange(len(x), device=x.device)])


def _nearest(gaps: Tensor, usable: Tensor) -> Tensor:
    """[2, B]: the smallest of the gaps [B, N] among the usable [N], and its position."""
    smallest = gaps.masked_fill(~usable, torch.inf).min(1)
    return torch.stack([smallest.values, smallest.indices.to(gaps.dtype)])


def _noisy(q: Query) -> Tensor:
    """x and Gaussian noise, as far as `q.epsilon` or a few times that, until the class has changed."""
    found = torch.zeros_like(q.y, dtype=torch.bool)
    point = q.x
    for draw in range(DRAWS):
        noise = torch.randn(q.x.shape, generator=q.generator, device=q.x.device)
        trial = (q.x + 2**draw * q.epsilon * _unit(noise, q.norm)).clamp(0, 1)
        point = select(found, point, trial)
        found = found | is_adversarial(q.net, trial, q.y)
    return point


def _unit(noise: Tensor, norm: Norm) -> Tensor:
    flat = noise.flatten(1)
    return (flat / flat.norm(dim=1, keepdim=True) if norm == "l2" else flat.sign()).view_as(noise)


def from_each(q: Query, descend: Callable[..., Closest], starts: Sequence[Tensor], *more: Sequence[Tensor]) -> Closest:
    """The closest points from all starts, see `by_start`."""
    closest = Closest(q.x, q.norm)
    for point, distance in by_start(q, descend, starts, *more):
        closest.offer(point, distance.isfinite())
    return closest


def by_start(
    q: Query, descend: Callable[..., Closest], starts: Sequence[Tensor], *more: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """For each start [B, C, H, W], the closest points of `descend(q, start, *more)` and their distances [B].

    Starts go together while they are few, with as many images as starts, see `_together`.
    """
    found: list[tuple[Tensor, Tensor]] = []
    count = len(q.x)
    together = copies_at_once(count, q.fitting)
    for first in range(0, len(starts) if count else 0, together):
        parts = [torch.cat(list(given[first : first + together])) for given in (starts, *more)]
        index = torch.arange(count, device=q.x.device).repeat(len(parts[0]) // count)
        closest = descend(q.rows(index), *parts)
        found += zip(closest.point.split(count), closest.distance.split(count), strict=True)
    return found
