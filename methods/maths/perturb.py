"""Perturbations of the input inside a ball of its own radius per example, for adversarial training.

All functions are batched, have no data-dependent shapes and never synchronise with the host.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from marginbench.methods.facts import Norm
from marginbench.methods.held import modes_kept
from marginbench.methods.method import as_float

TINY = 1e-12  # keeps 0/0 at 0
_FLAT = 1e-10  # squared gradient norm below which no boundary is in sight


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """A block with every module in eval mode; afterwards each returns to its own mode, if it has one."""
    with modes_kept(net):
        net.eval()
        yield


def scale_examples(factor: Tensor, x: Tensor) -> Tensor:
    """Multiply each example of x [B, ...] by its own factor [B]."""
    return factor.view(-1, *[1] * (x.dim() - 1)) * x


def l2_norms(x: Tensor) -> Tensor:
    """[B, ...] to [B] Euclidean norms."""
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms


def norms(x: Tensor, norm: Norm) -> Tensor:
    """[B, ...] to [B] norms."""
    return x.flatten(1).abs().amax(1) if norm == "linf" else l2_norms(x)


def project(delta: Tensor, epsilon: Tensor, norm: Norm) -> Tensor:
    """The nearest point of the ball of radius epsilon [B], in pixels, for every delta [B, ...]."""
    if norm == "linf":
        limit = scale_examples(epsilon, torch.ones_like(delta))
        return delta.clamp(-limit, limit)
    return scale_examples((epsilon / (l2_norms(delta) + TINY)).clamp_max(1), delta)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The unit step of steepest ascent [B, ...]: the sign for L-infinity, g / ||g|| for L2. Zero stays zero."""
    if norm == "linf":
        return gradient.sign()
    return scale_examples(1 / (l2_norms(gradient) + TINY), gradient)


