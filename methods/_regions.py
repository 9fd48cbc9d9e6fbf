"""The affine map that a ReLU network is around an image: pre-activations, logits, and their Jacobians."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from marginbench.methods._bounds import blocks_of, linear_head
from marginbench.methods._columns import Columns, column_lengths, dual_norms
from marginbench.methods._lipschitz import LOGIT_ROUNDING, RADIUS_ROUNDING
from marginbench.methods.errors import MarginbenchError
from marginbench.methods.method import Net, Norm, NotApplicable, Radii

TINY = 1e-12


@dataclass(frozen=True)
class Region:
    """Values of all N hidden units and K logits at x, and their Jacobians with respect to pixels."""

    units: Tensor  # [B, N] pre-activations
    columns: tuple[Tensor, ...]  # [n, B or 1, m] for each layer: the Jacobians of its units, transposed
    logits: Tensor  # [B, K]
    logit_rows: Tensor  # [B, K, n]

    @property
    def unit_rows(self) -> Tensor:
        """[B, N, n]"""
        size = len(self.units)
        rows = [columns.permute(1, 2, 0).expand(size, -1, -1) for columns in self.columns]
        return torch.cat(rows, 1) if rows else self.logit_rows[:, :0]

    def unit_squares(self) -> Tensor:
        """[B, N] squares of the Euclidean norms of the rows."""
        squares = [columns.square().sum(0).expand(len(self.units), -1) for columns in self.columns]
        return torch.cat(squares, 1) if squares else self.units

    def sum_of_squares(self) -> Tensor:
        """All of `unit_squares` summed, without a tensor of the size of the Jacobians."""
        total = self.units.new_zeros(())
        for columns in self.columns:
            entries, copies = columns.flatten(), len(self.units) / columns.shape[1]
            total = total + copies * (entries @ entries)
        return total

    def unit_lengths(self, norm: Norm) -> Tensor:
        """[B, N] dual norms of the rows."""
        lengths = [column_lengths(columns, norm).expand(len(self.units), -1) for columns in self.columns]
        return torch.cat(lengths, 1) if lengths else self.units


def region_of(net: Net, x: Tensor, dtype: torch.dtype | None = None) -> Region:
    """The region of x [B, C, H, W]: the unit vectors of the input pushed through the network with its ReLUs frozen.

    Differentiable in the weights, the pattern of the ReLUs taken as constant. It costs n forward passes per image,
    but no backward pass to the input.

    Raises:
        MarginbenchError: an unknown layer, or a head that is not linear.
    """
    value = x.flatten(1).to(dtype)
    blocks = blocks_of(net, tuple(x.shape[1:]), dtype)
    columns = Columns.of(blocks[0], value)
    units, jacobians = [], []
    for depth, block in enumerate(blocks):
        if depth:
            units.append(value)
            jacobians.append(columns.values)
            active = (value > 0).to(value.dtype)
            value, columns = value * active, columns.push(active, block)
        for affine in block:
            value = affine.forward(value)
    head = linear_head(net)
    weight = head.weight.to(dtype)
    logits = value @ weight.T + (0 if head.bias is None else head.bias.to(dtype))
    logit_rows = (columns.values @ weight.T).permute(1, 2, 0).expand(len(x), -1, -1)
    return Region(torch.cat(units, 1) if units else logits[:, :0], tuple(jacobians), logits, logit_rows)


def unit_distances(region: Region, norm: Norm) -> Tensor:
    """[B, N] distances, signed by nothing, of x from the planes on which the hidden units switch."""
    return region.units.abs() / region.unit_lengths(norm).clamp_min(TINY)


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
        others = 1 - torch.nn.functional.one_hot(predicted, region.logits.shape[1])
        lowered = replace(region, logits=region.logits + slack * others)
        nearest = decision_distances(lowered, predicted, norm).amin(1)
        if region.units.shape[1]:
            nearest = torch.minimum(nearest, unit_distances(region, norm).amin(1))
        return Radii((nearest.clamp_min(0) * (1 - RADIUS_ROUNDING)).to(x.dtype))
