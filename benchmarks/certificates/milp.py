"""Exact L-infinity margins of small ReLU networks by mixed-integer linear programming.

Tjeng, Xiao, Tedrake: Evaluating robustness of neural networks with mixed integer programming, ICLR 2019, arXiv
1711.07356. Solved by HiGHS through scipy.
"""

import math
import time

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import changes_class, tighten
from marginbench.benchmarks.certificates import _milp_model as model
from marginbench.benchmarks.certificates._fold import fold_affine
from marginbench.benchmarks.certificates.certificate import certificate
from marginbench.benchmarks.certificates.crown import ROUNDING
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.methods.maths.bounds.linear import Ball, Blocks
from marginbench.methods.maths.rounding import logit_allowance

FIRST_RADIUS = 0.05  # where no adversarial example is known; it is doubled until there is one, or the box is covered
WEIGHTS = 2**20  # of the network written out as matrices
BEYOND = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # how far behind the solver's point candidates are, relative
FINE = 1e-5  # pixels: bounds so close are equal
FIRST_SHRUNK = 1  # the bounds of the first layer are exact but for the rival's constraint


@certificate(float64=True)
@torch.no_grad()
def milp(
    q: Query, *, time_limit: NonNegativeFloat = 60.0, gap: NonNegativeFloat = 1e-3, max_units: PositiveInt = 200
) -> Answer:
    """The distance of the nearest image of the box [0, 1] that some rival wins.

    For every rival j in turn: min eps with |x' - x|_inf <= eps, z_j(x') >= z_y(x') - slack, over x' in the box nearer
    than the nearest adversarial image known, by 1 - gap / 2. Rivals that linear bounds exclude need no program. For
    the others linear programs, which know that j wins, shrink the bounds behind the first layer; these bounds are the
    constants of the mixed-integer program.

    What is proven is proven up to float64 and the solver's tolerances. Violated constraints only lower the minimum;
    for bounds that are not quite dual feasible `lower` is reduced by 1e-4 of the radius searched. The slack of the
    logits is that of `crown`: the network is float32. Distances `q.upper` of adversarial images are believed; radii
    `q.at` are not checked.

    Args:
        time_limit: seconds for each image. An image that is not solved by then has a wider interval; the solver
            tells what it has proven only once it has found a point of its own, otherwise the linear programs' bounds
            count.
        gap: relative difference of the bounds at which an image counts as solved; 1e-5 pixels are enough too.
        max_units: hidden units at most; the time grows exponentially with those that are unstable.

    Returns:
        For networks of affine layers and ReLUs, in L-infinity: `lower` [B] proven, inf where the whole box holds no
        adversarial image, `upper` [B] of adversarial images, both 0 for a wrong prediction, `solved` [B], and `points`
        [B, C, H, W], the images that are nearer than `q.upper`.
    """
    if q.norm != "linf":
        return Answer(reason="exact margins are computed in L-infinity only")
    folded = fold_affine(q.layers, q.x.double(), WEIGHTS) if len(q.x) else nn.Sequential()
    if folded is None:
        return Answer(reason="exact margins need a small network of affine layers and ReLUs")
    blocks = model.as_blocks(folded.cpu())
    units = sum(len(block[0].bias) for block in blocks[:-1])
    if units > max_units:
        return Answer(reason=f"exact margins: {units} hidden units are more than {max_units}")
    slack = logit_allowance(q.net, q.x, q.epsilon, q.norm).double().cpu()
    bounds: list[tuple[float, float]] = []
    points = q.x.clone()
    for i in range(len(q.x)):
        image = _Image(q.rows(slice(i, i + 1)), blocks, slack[i], gap, time.perf_counter() + time_limit)
        image.search()
        bounds.append((image.lower, image.upper))
        points[i] = image.nearest[0]
    lower, distance = torch.tensor(bounds, dtype=torch.float32).view(-1, 2).to(q.x.device).unbind(1)
    return Answer(lower, distance, points, lower >= (1 - gap) * distance - FINE)


