"""Linear functions of a layer's input, one for each unit behind it, pulled back to the pixels or pushed forward."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods.facts import Norm
from marginbench.methods.maths.bounds.linear import (
    Affine,
    Ball,
    Path,
    Power,
    Relaxation,
    Sum,
    parallel,
    power_times,
    times,
)
from marginbench.methods.maths.operator_norm import convolution_matrix


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
    """Rows of all units of a convolution: a unit sees the window of the images [C, H, W] at its position.

    Far smaller than dense rows where windows are small, as in the first layers. What lies beyond the border counts for
    nothing.
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
        assert affine.geometry is not None
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
    assert affine.geometry is not None
    steps = zip(kernel, affine.geometry[0], affine.weight.shape[2:], strict=True)
    height, width = ((n - 1) * stride + size for n, stride, size in steps)
    return height, width


@dataclass(frozen=True)
class Line:
    """In place of a ReLU: slope x + error, give or take the error."""

    slope: Tensor  # [B, m]
    error: Tensor | None = None  # [B, m]; None: 0


def pull(rows: Rows, path: Path, lines: Iterator[Line]) -> tuple[Rows, Tensor | float]:
    """Rows on the outputs of a path to rows on its inputs, and how far errors move them [B or 1, S].

    `lines` come from the end of the path.
    """
    moved: Tensor | float = 0.0
    for depth in range(len(path) - 1, -1, -1):
        for part in reversed(path[depth]):
            if isinstance(part, Affine):
                rows = rows.pull(part)
            else:
                (second, more), (first, most) = (pull(rows, inner, lines) for inner in reversed(part.paths))
                assert isinstance(first, Dense) and isinstance(second, Dense)
                rows, moved = Dense(first.values + second.values), moved + more + most
        if depth:
            line = next(lines)
            if line.error is not None:
                moved = moved + rows.powers(1, line.error)
            rows = rows.scale(line.slope)
    return rows, moved


@dataclass(frozen=True)
class Columns:
    """What each of n pixels adds to m values, pushed forward."""

    values: Tensor  # [B or 1, n, m]
    slopes: Tensor | None = None  # [B, m]: factors still to be applied
    reach: Tensor | None = None  # [n, s]: indices outside of which the values, alike for all images, are 0

    def written_out(self) -> Tensor:
        return self.values if self.slopes is None else self.values * self.slopes[:, None]

    def push(self, affine: Affine) -> "Columns":
        """Through a map."""
        if self.slopes is None or self.reach is None or not affine.dense:
            return Columns(affine.linear(self.written_out(), affine.weight))
        entries = self.values[0].gather(1, self.reach)[..., None] * _rows_at(self.slopes.T, self.reach)
        return Columns((entries.mT @ _rows_at(affine.weight.T, self.reach)).transpose(0, 1))


def _rows_at(matrix: Tensor, index: Tensor) -> Tensor:
    """Rows of a matrix [m, k] at index [a, s]: [a, s, k]."""
    rows: Tensor = matrix.contiguous().index_select(0, index.flatten())
    return rows.view(*index.shape, matrix.shape[1])


@dataclass(frozen=True)
class Point:
    """A place in a network whose ReLUs are lines."""

    path: Path  # from the pixels to here
    lines: tuple[Line, ...]  # of its ReLUs
    value: Tensor  # [B, m] what the middle of the ball becomes
    columns: Columns | None = None  # None: rows have to be pulled back

    def rows(self, specified: Tensor | None = None) -> tuple[Rows, Tensor | float]:
        """Rows of the values here, or of rows [B, S, m] of them, on the pixels; and how far errors move them."""
        if self.columns is None:
            return pull(self._units(specified), self.path, reversed(self.lines))
        moved: Tensor | float = 0.0
        if any(line.error is not None for line in self.lines):
            sums = (i for i, part in enumerate(self.path[0]) if isinstance(part, Sum))
            behind = self.path[0][next(sums, len(self.path[0])) :]  # no errors in front of that
            moved = pull(self._units(specified), [behind, *self.path[1:]], reversed(self.lines))[1]
        rows = self.columns.written_out().mT
        return Dense(rows if specified is None else specified @ rows), moved

    def _units(self, specified: Tensor | None) -> Rows:
        """The same on the values: patches of those where these stay smaller than the image."""
        if specified is not None:
            return Dense(specified)
        ones = torch.eye(self.value.shape[1], dtype=self.value.dtype, device=self.value.device)
        parts = [part for block in self.path for part in block]
        maps = [part for part in parts if isinstance(part, Affine) and part.weight.dim() > 1]
        if not maps or not all(isinstance(part, Affine) for part in parts) or any(a.geometry is None for a in maps):
            return Dense(ones[None])
        kernel = (1, 1)
        for affine in reversed(maps):
            kernel = enlarged(kernel, affine)
        if math.prod(kernel) >= math.prod(maps[0].inputs[1:]):
            return Dense(ones[None])
        channels = maps[-1].outputs[0]
        return Patches(ones[None, None, :channels, :channels], maps[-1].outputs)

    def behind_relu(self, line: Line, rows: Rows) -> "Point":
        """The point behind a ReLU, given the rows of the values here."""
        value = self.value * line.slope
        columns = None
        if isinstance(rows, Dense):
            first = self.path[0][0] if len(self.path) == len(self.path[0]) == 1 else None
            reach = first.reach if isinstance(first, Affine) else None
            columns = Columns(rows.values.mT, line.slope, reach)
        value = value if line.error is None else value + line.error
        return Point([*self.path, []], (*self.lines, line), value, columns)

    def behind(self, affine: Affine) -> "Point":
        """The point behind a map."""
        columns = None if self.columns is None else self.columns.push(affine)
        return Point(_extended(self.path, affine), self.lines, affine.forward(self.value), columns)

    def behind_sum(self, both: Sum, ends: Sequence["Point"]) -> "Point":
        """The point behind a sum that starts here, given the ends of its paths."""
        lines = [line for end in ends for line in end.lines[len(self.lines) :]]
        columns = ends[0]._written_out() + ends[1]._written_out()
        value = ends[0].value + ends[1].value
        return Point(_extended(self.path, both), (*self.lines, *lines), value, Columns(columns))

    def _written_out(self) -> Tensor:
        if self.columns is not None:
            return self.columns.written_out()
        ones = torch.eye(self.value.shape[1], dtype=self.value.dtype, device=self.value.device)
        rows = pull(Dense(ones[None]), self.path, reversed(self.lines))[0]
        assert isinstance(rows, Dense)
        return rows.values.mT