def random_start(x: Tensor, epsilon: Tensor, norm: Norm, generator: torch.Generator) -> Tensor:
    """A perturbation [B, ...] uniform in the ball of radius epsilon [B]."""
    if norm == "linf":
        noise = torch.rand(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
        return scale_examples(epsilon, 2 * noise - 1)
    normal = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
    radius = torch.rand(x.shape[:1], generator=generator, device=generator.device, dtype=x.dtype)
    return scale_examples(epsilon * radius ** (1 / math.prod(x.shape[1:])), steepest(normal, norm))


def random_norm_start(x: Tensor, epsilon: Tensor, norm: Norm, generator: torch.Generator) -> Tensor:
    """A perturbation [B, ...] of a norm uniform in [0, epsilon] (epsilon [B]) in the direction of Gaussian noise.

    A point uniform in the ball lies next to its border: in d dimensions its norm is epsilon u^(1/d), u uniform.
    """
    normal = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
    size = torch.rand(x.shape[:1], generator=generator, device=generator.device, dtype=x.dtype)
    return scale_examples(epsilon * size / (norms(normal, norm) + TINY), normal)


def pgd(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    *,
    epsilon: Tensor,
    step: Tensor,
    steps: int,
    norm: Norm,
) -> Tensor:
    """Projected gradient ascent on `objective` within the ball of radius epsilon around x and within [0, 1].

    Args:
        objective: [B, ...] images to [B] values, example by example.
        x: [B, ...] images in [0, 1].
        start: [B, ...] first perturbation.
        epsilon, step: [B] radius of the ball and length of a step, in pixels.

    Returns:
        [B, ...] perturbations delta, without graph. Only input gradients are computed; the weights' stay untouched.
    """
    delta = (x + start).clamp(0, 1) - x
    for _ in range(steps):
        delta.requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(objective(x + delta).sum(), delta)
        delta = project(delta.detach() + scale_examples(step, steepest(gradient, norm)), epsilon, norm)
        delta = (x + delta).clamp(0, 1) - x  # towards x, which is in the box: this cannot leave the ball
    return delta.detach()


def backtracking(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    *,
    epsilon: Tensor,
    step: Tensor,
    steps: int,
    norm: Norm,
    decayed: bool = False,
    momentum: float = 0.9,
    shrink: float = 1.5,
) -> Tensor:
    """Ascent as in `pgd`, with momentum; a step that does not help is taken back, and the next one is shorter.

    The attack of Stutz, Hein and Schiele (CCAT, ICML 2020), whose velocity is v <- momentum v + (1 - momentum) u, from
    0, with the unit step u of steepest ascent.

    Args:
        step: [B] length of the first step, in pixels.
        decayed: the step is `step` times v, as theirs: short at first, and where the u do not agree. Otherwise it is
            `step` long, in the direction of v, and gets further in few steps.
        shrink: divides the length of an example's steps when one did not help.

    Returns:
        [B, ...] perturbations delta, the best of `steps` evaluations of the objective, without graph.
    """
    trial = (x + start).clamp(0, 1)
    delta, velocity, direction = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    best = x.new_full(x.shape[:1], -torch.inf)
    for _ in range(steps):
        point = trial.detach().requires_grad_()
        with torch.enable_grad():
            value = objective(point)
            (gradient,) = torch.autograd.grad(value.sum(), point)
        better = value.detach() > best
        each = better.view(-1, *[1] * (x.dim() - 1))
        best = torch.where(better, value.detach(), best)
        delta = torch.where(each, trial - x, delta)
        direction = torch.where(each, steepest(gradient, norm), direction)
        step = torch.where(better, step, step / shrink)
        velocity = momentum * velocity + (1 - momentum) * direction
        move = scale_examples(step, velocity if decayed else steepest(velocity, norm))
        trial = (x + project(delta + move, epsilon, norm)).clamp(0, 1)
    return delta


def differentiable_deepfool(
    net: nn.Module, x: Tensor, y: Tensor, *, steps: int, rivals: int, overshoot: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiable DeepFool in L2: from x across the nearest boundary of the label, from wrong images back to it.

    With f_j = z_j - z_y, every step goes from the point reached to the hyperplane f_j + <grad f_j, .> = 0 with the
    least signed distance -f_j / ||grad f_j||, times 1 + overshoot. That is the nearest plane of a correct image and
    the most violated one of a wrong image. An image rests once it has changed sides, or where its gradient vanishes.

    Args:
        x: [B, ...] images; the box [0, 1] is not enforced.
        y: [B] int64 labels.
        rivals: classes considered in every step, by largest logit.

    Returns:
        r [B, ...], whose graph reaches the weights through the values f_j and the gradients along the whole path;
        whether x is classified correctly, and whether x + r is on the other side, [B] bool each.
    """
    # near a boundary the gaps are differences of nearly equal logits: bf16 would leave no digits
    with torch.autocast(x.device.type, enabled=False):
        r, correct = torch.zeros_like(x), torch.empty(0)
        for step in range(steps):
            point = x + r if step else x.detach().requires_grad_()
            gaps = _gaps(net, point, y)
            inside = gaps.detach().amax(1) < 0
            if step == 0:
                correct = inside
            candidates, _ = gaps.topk(min(rivals, gaps.shape[1] - 1), dim=1)
            norms = [l2_norms(torch.autograd.grad(f.sum(), point, retain_graph=True)[0]) for f in candidates.unbind(1)]
            nearest = (-candidates.detach() / (torch.stack(norms, 1) + TINY)).argmin(1, keepdim=True)
            gap = candidates.gather(1, nearest)[:, 0]
            (gradient,) = torch.autograd.grad(gap.sum(), point, create_graph=True)
            square = gradient.flatten(1).square().sum(1)
            moves = (inside == correct) & (square.detach() > _FLAT)
            length = torch.where(moves, (1 + overshoot) * gap / square.clamp_min(_FLAT), 0)
            r = r - scale_examples(length, gradient)
        with torch.no_grad():
            return r, correct, (_gaps(net, x + r, y).amax(1) < 0) != correct


def _gaps(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """z_j - z_y [B, K], -inf for y itself."""
    logits = as_float(net(x))
    return logits.scatter(1, y[:, None], -torch.inf) - logits.gather(1, y[:, None])