class _Image:
    """The search for one image; `lower` and `upper` enclose its margin at any time.

    Its logits may be off by `slack` [K], by rival.
    """

    def __init__(self, q: Query, blocks: Blocks, slack: Tensor, gap: float, deadline: float) -> None:
        self.q, self.blocks, self.slack, self.gap, self.deadline = q, blocks, slack, gap, deadline
        self.lower, self.upper = 0.0, math.inf if q.upper is None else float(q.upper)
        self.nearest = q.x
        self.point = q.x.detach().cpu().double().flatten(1)  # [1, n]
        logits = q.net(q.x)
        self.y, self.classes = int(q.y), logits.shape[1]
        if changes_class(logits, q.y):
            self.upper = 0.0

    def search(self) -> None:
        """Until solved, out of time, or without progress."""
        radius = FIRST_RADIUS
        while self.lower < (1 - self.gap) * self.upper - FINE and time.perf_counter() < self.deadline:
            before = self.upper
            radius = min(radius if math.isinf(before) else self._aim(), 1.0)
            share = self._empty_share(radius)
            if share >= 1 and radius >= 1 and math.isinf(self.upper):
                self.lower = math.inf
            else:
                self.lower = max(self.lower, (share - model.SOLVER_SLACK) * radius * (1 - ROUNDING) - ROUNDING)
            if self.upper == before and (math.isfinite(before) or share < 1):
                return
            radius *= 2

    def _aim(self) -> float:
        return self.upper * (1 - self.gap / 2)

    def _empty_share(self, radius: float) -> float:
        """The share of the radius within which no rival wins, at most 1."""
        ball = Ball(self.point, self.point.new_full((1, 1), radius), "linf")
        bounds = model.pre_activation_bounds(self.blocks, ball)
        ranges = [(low[0].numpy(), high[0].numpy()) for low, high in bounds]
        rivals = torch.tensor([j for j in range(self.classes) if j != self.y])
        unit = torch.eye(self.classes, dtype=torch.float64)
        margins = model.least_values(self.blocks, bounds, ball, unit[self.y] - unit[rivals])
        shares = {}
        for rival in rivals[margins <= self.slack[rivals]].tolist():
            program = self._program(radius, ranges, rival)
            shares[rival] = model.solve(program, program.size_of_move(), self.deadline, relaxed=True)[0]
        for rival in sorted(shares, key=lambda j: shares[j]):
            aim = min(radius, self._aim())
            if shares[rival] * radius < aim:
                share = self._rival_share(aim, ranges, rival)
                shares[rival] = max(shares[rival], min(share, 1.0) * aim / radius)
        return max(min([1.0, *shares.values()]), 0.0)

    def _rival_share(self, radius: float, ranges: model.Ranges, rival: int) -> float:
        """The share of the radius within which this rival does not win; inf where it does not win at all."""
        shrunk = model.shrink(lambda ranges: self._program(radius, ranges, rival), ranges, self.deadline, FIRST_SHRUNK)
        if shrunk is None:
            return math.inf
        program = self._program(radius, shrunk, rival)
        share, solution = model.solve(program, program.size_of_move(), self.deadline, gap=self.gap / 4)
        if solution is not None:
            self._try(torch.from_numpy(solution[: program.pixels] * radius))
        return share

    def _program(self, radius: float, ranges: model.Ranges, rival: int) -> model.Program:
        program = model.encode(self.blocks, self.point[0].numpy(), radius, ranges)
        rows, constants = program.values[-1]
        lead = rows[rival] - rows[self.y]
        return program.at_least(lead, constants[self.y] - constants[rival] - float(self.slack[rival]))

    def _try(self, move: Tensor) -> None:
        """Is there an adversarial image on the ray through the solver's point?"""
        factors = 1 + torch.tensor(BEYOND, dtype=torch.float64).view(-1, 1, 1, 1)
        x, y = self.q.x, self.q.y
        candidates = (x.double() + (factors * move.view_as(x)).to(x.device)).to(x.dtype)
        points, distance = tighten(self.q.net, x.expand_as(candidates), candidates, y.expand(len(candidates)), "linf")
        best = int(distance.argmin())
        if float(distance[best]) < self.upper:
            self.upper, self.nearest = float(distance[best]), points[best : best + 1]
