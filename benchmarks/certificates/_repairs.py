"""Operations that auto-LiRPA 0.3 bounds wrongly, with bounds that hold. They take the place of its own in a trace.

Its patches forget groups and dilation, and mix up paddings that differ between the axes; its average pooling takes
every stride for the kernel's size and forgets padding, `ceil_mode` and `count_include_pad`; its LeakyReLU is a convex
function with a slope in [0, 1]. Nothing in it says so.
"""

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ELSE = 'choose conv_mode = "auto" or "matrix"'


class GeometryError(Exception):
    """An operation has sizes that its bounds do not know; the text is for the user."""


@cache
def repaired_operations() -> dict[str, Any]:
    """Classes by the names of operations in a trace; auto-LiRPA must have been loaded."""
    return {"onnx::Conv": _conv(), "onnx::AveragePool": _average_pool(), "onnx::LeakyRelu": _leaky_relu()}


def _operators(module: str) -> Any:
    return importlib.import_module(f"auto_LiRPA.operators.{module}")


def _conv() -> Any:
    base = _operators("convolution").BoundConv

    class Conv(base):  # type: ignore[misc, valid-type]
        """A convolution; patches only for one stride, one padding, no groups and no dilation."""

        def __init__(self, attr: Any, inputs: Any, output_index: int, options: Any) -> None:
            if attr.get("auto_pad", "NOTSET").startswith("SAME"):
                spans = [d * (k - 1) for d, k in zip(attr["dilations"], attr["kernel_shape"], strict=True)]
                attr = {**attr, "pads": [s // 2 for s in spans] + [s - s // 2 for s in spans]}
            if attr["pads"][:2] != attr["pads"][2:] or len(set(attr["dilations"])) > 1:
                raise GeometryError(
                    "a convolution pads two sides, or dilates two axes, differently: no bounds are known"
                )
            plain = attr["group"] == 1 and set(attr["dilations"]) == {1}
            even = len(set(attr["pads"])) == 1 and len(set(attr["strides"])) == 1
            if options.get("conv_mode") == "patches" and not (plain and even):
                raise GeometryError(f"no patches for this convolution: {ELSE}")
            super().__init__(attr, inputs, output_index, options)

    return Conv


def _average_pool() -> Any:
    base = _operators("pooling").BoundAveragePool

    class AveragePool(base):  # type: ignore[misc, valid-type]
        """The mean of every window: a linear map, whose transpose autograd knows for all geometries."""

        def __init__(self, attr: Any, inputs: Any, output_index: int, options: Any) -> None:
            super().__init__(attr, inputs, output_index, options)
            self.ceil_mode, self.count_include_pad = (
                bool(attr.get("ceil_mode", 0)),
                bool(attr.get("count_include_pad", 1)),
            )
            self.tiles = list(self.stride) == list(self.kernel_size) and not any(self.padding) and not self.ceil_mode
            if options.get("conv_mode") == "patches" and not self.tiles:
                raise GeometryError(f"no patches for this average pooling: {ELSE}")

        def bound_backward(self, last_lA: Any, last_uA: Any, x: Any) -> Any:  # noqa: N803
            if not isinstance(last_lA if last_lA is not None else last_uA, Tensor):
                return super().bound_backward(last_lA, last_uA, x)
            return [(self._transposed(last_lA), self._transposed(last_uA))], 0, 0

        def _transposed(self, rows: Tensor | None) -> Tensor | None:
            """[S, B, C, h, w] to [S, B, C, H, W]."""
            if rows is None:
                return None
            with torch.enable_grad():
                x = rows.new_zeros(rows.shape[0] * rows.shape[1], *self.input_shape[1:]).requires_grad_()
                out = self.forward(x)
                (back,) = torch.autograd.grad(out, x, rows.reshape(out.shape), create_graph=rows.requires_grad)
            return back.view(*rows.shape[:2], *back.shape[1:])

    return AveragePool


def _leaky_relu() -> Any:
    base = _operators("activation").BoundActivation

    class LeakyRelu(base):  # type: ignore[misc, valid-type]
        """max(x, 0) + a min(x, 0): convex for a <= 1, concave for a >= 1. The chord bounds it on one side.

        On the other side any line through 0 with a slope between a and 1 does. The four ways to choose one are those
        of the ReLU, for which a = 0.
        """

        def __init__(self, attr: Any, inputs: Any, output_index: int, options: Any) -> None:
            super().__init__(attr, inputs, output_index, options)
            self.slope = float(attr["alpha"])
            self.choice = options.get("activation_bound_option", "adaptive")

        def forward(self, x: Tensor) -> Tensor:
            return F.leaky_relu(x, self.slope)

        def interval_propagate(self, *v: Any) -> tuple[Tensor, Tensor]:
            low, high = v[0][0].contiguous(), v[0][1].contiguous()  # auto-LiRPA takes views of what comes out
            ends = self.forward(low), self.forward(high)
            least, most = torch.minimum(*ends), torch.maximum(*ends)
            inside = (low < 0) & (high > 0) & (self.slope < 0)  # the least value is that of the kink
            return torch.where(inside, 0, least), most

        def bound_relax(self, x: Any) -> None:
            low, high = x.lower, x.upper
            crossing = (low < 0) & (high > 0)
            width = torch.where(crossing, high - low, 1)
            stable = torch.where(low >= 0, 1, self.slope).to(low)
            chord = torch.where(crossing, (high - self.slope * low) / width, stable)
            offset = torch.where(crossing, high - chord * high, 0)
            ray = torch.where(crossing, self._ray(low, high, chord), chord)
            none = torch.zeros_like(ray)
            chord_above = self.slope <= 1
            self.uw, self.ub = (chord, offset) if chord_above else (ray, none)
            self.lw, self.lb = (ray, none) if chord_above else (chord, offset)

        def _ray(self, low: Tensor, high: Tensor, chord: Tensor) -> Tensor:
            if self.choice == "same-slope":
                return chord
            if self.choice == "zero-lb":
                return torch.full_like(low, self.slope)
            return torch.where((high > -low) | (self.choice == "one-lb"), 1.0, self.slope).to(low)

    return LeakyRelu
