"""Linear maps for each image pushed forward from the pixels, and with them the bounds of parallel lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods._bounds import Affine, Ball, Blocks, Relaxation, absolute_times, parallel, times
from marginbench.methods.method import Norm


@dataclass(frozen=True)
class Columns:
    """What each of n inputs adds to the outputs of a block: a linear map for each image, pushed forward."""

    values: Tensor  # [n, B or 1, m]
    scale: Tensor | None = None  # [B or 1, n or 1]: factors of the inputs still to be applied
    reach: Tensor | None = None  # [n, s]: indices outside of which the values are 0

    @classmethod
    def of(cls, block: list[Affine], x: Tensor, scale: Tensor | None = None) -> "Columns":
        """Those of the first block, the same for all images x [B, n]."""
        values = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None]
        for affine in block:
            values = affine.linear(values, affine.weight)
        mixing = [affine for affine in block if affine.weight.dim() > 1]
        return cls(values, scale, mixing[0].reach if len(mixing) == 1 else None)

    def push(self, slopes: Tensor, block: list[Affine]) -> "Columns":
        """Through ReLUs replaced by slopes [B, m], and the block behind them."""
        if self.reach is None or not block or not block[0].dense:
            values = slopes * (self.values if self.scale is None else self.values * self.scale.T[..., None])
        else:  # for every input only the products that are not 0
            entries = self.values[:, 0].gather(1, self.reach)[..., None]
            entries = entries if self.scale is None else entries * self.scale.T[:, None]
            values = (entries * _rows_at(slopes.T, self.reach)).mT @ _rows_at(block[0].weight.T, self.reach)
            block = block[1:]
        for affine in block:
            values = affine.linear(values, affine.weight)
        return Columns(values)

    def lengths(self, norm: Norm) -> Tensor:
        """How far the outputs move while the inputs move by at most 1 in that norm: [B or 1, m]."""
        if self.scale is None:
            return column_lengths(self.values, norm)
        if norm == "l2":
            return self.scale * column_lengths(self.values, norm)
        return self.scale @ self.values[:, 0].abs()

    def row_lengths(self, rows: Tensor, norm: Norm) -> Tensor:
        """The same for rows [B, S, m] times the outputs: [B, S]."""
        products = rows @ self.values.permute(1, 2, 0)
        return dual_norms(products if self.scale is None else products * self.scale[:, None], norm)


def dual_norms(rows: Tensor, norm: Norm) -> Tensor:
    """[..., n] to [...]: how fast a linear function can grow per unit of `norm`."""
    lengths: Tensor = torch.linalg.vector_norm(rows, ord=1 if norm == "linf" else 2, dim=-1)
    return lengths


def column_lengths(values: Tensor, norm: Norm) -> Tensor:
    """`dual_norms` over the first dimension, written out because vector_norm is slow there. Gradient 0 at 0."""
    if norm == "linf":
        sums: Tensor = _ColumnSums.apply(values)
        return sums
    squares = values.square().sum(0)
    lengths: Tensor = torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)
    return lengths


class _ColumnSums(torch.autograd.Function):
    """values.abs().sum(0), with a backward pass that makes one tensor of the size of the values, in place of two."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.abs().sum(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        values: Tensor = ctx.saved_tensors[0]
        return values.sgn().mul_(grad)


def _rows_at(matrix: Tensor, index: Tensor) -> Tensor:
    """Rows of a matrix [m, k] at index [a, s]: [a, s, k]."""
    rows: Tensor = matrix.contiguous().index_select(0, index.flatten())
    return rows.view(*index.shape, matrix.shape[1])


def parallel_bounds(blocks: Blocks, ball: Ball) -> list[Relaxation]:
    """The relaxations of all ReLUs, each from bounds through all layers before it."""
    return _middle(blocks, ball)[0]


def parallel_margins(blocks: Blocks, ball: Ball, rows: Tensor, constants: Tensor) -> Tensor:
    """`linear_margins` with `parallel_bounds`, at less cost."""
    relaxations, centre, columns = _middle(blocks, ball)
    spread = columns.row_lengths(rows, ball.norm) + _errors(blocks, relaxations, rows)
    return times(rows, centre) + constants - spread


def _middle(blocks: Blocks, ball: Ball) -> tuple[list[Relaxation], Tensor, Columns]:
    """The relaxations of all ReLUs; and what becomes of the centre of the ball and of its pixels in the last block.

    A pair of parallel lines is one line through their middle and an error of half their distance. The middle lines
    map the ball to a centre and columns, which go forward; every row of weights is pulled back to the errors.
    """
    relaxations: list[Relaxation] = []
    centre, columns = ball.centre(), Columns.of(blocks[0], ball.x, ball.reach())
    for affine in blocks[0]:
        centre = affine.forward(centre)
    for depth, block in enumerate(blocks[1:], start=1):
        spread = columns.lengths(ball.norm) + _errors(blocks[:depth], relaxations)
        relaxations.append(parallel((centre - spread, centre + spread)))
        slopes = relaxations[-1].upper
        centre, columns = centre * slopes + relaxations[-1].intercept / 2, columns.push(slopes, block)
        for affine in block:
            centre = affine.forward(centre)
    return relaxations, centre, columns


def _errors(blocks: Blocks, relaxations: Sequence[Relaxation], rows: Tensor | None = None) -> Tensor | float:
    """How far the errors of all ReLUs move rows [B, S, m] times the last block's outputs, or those outputs: [B, S]."""
    total: Tensor | float = 0.0
    slopes: Tensor | None = None
    for depth in range(len(blocks) - 1, 0, -1):
        error = relaxations[depth - 1].intercept / 2
        if depth == 1 and rows is not None and slopes is not None and [a.dense for a in blocks[1]] == [True]:
            return total + _last_errors(rows, slopes, blocks[1][0].weight, error)
        if rows is not None and slopes is not None:
            rows = rows * slopes[:, None]
        for affine in reversed(blocks[depth]):
            rows = affine.matrix() if rows is None else affine.pull(rows)
        assert rows is not None  # only the block before the head can be empty, and the head's rows are given
        total = total + absolute_times(rows, error)
        slopes = relaxations[depth - 1].upper
    return total


def _last_errors(rows: Tensor, slopes: Tensor, weight: Tensor, error: Tensor) -> Tensor:
    """|rows D W| error for rows [B or 1, S, m], D = diag(slopes [B, m]), weight W [m, k], error [B, k].

    Stable units have no error: only columns of W that count for an image are used, if these are few.
    """
    count = int((error > 0).sum(1).max())
    if 4 * count > 3 * error.shape[1]:
        return absolute_times((rows * slopes[:, None]) @ weight, error)
    index = error.detach().topk(count, dim=1)[1]
    picked, error = _rows_at(weight.T, index), error.gather(1, index)
    if len(rows) == 1:
        return absolute_times(F.linear(picked * slopes[:, None], rows[0]).mT, error)
    return absolute_times((rows * slopes[:, None]) @ picked.mT, error)
