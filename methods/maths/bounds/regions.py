"""The affine map that a ReLU network computes around an image: pre-activations, logits, and their Jacobians."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from marginbench.methods.errors import MarginbenchError
from marginbench.methods.facts import Norm
from marginbench.methods.maths.bounds.linear import Affine, Path
from marginbench.methods.maths.bounds.path import affine_head, path_of
from marginbench.methods.maths.bounds.rows import Dense, Line, Point, Rows, entry, follow, lengths
from marginbench.methods.maths.bounds.sketch import too_wide
from marginbench.methods.maths.lipschitz import RADIUS_ROUNDING
from marginbench.methods.maths.rounding import logit_allowance
from marginbench.methods.method import NotApplicable, Radii, class_mask
from marginbench.methods.net import Net

TINY = 1e-12


@dataclass(frozen=True)
class Region:
    """Values of all N hidden units and K logits at x, and the affine maps from the pixels to them."""

    units: Tensor  # [B, N] pre-activations
    logits: Tensor  # [B, K]
    unit_rows: tuple[Rows, ...]  # of each layer, on scaled pixels
    logit_rows: Tensor  # [B or 1, K, n]
    scale: Tensor  # [1, n]

    def unit_lengths(self, norm: Norm) -> Tensor:
        """[B, N] dual norms of the gradients of the units with respect to the pixels."""
        parts = [lengths(rows, self.scale, norm).expand(len(self.logits), -1) for rows in self.unit_rows]
        return torch.cat(parts, 1) if parts else self.units


def region_of(net: Net, x: Tensor, dtype: torch.dtype | None = None) -> Region:
    """The region of x [B, C, H, W]: differentiable in the weights, the pattern of the ReLUs taken as constant.

    Batch norm in training mode is a fixed map, with the statistics of x.

    Raises:
        MarginbenchError: an unknown layer, or a head that is not linear.
    """
    return region_along(path_of(net, tuple(x.shape[1:]), dtype, x), affine_head(net, dtype), x.flatten(1).to(dtype))


def region_along(path: Path, head: Affine, x: Tensor) -> Region:
    """The region of x [B, n] in the network of this path and head.

    Jacobians are pushed forward from the pixels; those of units that see a small part of the image are pulled back.
    """
    scale, rest, start = entry([*path[:-1], [*path[-1], head]], x)
    units: list[Tensor] = []
    unit_rows: list[Rows] = []

    def relu(point: Point, rows: Rows, moved: Tensor | float) -> Line:
        units.append(point.value)
        unit_rows.append(rows)
        return Line((point.value > 0).to(point.value.dtype))

    end = follow(rest, start, relu)
    logit_rows, _ = end.rows()
    assert isinstance(logit_rows, Dense)
    values = torch.cat(units, 1) if units else end.value[:, :0]
    return Region(values, end.value, tuple(unit_rows), logit_rows.values, scale)


def unit_distances(region: Region, norm: Norm) -> Tensor:
    """[B, N] unsigned distances of x from the planes on which the hidden units switch."""
    return region.units.abs() / region.unit_lengths(norm).clamp_min(TINY)


def decision_distances(region: Region, y: Tensor, norm: Norm) -> Tensor:
    """[B, K] signed distances of x from the planes between class y and each other; infinite for y itself."""
    gap = region.logits.gather(1, y[:, None]) - region.logits
    rows = region.logit_rows.expand(len(y), -1, -1)
    steepness = lengths(Dense(rows[torch.arange(len(y), device=y.device), y][:, None] - rows), region.scale, norm)
    own = class_mask(y, gap.shape[1])
    return torch.where(own, torch.inf, gap / steepness.clamp_min(TINY))


def region_radii(net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
    """Radii within which the predicted class cannot change: the nearest plane, of a unit or between classes.

    In float64; the gaps are lowered by what float32, in which the network computes, may move them.

    Args:
        x: [B, C, H, W] images in [0, 1].
    """
    if not all(bool(p.isfinite().all()) for p in net.parameters()):
        return NotApplicable("the weights are not finite")
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        try:
            path = path_of(net, tuple(x.shape[1:]), torch.float64, x)
        except MarginbenchError as error:
            return NotApplicable(str(error))
        pixels = x.flatten(1).double()
        if (reason := too_wide(path, pixels.shape[1])) is not None:
            return reason
        region = region_along(path, affine_head(net, torch.float64), pixels)
        predicted = net(x).argmax(1)
        slack = logit_allowance(net, x).double()
        others = ~class_mask(predicted, region.logits.shape[1])
        lowered = replace(region, logits=region.logits + slack * others)
        nearest = decision_distances(lowered, predicted, norm).amin(1)
        if region.unit_rows:
            nearest = torch.minimum(nearest, unit_distances(region, norm).amin(1))
        return Radii((nearest.clamp_min(0) * (1 - RADIUS_ROUNDING)).to(x.dtype))
