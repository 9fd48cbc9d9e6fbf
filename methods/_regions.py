"""The affine map that a ReLU network is around an image: pre-activations, logits, and their Jacobians."""

from dataclasses import dataclass

import torch
from torch import Tensor

from marginbench.methods._bounds import blocks_of, linear_head
from marginbench.methods._lipschitz import LOGIT_ROUNDING, RADIUS_ROUNDING
from marginbench.methods.errors import MarginbenchError
from marginbench.methods.method import Net, Norm, NotApplicable, Radii

TINY = 1e-12


@dataclass(frozen=True)
class Region:
    """Values of all N hidden units and K logits at x, and their Jacobians with respect to pixels."""

    units: Tensor  # [B, N] pre-activations
    unit_rows: Tensor  # [B, N, n]
    logits: Tensor  # [B, K]
    logit_rows: Tensor  # [B, K, n]


def region_of(net: Net, x: Tensor, dtype: torch.dtype | None = None) -> Region:
    """The region of x [B, C, H, W]: the unit vectors of the input pushed through the network with its ReLUs frozen.

    Differentiable in the weights, the pattern of the ReLUs taken as constant. It costs n forward passes per image,
    but no backward pass to the input.

    Raises:
        MarginbenchError: an unknown layer, or a head that is not linear.
    """
    value = x.flatten(1).to(dtype)
    columns = torch.eye(value.shape[1], dtype=value.dtype, device=x.device)[None]  # [B or 1, n, m]
    units, rows = [], []
    for depth, block in enumerate(blocks_of(net, tuple(x.shape[1:]), dtype)):
        if depth:
            units.append(value)
            rows.append(columns.expand(len(x), -1, -1))
            active = (value > 0).to(value.dtype)
            value, columns = value * active, columns * active[:, None]
        for affine in block:
            value, columns = affine.forward(value), affine.linear(columns, affine.weight)
    head = linear_head(net)
    weight = head.weight.to(dtype)
    logits = value @ weight.T + (0 if head.bias is None else head.bias.to(dtype))
    logit_rows = (columns @ weight.T).mT.expand(len(x), -1, -1)
    if not units:
        return Region(logits[:, :0], logit_rows[:, :0], logits, logit_rows)
    return Region(torch.cat(units, 1), torch.cat(rows, 2).mT, logits, logit_rows)


def dual_norms(rows: Tensor, norm: Norm) -> Tensor:
    """[..., n] to [...]: how fast a linear function can grow per unit of `norm`."""
    lengths: Tensor = torch.linalg.vector_norm(rows, ord=1 if norm == "linf" else 2, dim=-1)
    return lengths


def unit_distances(region: Region, norm: Norm) -> Tensor:
    """[B, N] distances, signed by nothing, of x from the planes on which the hidden units switch."""
    return region.units.abs() / dual_norms(region.unit_rows, norm).clamp_min(TINY)


def decision_distances(region: Region, y: Tensor, norm: Norm) -> Tensor:
    """[B, K] signed distances of x from the planes between class y and each other; infinite for y itself."""
    here = y[:, None]
    gap = region.logits.gather(1, here) - region.logits
    rows = region.logit_rows.gather(1, here[:, :, None].expand(-1, -1, region.logit_rows.shape[2]))
    own = torch.nn.functional.one_hot(y, gap.shape[1]).bool()
    lengths = dual_norms(torch.where(own[:, :, None], 1, rows - region.logit_rows), norm)
    return torch.where(own, torch.inf, gap / lengths.clamp_min(TINY))


def region_radii(net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
    """Radii within which the predicted class cannot change: the nearest plane, of a unit or between classes.

    In float64; the gaps are lowered by 1e-5 of the largest logit, since the network computes in float32.

    Args:
        x: [B, C, H, W] images in [0, 1].
    """
    if not all(bool(p.isfinite().all()) for p in net.parameters()):
        return NotApplicable("the weights are not finite")
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        try:
            region = region_of(net, x, torch.float64)
        except MarginbenchError as error:
            return NotApplicable(str(error))
        predicted = net(x).argmax(1)
        slack = LOGIT_ROUNDING * region.logits.abs().amax(1, keepdim=True)
        lowered = Region(
            region.units,
            region.unit_rows,
            region.logits + slack * (1 - torch.nn.functional.one_hot(predicted, region.logits.shape[1])),
            region.logit_rows,
        )
        nearest = decision_distances(lowered, predicted, norm).amin(1)
        if region.units.shape[1]:
            nearest = torch.minimum(nearest, unit_distances(region, norm).amin(1))
        return Radii((nearest.clamp_min(0) * (1 - RADIUS_ROUNDING)).to(x.dtype))
