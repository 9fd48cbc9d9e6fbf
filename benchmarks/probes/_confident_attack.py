"""The attack on the reject option: it seeks the largest confidence in a wrong class, see `rejection`."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from marginbench.benchmarks.attacks._linear import current_rivals, top_rivals
from marginbench.benchmarks.attacks._together import copies_at_once
from marginbench.benchmarks.attacks.ray import attached, changes_class, select
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.probes._confidence import confidence, log_odds
from marginbench.methods.maths.perturb import (
    backtracking,
    project,
    random_start,
    scale_examples,
    steepest,
)

RIVALS = 9  # the likeliest wrong classes of an image, among which starts are sought

Target = Callable[[Tensor, Tensor], Tensor]
"""What is climbed, [B]: of the logits [B, K] and the wrong class [B, 1] int64."""

Draw = Callable[[Query, Tensor], Tensor]
"""Perturbations [B, C, H, W] in the ball, to begin from towards the wrong classes [B] int64."""

Ascent = Callable[[Callable[[Tensor], Tensor], Query, Tensor], object]
"""Climbs an objective, [B] of images [B, C, H, W] in the ball, from perturbations of the query's images. What the
objective has seen is the result."""


def wrong_confidence(
    q: Query,
    ascent: Ascent,
    rival: Tensor | None = None,
    start: Tensor | None = None,
    targets: Sequence[Target] | None = None,
) -> Tensor:
    """Log-odds [B] of the most confident wrong class found in the ball, -inf where the class stays right.

    Ascent on each of the targets. Gradients are those of logits of a usual size: squares of others overflow, or vanish.

    Args:
        rival: [B] int64, the class. Default: the likeliest one at each step.
        start: [B, C, H, W] first perturbation, in the ball. Default: none, which is x.
        targets: each is climbed from the start. Default: `both_targets`.
    """
    with torch.no_grad():
        unit = _unit(q.net(q.x))

    best = q.x.new_full((len(q.x),), -torch.inf)

    def objective(target: Target, image: Tensor) -> Tensor:
        nonlocal best
        logits = attached(q.net, image)
        seen = logits.detach()
        best = torch.where(changes_class(seen, q.y), best.fmax(confidence(seen)), best)
        followed = current_rivals(logits, q.y, None if rival is None else rival[:, None])
        return target(logits, followed) / unit

    first = torch.zeros_like(q.x) if start is None else start
    for target in both_targets() if targets is None else targets:
        ascent(partial(objective, target), q, first)
    return best


def from_confident_starts(q: Query, ascent: Ascent, draw: Draw, *, draws: int, followed: int) -> Tensor:
    """`wrong_confidence` [B] from several starts: of `draws` for each of the likeliest wrong classes, the best one by a
    target; and of these the `followed` best. By each target, from starts of its own."""
    rivals = top_rivals(q.net, q.x, q.y, RIVALS)
    image = torch.arange(len(q.x), device=q.x.device)
    found = []
    for target in both_targets():
        starts, sure = _surest(q, rivals, draw, draws, target)
        turns = sure.argsort(dim=0, descending=True, stable=True)[:followed]
        for part in turns.split(copies_at_once(len(q.x), q.fitting)):
            copies = image.repeat(len(part))
            class_of = part.flatten()
            begun = rivals[copies, class_of], starts[class_of, copies]
            found.append(wrong_confidence(q.rows(copies), ascent, *begun, targets=[target]))
    return torch.cat(found).view(-1, len(q.x)).amax(0)


@torch.no_grad()
def _surest(q: Query, rivals: Tensor, draw: Draw, draws: int, target: Target) -> tuple[Tensor, Tensor]:
    """Of `draws` starts for each of the classes [B, R] the best by the target, [R, B, C, H, W], and it, [R, B]."""
    starts, sure = [], []
    for part in rivals.T.split(copies_at_once(len(q.x), q.fitting)):
        asked, rival = q.rows(torch.arange(len(q.x), device=q.x.device).repeat(len(part))), part.flatten()
        start, most = torch.zeros_like(asked.x), torch.full(rival.shape, -torch.inf, device=rival.device)
        for _ in range(draws):
            delta = draw(asked, rival)
            odds = target(q.net((asked.x + delta).clamp(0, 1)), rival[:, None])
            start, most = select(odds > most, delta, start), torch.where(odds > most, odds, most)
        starts.append(start.view(len(part), *q.x.shape))
        sure.append(most.view(len(part), -1))
    return torch.cat(starts), torch.cat(sure)


def both_targets() -> tuple[Target, Target]:
    """What is climbed. Where logits are far apart and the network is unsure nearly everywhere, as after CCAT, that a
    class wins has no slope, and its log-odds have one; where logits differ by little, these alone need not win."""
    return log_odds, sureness


def sureness(logits: Tensor, index: Tensor) -> Tensor:
    """How near class j = index [B, 1] of the logits [B, K] is to winning, and where it wins, how surely: [B].

        z_j - max_{k != j} z_k, not above 0, where it does not win; else the log-odds, which are above 0 there

    Where logits differ by little, the log-odds alone are large where class j is above the mean of the others, and need
    not win.
    """
    others = logits.scatter(1, index, -torch.inf).amax(1)
    behind = logits.gather(1, index)[:, 0] - others
    return torch.where(behind > 0, log_odds(logits, index), behind)


def backtracked(steps: int) -> Ascent:
    """Steps as long as the radius at first, the shorter the more of them were taken back."""

    def climb(objective: Callable[[Tensor], Tensor], q: Query, start: Tensor) -> None:
        radius = _radius(q)
        backtracking(objective, q.x, start, epsilon=radius, step=radius, steps=steps, norm=q.norm)

    return climb


def settled(steps: int) -> Ascent:
    """Momentum, and steps whose lengths fall evenly to 0; none is taken back, which leaves local maxima.

    v <- 0.7 v + g / ||g||_2,  delta <- project(delta + 0.4 epsilon (1 - i / steps) u),  u the unit step along v
    """

    def climb(objective: Callable[[Tensor], Tensor], q: Query, start: Tensor) -> None:
        radius, delta, velocity = _radius(q), (q.x + start).clamp(0, 1) - q.x, torch.zeros_like(q.x)
        for step in range(steps):
            point = (q.x + delta).requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(objective(point).sum(), point)
            velocity = 0.7 * velocity + steepest(gradient, "l2")
            length = 0.4 * (1 - step / steps) * radius
            delta = project(delta + scale_examples(length, steepest(velocity, q.norm)), radius, q.norm)
            delta = (q.x + delta).clamp(0, 1) - q.x

    return climb


def at_random(q: Query, rival: Tensor) -> Tensor:
    """Random points of the ball."""
    return random_start(q.x, _radius(q), q.norm, q.generator)


def from_images(images: Tensor, labels: Tensor) -> Draw:
    """Towards a random one of the images [N, C, H, W] of the class, of any where it has none."""

    def towards(q: Query, rival: Tensor) -> Tensor:
        weight = (rival[:, None] == labels).float() + 1e-12
        other = images[torch.multinomial(weight, 1, generator=q.generator)[:, 0]]
        return project(other - q.x, _radius(q), q.norm)

    return towards


def _radius(q: Query) -> Tensor:
    return q.x.new_full((len(q.x),), q.epsilon)


def _unit(logits: Tensor) -> Tensor:
    """The power of 2 [] next to the largest finite logit gap of the images, by which nothing is rounded."""
    gaps = logits.amax(1, keepdim=True) - logits
    largest = gaps.where(gaps.isfinite(), 0.0).amax()
    return torch.ldexp(torch.ones_like(largest), torch.frexp(largest.where(largest > 0, 1.0)).exponent - 1)
