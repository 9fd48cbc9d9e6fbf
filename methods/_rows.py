"""Linear functions of what enters a layer, one for each unit behind it, pulled back to the pixels or pushed forward."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods._bounds import Affine, Ball, Blocks, Power, Relaxation, parallel, power_times, times
from marginbench.methods._operator_norm import convolution_matrix
from marginbench.methods.method import Norm


@dataclass(frozen=True)
class Dense:
    """Rows written out."""

    values: Tensor  # [B or 1, S, m]

    def pull(self, affine: Affine) -> "Dense":
        """To the rows on the inputs of the map."""
        return Dense(affine.pull(self.values))

    def scale(self, slopes: Tensor) -> "Dense":
        """To the rows in front of a diagonal map for each image [B or 1, m]."""
        return Dense(self.values * slopes[:, None])

    def powers(self, power: Power, x: Tensor) -> Tensor:
        """sum_i |row_i|^power x_i for x [B or 1, m]: [B, S]."""
        return power_times(self.values, x, power)


@dataclass(frozen=True)
class Patches:
    """Rows of all units of a convolution: a unit sees the window of the images [C, H, W] that its position looks at.

    Far smaller than rows written out where windows are: units of the first layers. What a window has beyond the border
    counts for nothing.
    """

    values: Tensor  # [B or 1, L or 1, O, C kh kw] for units of O channels and L positions
    images: tuple[int, ...]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    slopes: Tensor | None = None  # [B or 1, L, C kh kw]: factors still to be applied

    def windows(self, x: Tensor) -> Tensor:
        """What every position sees of x [B, C H W], zeros beyond the border: [B, L, C kh kw]."""
        images = x.reshape(-1, *self.images)
        columns: Tensor = F.unfold(images, self.kernel, padding=self.padding, stride=self.stride)
        return columns.mT

    def pull(self, affine: Affine) -> "Patches":
        if affine.weight.dim() == 1:
            return self.scale(affine.weight[None])
        stride, padding = affine.geometry
        kernel = enlarged(self.kernel, affine)
        matrix = convolution_matrix(affine.weight, kernel, stride, (0, 0))
        inside = self.scale(matrix.new_ones(1, math.prod(self.images))) if self.slopes is None else self
        return Patches(
            inside._times(matrix),
            affine.inputs,
            kernel,
            (self.stride[0] * stride[0], self.stride[1] * stride[1]),
            (self.padding[0] * stride[0] + padding[0], self.padding[1] * stride[1] + padding[1]),
        )

    def _times(self, matrix: Tensor) -> Tensor:
        """Values and slopes times a matrix [C kh kw, n]."""
        assert self.slopes is not None
        if self.values.shape[:2] != (1, 1):
            return (self.values * self.slopes[:, :, None]) @ matrix
        joined = self.values[0, 0].T[:, :, None] * matrix[:, None]  # [C kh kw, O, n], the same for all windows
        return (self.slopes @ joined.flatten(1)).view(*self.slopes.shape[:2], *joined.shape[1:])

    def scale(self, slopes: Tensor) -> "Patches":
        here = self.windows(slopes)
        return replace(self, slopes=here if self.slopes is None else self.slopes * here)

    def powers(self, power: Power, x: Tensor) -> Tensor:
        weights = self.windows(x)
        if self.slopes is not None:
            weights = weights * self.slopes.abs() ** power
        values = self.values
        if values.shape[:2] != (1, 1):
            size = torch.broadcast_shapes(values.shape[:2], weights.shape[:2])
            values, weights = (part.expand(*size, *part.shape[2:]) for part in (values, weights))
        sums = power_times(values.flatten(0, 1), weights.flatten(0, 1), power)
        return sums.view(*weights.shape[:2], -1).mT.flatten(1)


Rows = Dense | Patches


def enlarged(kernel: tuple[int, int], affine: Affine) -> tuple[int, int]:
    """The window on the inputs of a convolution behind which `kernel` is one on its outputs."""
    steps = zip(kernel, affine.geometry[0], affine.weight.shape[2:], strict=True)
    height, width = ((n - 1) * stride + size for n, stride, size in steps)
    return height, width


def units_of(blocks: Blocks, values: Tensor) -> Rows:
    """Rows for the outputs of the last block, `values` [B, m], on themselves: patches if these stay below the image."""
    ones = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
    maps = [affine for block in blocks for affine in block if affine.weight.dim() > 1]
    if not maps or any(affine.convolution is None for affine in maps):
        return Dense(ones[None])
    kernel = (1, 1)
    for affine in reversed(maps):
        kernel = enlarged(kernel, affine)
    if math.prod(kernel) >= math.prod(maps[0].inputs[1:]):
        return Dense(ones[None])
    channels = maps[-1].outputs[0]
    return Patches(ones[None, None, :channels, :channels], maps[-1].outputs)


def split_scale(blocks: Blocks, x: Tensor) -> tuple[Tensor, Blocks]:
    """The diagonal maps that the first block begins with as factors [1, n] of pixels x [B, n], and the rest."""
    first = blocks[0]
    count = next((i for i, affine in enumerate(first) if affine.weight.dim() > 1), len(first))
    scale = torch.ones_like(x[:1])
    for affine in first[:count]:
        scale = scale * affine.weight
    return scale, [first[count:], *blocks[1:]]


def pull(rows: Rows, blocks: Blocks, slopes: Sequence[Tensor], errors: Sequence[Tensor]) -> tuple[Rows, Tensor | float]:
    """Rows on the outputs of the last block to rows in front of the first ReLU, and how far errors move them.

    Args:
        slopes: [B, m] of every ReLU between the blocks, in place of it.
        errors: [B, m] what each unit may be away from that line; none: nothing.
    """
    moved: Tensor | float = 0.0
    for depth in range(len(blocks) - 1, 0, -1):
        for affine in reversed(blocks[depth]):
            rows = rows.pull(affine)
        if errors:
            moved = moved + rows.powers(1, errors[depth - 1])
        if depth > 1:
            rows = rows.scale(slopes[depth - 1])
    return rows, moved


def push(rows: Dense, slopes: Tensor, block: list[Affine], reach: Tensor | None = None) -> Dense:
    """Rows on the pixels of the units before a ReLU to those of the outputs of the block behind it.

    Args:
        reach: [n, s] the units that each pixel reaches, where the rows are the same for all images.
    """
    if reach is None or not block or not block[0].dense:
        columns = (rows.values * slopes[:, :, None]).mT
    else:  # for every pixel only the products that are not 0
        entries = rows.values[0].T.gather(1, reach)[..., None] * _rows_at(slopes.T, reach)
        columns = (entries.mT @ _rows_at(block[0].weight.T, reach)).transpose(0, 1)
        block = block[1:]
    for affine in block:
        columns = affine.linear(columns, affine.weight)
    return Dense(columns.mT)


def _rows_at(matrix: Tensor, index: Tensor) -> Tensor:
    """Rows of a matrix [m, k] at index [a, s]: [a, s, k]."""
    rows: Tensor = matrix.contiguous().index_select(0, index.flatten())
    return rows.view(*index.shape, matrix.shape[1])


def on_pixels(
    blocks: Blocks,
    slopes: Sequence[Tensor],
    errors: Sequence[Tensor],
    before: Rows | None,
    rows: Rows,
    specified: bool = False,
) -> tuple[Rows, Tensor | float]:
    """Rows of the last block's outputs on the inputs of the first, and how far errors move them [B or 1, S].

    Args:
        before: on those inputs, the rows of the units in front of the last ReLU, if there is one.
        specified: whether `rows` are others than one for each output.
    """
    if isinstance(before, Dense) and isinstance(rows, Dense):
        moved = pull(rows, blocks, slopes, errors)[1] if errors else 0.0
        mixing = [affine for block in blocks[:-1] for affine in block]
        outputs = push(before, slopes[-1], blocks[-1], mixing[0].reach if len(mixing) == 1 else None)
        return Dense(rows.values @ outputs.values) if specified else outputs, moved
    rows, moved = pull(rows, blocks, slopes, errors)
    if slopes:
        rows = rows.scale(slopes[0])
    for affine in reversed(blocks[0]):
        rows = rows.pull(affine)
    return rows, moved


def lengths(rows: Rows, reach: Tensor, norm: Norm) -> Tensor:
    """How far the values of rows can move with their n inputs: [B or 1, S].

    Args:
        reach: [B or 1, n] how far each input may move in linf; in l2 factors of inputs that move by 1 in all.
    """
    if norm == "linf":
        return rows.powers(1, reach.abs())
    squares = rows.powers(2, reach.square())
    roots: Tensor = torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)  # gradient 0 at 0
    return roots


def parallel_bounds(blocks: Blocks, ball: Ball) -> list[Relaxation]:
    """The relaxations of all ReLUs, each from bounds through all layers before it."""
    return _middle(blocks, ball)[0]


def parallel_margins(blocks: Blocks, ball: Ball, rows: Tensor, constants: Tensor) -> Tensor:
    """`linear_margins` with `parallel_bounds`, at less cost."""
    _, centre, spread = _middle(blocks, ball, rows)
    return times(rows, centre) + constants - spread


def _middle(blocks: Blocks, ball: Ball, rows: Tensor | None = None) -> tuple[list[Relaxation], Tensor, Tensor | float]:
    """The relaxations of all ReLUs, what becomes of the centre of the ball in the last block, and the spread.

    A pair of parallel lines is one line through their middle and an error of half their distance. The centre goes
    forward through the middle lines; the spread says how far rows [B, S, m] of the outputs can be from there.
    """
    scale, maps = split_scale(blocks, ball.x)
    relaxations: list[Relaxation] = []
    slopes: list[Tensor] = []
    errors: list[Tensor] = []
    centre, before = ball.centre(), None
    spread: Tensor | float = 0.0
    for depth, block in enumerate(blocks):
        if depth:
            line = parallel((centre - spread, centre + spread))
            relaxations.append(line)
            slopes.append(line.upper)
            errors.append(line.intercept / 2)
            centre = centre * slopes[-1] + errors[-1]
        for affine in block:
            centre = affine.forward(centre)
        here = maps[: depth + 1]
        if depth + 1 < len(blocks):
            before, moved = on_pixels(here, slopes, errors, before, units_of(here, centre))
            spread = moved + _reached(before, scale, ball)
        elif rows is not None:
            pulled, moved = on_pixels(here, slopes, errors, before, Dense(rows), specified=True)
            spread = moved + _reached(pulled, scale, ball)
    return relaxations, centre, spread


def _reached(rows: Rows, scale: Tensor, ball: Ball) -> Tensor:
    """How far rows on scaled pixels move within the ball: [B or 1, S]."""
    if ball.norm == "linf":
        return lengths(rows, scale * ball.reach(), "linf")
    return ball.epsilon * lengths(rows, scale, "l2")
