"""The linearised network: gaps to rivals, input gradients, the shortest way to a hyperplane in the box."""

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import changes_class
from marginbench.methods import Norm

LARGEST = -1  # in the place of a class: at each point, the one other than y with the largest logit


@torch.no_grad()
def classes_in_play(net: nn.Module, x: Tensor) -> int:
    """How many classes have another logit than -inf for one of the images [B, C, H, W] at least."""
    return int((net(x) != -torch.inf).any(0).sum())


@torch.no_grad()
def top_rivals(net: nn.Module, point: Tensor, y: Tensor, count: int) -> Tensor:
    """[B, min(count, K-1)] int64: the classes other than y with the largest logits, the largest first."""
    others: Tensor = net(point).scatter(1, y[:, None], -torch.inf)
    return others.topk(min(count, others.shape[1] - 1), dim=1).indices


def nearest_rivals(net: nn.Module, x: Tensor, y: Tensor, norm: Norm, rivals: int, count: int = 1) -> Tensor:
    """[B, min(count, rivals, K-1)] int64: among the `rivals` classes with the largest logits, those nearest to x in the
    linearised network, the nearest first."""
    candidates = top_rivals(net, x, y, rivals)
    gap, gradient, _ = linearise(net, x, y, candidates)
    order = to_hyperplane(x.flatten(1), gradient, -gap, norm)[1].argsort(stable=True, dim=1)[:, :count]
    return candidates.gather(1, order)


def current_rivals(logits: Tensor, y: Tensor, rivals: Tensor | None) -> Tensor:
    """[B, R] int64: the rivals [B, R], where they are `LARGEST` the class other than y with the largest logit."""
    largest = logits.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    return largest if rivals is None else rivals.where(rivals != LARGEST, largest)


def linearise(net: nn.Module, point: Tensor, y: Tensor, rivals: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Gaps f_r = z_r - z_y and gradients w_r = df_r/dx, both divided by max|w_r|.

    The hyperplane f_r + <w_r, x' - x> = 0 stays the same, and logits of any scale give the same numbers.
    Where w_r is zero or anything is not finite, the result is the hyperplane out of reach: w = 0, f = -inf.

    Args:
        point: [B, C, H, W] float32.
        y: [B] int64 true labels.
        rivals: [B, R] int64 classes, `LARGEST` by default.

    Returns:
        gap [B, R] and gradient [B, R, C*H*W] float32, and whether the point is adversarial, [B] bool.
    """
    with torch.enable_grad():
        point = point.detach().clone().requires_grad_(True)
        logits = net(point)
        rivals = current_rivals(logits.detach(), y, rivals)
        gap = logits.gather(1, rivals) - logits.gather(1, y[:, None])
        rows = [_input_gradient(gap[:, r], point) for r in range(gap.shape[1])]
    gradient = torch.stack(rows, 1).flatten(2)
    largest = gradient.abs().amax(2)
    usable = (largest > 0) & largest.isfinite() & gap.isfinite()
    scale = largest.where(usable, 1.0)
    gap = (gap.detach() / scale).masked_fill(~usable, -torch.inf)
    gradient = (gradient / scale[:, :, None]).masked_fill(~usable[:, :, None], 0.0)
    return gap, gradient, changes_class(logits, y)


def ascent(gradient: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """The unit step of steepest ascent [B, D] for gradients [B, D], and their dual norm [B], 1e-12 or more."""
    if norm == "l2":
        dual = gradient.norm(dim=1).clamp(min=1e-12)
        return gradient / dual[:, None], dual
    return gradient.sign(), gradient.abs().sum(1).clamp(min=1e-12)


def _input_gradient(values: Tensor, point: Tensor) -> Tensor:
    """d values_b / d point_b for each image b; zero for a network that ignores its input."""
    if not values.requires_grad:
        return torch.zeros_like(point)
    # The sum, not grad_outputs, which makes torch import sympy: seconds.
    (gradient,) = torch.autograd.grad(values.sum(), point, retain_graph=True, allow_unused=True)
    return torch.zeros_like(point) if gradient is None else gradient


def lengths(delta: Tensor, norm: Norm) -> Tensor:
    """[...] of perturbations [..., D], as they are; `ray.distance` rounds up."""
    length: Tensor = delta.norm(dim=-1) if norm == "l2" else delta.abs().amax(-1)
    return length


def to_hyperplane(start: Tensor, normal: Tensor, offset: Tensor, norm: Norm, steps: int = 12) -> tuple[Tensor, Tensor]:
    """The shortest delta with <normal, delta> >= offset and start + delta in [0, 1].

    Pixel i has room_i towards the hyperplane; the solution moves it by min(t * s_i, room_i), with s_i = |w_i|
    in L2 and 1 in Linf. g(t) = sum_i |w_i| min(t * s_i, room_i) is concave and piecewise linear, so Newton's
    method from t = 0 rises to g(t) = offset without passing it, and is exact from the last piece on.

    Args:
        start: [B, D] in [0, 1].
        normal: [B, R, D], entries up to 1.
        offset: [B, R].
        steps: Newton steps; too few leave the point short of the hyperplane.

    Returns:
        delta [B, R, D], 0 where the offset is not positive, and its norm [B, R], +inf where the box ends
        before the hyperplane.
    """
    weight = normal.abs()
    room = torch.where(normal > 0, 1 - start[:, None], start[:, None])
    speed = weight if norm == "l2" else torch.ones_like(weight)
    feasible = (weight * room).sum(2) >= offset
    goal = offset.where(feasible, 0.0).clamp(min=0)
    t = torch.zeros_like(goal)
    for _ in range(steps):
        wish = t[:, :, None] * speed
        slope = (weight * speed * (wish < room)).sum(2)
        missing = goal - (weight * torch.minimum(wish, room)).sum(2)
        t = t + torch.where(slope > 0, missing.clamp(min=0) / slope, 0.0)
    delta = torch.minimum(t[:, :, None] * speed, room) * normal.sign()
    return delta, lengths(delta, norm).masked_fill(~feasible, torch.inf)
