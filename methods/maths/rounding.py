"""How far float32 moves the logits of a network: measured against its copy in float64."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from marginbench.methods.facts import Norm
from marginbench.methods.held import in_double

RELATIVE = 1e-5  # of the largest |logit|: float32 forward passes of ordinary networks differ by about 1e-6
SAFETY = 4  # times the largest error seen: other points have others
REACH = 30  # times the larger of the two largest |logits|: a class that lies further below them is out of reach
ROWS = 250  # images at once


def logit_allowance(net: nn.Module, x: Tensor, epsilon: float = 0.1, norm: Norm = "linf") -> Tensor:
    """What float32 may add to, or take from, the logit gaps of images and of their neighbours.

    RELATIVE max_j |z_j| + SAFETY e, where e is the largest difference between a gap z_i - z_j in float32 and that in
    float64, at the images and at a random corner of the ball of each. It scales with the logits. Without an e where
    the network is in float64, or has no copy there.

    Classes that are masked by a large negative number do not take part, as those masked by -inf do not: see
    `in_reach`. The gap to class j out of reach has an allowance of its own, with |z_j| in the place of the largest.

    Args:
        net: images to logits [B, K].
        x: [B, ...] images in [0, 1], of the network's type.
        epsilon: the radius of the corners, in pixels; the error hardly depends on it.

    Returns:
        [B, K] of the type of x, for the gap between the class predicted and each of the others. Logits that are
        infinite are left out.
    """
    with torch.no_grad():
        logits = torch.cat([net(part) for part in x.split(ROWS)]) if len(x) else net(x)
    own = torch.where(logits.isfinite(), logits, 0).abs()
    near = in_reach(logits)
    size = torch.where(near, own, 0).amax(1, keepdim=True)
    error = gap_error(net, [x, corner(x, epsilon, norm)])
    return RELATIVE * torch.where(near, size, torch.maximum(own, size)) + SAFETY * error


def in_reach(logits: Tensor) -> Tensor:
    """[B, K] bool: which classes may decide something, of logits [B, K].

    Not those of -inf, nor those below the largest by more than REACH times the larger of the two largest |z|, as a
    mask of -1e9 makes them: to the scale of the others they must not count.
    """
    finite = logits.where(logits.isfinite(), -torch.inf)
    top = finite.topk(min(2, logits.shape[1]), 1).values
    size = top.where(top.isfinite(), 0).abs().amax(1, keepdim=True)
    return logits.isfinite() & (finite >= top[:, :1] - REACH * size)


def corner(x: Tensor, epsilon: float | Tensor, norm: Norm, seed: int = 0) -> Tensor:
    """A random corner of the L-infinity ball around each image [B, ...], shortened to epsilon in L2; in the box."""
    stream = torch.Generator(x.device).manual_seed(seed)
    signs = torch.randint(0, 2, x.shape, generator=stream, device=x.device, dtype=x.dtype) * 2 - 1
    length = 1.0 if norm == "linf" else max(1, x[0].numel()) ** 0.5 if len(x) else 1.0
    return (x + epsilon * signs / length).clamp(0, 1)


@torch.no_grad()
def gap_error(net: nn.Module, points: Iterable[Tensor]) -> float:
    """The largest difference between a logit gap and that in float64, 0 where there is no float64 to compare with.

    Of the classes in reach.
    """
    precise = double_copy(net)
    worst = 0.0
    if precise is None:
        return worst
    for x in points:
        if x.dtype != torch.float32:
            continue
        for part in x.split(ROWS):
            try:
                logits, exact = net(part), precise(part.double())
            except RuntimeError:  # a type written into its code
                return 0.0
            if logits.numel():
                error = (logits.double() - exact).where(in_reach(logits), 0).nan_to_num(0, 0, 0)
                worst = max(worst, float((error.amax(1) - error.amin(1)).max()))
    return worst


def double_copy(net: nn.Module) -> nn.Module | None:
    """The network in float64, or None for one that cannot be copied."""
    try:
        return in_double(net)
    except Exception:  # copying runs the network's own code
        return None
