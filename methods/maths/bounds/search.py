"""The largest radius that a bound can prove."""

from collections.abc import Callable

import torch
from torch import Tensor

from marginbench.methods.errors import MarginbenchError
from marginbench.methods.facts import Norm
from marginbench.methods.maths.bounds.linear import Ball, Path
from marginbench.methods.maths.bounds.path import path_of, specification
from marginbench.methods.maths.bounds.sketch import too_wide
from marginbench.methods.maths.lipschitz import RADIUS_ROUNDING
from marginbench.methods.maths.rounding import logit_allowance
from marginbench.methods.method import NotApplicable, Radii, class_mask
from marginbench.methods.net import Net

Margins = Callable[[Path, Ball, Tensor, Tensor], Tensor]


def certified_radii(
    net: Net, x: Tensor, norm: Norm, margins: Margins, *, all_rows: bool = False, halvings: int = 20
) -> Radii | NotApplicable:
    """The largest radii found at which `margins` proves that the predicted class cannot change.

    Bounds are computed in float64; the gap is lowered by what float32, in which the network computes its logits, may
    move it. A bound at one radius holds for all smaller ones, so the bound need not be monotone.

    Args:
        x: [B, C, H, W] images in [0, 1].
        margins: (path, ball, rows, constants) to lower bounds [B, K] of z_p - z_j, p the predicted class.
        all_rows: `margins` writes out the rows of all hidden units on the pixels, too many in wide networks.
        halvings: of the interval from 0 to the diameter of the box; its last length is the resolution.
    """
    if not all(bool(p.isfinite().all()) for p in net.parameters()):
        return NotApplicable("the weights are not finite")
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        try:
            path = path_of(net, tuple(x.shape[1:]), torch.float64)
        except MarginbenchError as error:
            return NotApplicable(str(error))
        pixels = x.flatten(1).double()
        if all_rows and (reason := too_wide(path, pixels.shape[1])) is not None:
            return reason
        logits = net(x)
        predicted = logits.argmax(1)
        slack = logit_allowance(net, x).double()
        rows, constants = specification(net, predicted, torch.float64)
        itself = class_mask(predicted, logits.shape[1])

        def lower(radius: Tensor, of: Tensor) -> Tensor:
            ball = Ball(pixels[of], radius[:, None], norm)
            return margins(path, ball, rows[of], constants[of] - slack[of]).masked_fill(itself[of], 1.0)

        gaps = logits.double().gather(1, predicted[:, None]) - logits.double() - slack
        diameter = 1.0 if norm == "linf" else pixels.shape[1] ** 0.5
        radius = largest_positive(lower, gaps.masked_fill(itself, 1.0), diameter, halvings)
        return Radii((radius * (1 - RADIUS_ROUNDING)).to(x.dtype))


def largest_positive(function: Callable[[Tensor, Tensor], Tensor], start: Tensor, end: float, halvings: int) -> Tensor:
    """Points [B] at which all values [B, K] were found positive: 0, or close to a point where one was not.

    A secant search for each row (regula falsi as varied by Anderson and Bjorck), with a bisection where it is slow.

    Args:
        function: (points [A], rows [A] that they belong to) to values [A, K].
        start: [B, K] the values at 0, roughly.
        end: the largest point; close means end / 2^halvings.
    """
    close, probe = end / 2**halvings, end / 1024
    low = start.new_zeros(len(start))
    high = torch.where((start > 0).all(1), end, low)
    at_low, at_high = start, start
    before = high - low
    rose = torch.zeros_like(low, dtype=torch.int8)  # where the last point lay: 1 below the sought one, -1 above
    for step in range(4 * halvings):
        rows = (high - low > close).nonzero()[:, 0]
        if not len(rows):
            break
        left, right, f_left, f_right = low[rows], high[rows], at_low[rows], at_high[rows]
        middle = (left + right) / 2
        share = torch.where(f_right < 0, f_left / (f_left - f_right), torch.inf).amin(1)
        point = left + (right - left) * share
        # a little towards the middle, so that the far end of the bracket comes close as well
        point = (point + close / 2 * (middle - point).sign()).clamp(left + close / 2, right - close / 2)
        if step == 0:
            point = torch.full_like(left, probe)
        elif step % 4 == 0:
            point = torch.where(right - left > before[rows] / 4, middle, point)
            before = high - low
        value = function(point, rows)
        up = (value > 0).all(1)
        if step == 0:
            f_right = start[rows] + (value - start[rows]) * (end / probe)  # where the first slope would lead
        again = torch.where(up, 1, -1) == rose[rows]
        shrink = 1 - value / torch.where(up[:, None], f_left, f_right)  # of the value at the end that stays
        shrink = torch.where(again[:, None], torch.where((shrink > 0) & (shrink < 1), shrink, 0.5), 1.0)
        low[rows], high[rows] = torch.where(up, point, left), torch.where(up, right, point)
        at_low = at_low.index_put((rows,), torch.where(up[:, None], value, f_left * shrink))
        at_high = at_high.index_put((rows,), torch.where(up[:, None], f_right * shrink, value))
        rose[rows] = torch.where(up, 1, -1).to(torch.int8)
    return low