def _extended(path: Path, part: Affine | Sum) -> Path:
    return [*path[:-1], [*path[-1], part]]


Relu = Callable[[Point, Rows, Tensor | float], Line]  # of a point, its rows on the pixels and how far errors move them


def follow(path: Path, point: Point, relu: Relu) -> Point:
    """The end of a path from a point on; `relu` gives the line that replaces each ReLU."""
    for depth, block in enumerate(path):
        if depth:
            rows, moved = point.rows()
            point = point.behind_relu(relu(point, rows, moved), rows)
        for part in block:
            if isinstance(part, Affine):
                point = point.behind(part)
            else:
                point = point.behind_sum(part, [follow(inner, point, relu) for inner in part.paths])
    return point


def entry(path: Path, x: Tensor) -> tuple[Tensor, Path, Point]:
    """The diagonal maps at the beginning as factors [1, n] of pixels x [B, n], the rest, and the point before it."""
    count = 0
    scale, value = torch.ones_like(x[:1]), x
    for part in path[0]:
        if not isinstance(part, Affine) or part.weight.dim() > 1:
            break
        scale, value = scale * part.weight, part.forward(value)
        count += 1
    return scale, [path[0][count:], *path[1:]], Point([[]], (), value)


def lengths(rows: Rows, reach: Tensor, norm: Norm) -> Tensor:
    """How far the values of rows can move with their n inputs: [B or 1, S].

    Args:
        reach: [B or 1, n] how far each input may move in linf; in l2 factors of inputs that move by 1 together.
    """
    if norm == "linf":
        return rows.powers(1, reach.abs())
    squares = rows.powers(2, reach.square())
    roots: Tensor = torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)  # gradient 0 at 0
    return roots


def parallel_margins(path: Path, ball: Ball, rows: Tensor, constants: Tensor) -> Tensor:
    """`linear_margins` with the relaxations of `parallel_relaxations`, at less cost."""
    _, end, scale = parallel_relaxations(path, ball)
    return times(rows, end.value) + constants - _spread(ball, scale, *end.rows(rows))


def parallel_relaxations(path: Path, ball: Ball) -> tuple[list[Relaxation], Point, Tensor]:
    """The relaxations of all ReLUs, each from bounds through all layers before it; the path's end; the pixels' scale.

    A pair of parallel lines is the line midway between them, with an error of half their distance. The centre of the
    ball goes forward through the middle lines; how far values can be from there is pulled back.
    """
    relaxations: list[Relaxation] = []
    scale, rest, start = entry(path, ball.centre())

    def relu(point: Point, rows: Rows, moved: Tensor | float) -> Line:
        spread = _spread(ball, scale, rows, moved)
        relaxations.append(parallel((point.value - spread, point.value + spread)))
        return Line(relaxations[-1].upper, relaxations[-1].intercept / 2)

    return relaxations, follow(rest, start, relu), scale


def _spread(ball: Ball, scale: Tensor, rows: Rows, moved: Tensor | float) -> Tensor:
    """How far rows on scaled pixels move within the ball, with what errors add: [B or 1, S]."""
    if ball.norm == "linf":
        return moved + lengths(rows, scale * ball.reach(), "linf")
    return moved + ball.epsilon * lengths(rows, scale, "l2")
