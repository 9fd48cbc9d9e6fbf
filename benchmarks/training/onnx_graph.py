"""A network as an ONNX graph that readers of older operators know, too.

Operators of set 18, the oldest that torch's exporter writes by itself: those after it have other numbers alone for what
our networks compute, and `onnx2torch`, by which `marginbench evaluate` reads graphs, knows them up to 17. In 18 only
reductions have changed, but for the sum: norms and means are written by it.
"""

import importlib
import math
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marginbench.benchmarks.extras import ONNX
from marginbench.methods import Net
from marginbench.methods.errors import one_line

OPSET = 18


def input_name(x: Tensor) -> str:
    """Of the input in a graph."""
    return "images" if x.is_floating_point() else "sentences"


def to_onnx(net: Net, x: Tensor) -> tuple[bytes | None, str | None]:
    """The graph for any number of inputs like x, or why there is none."""
    if ONNX.missing:
        return None, f"needs packages: {ONNX.advice}"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "net.onnx"
        try:
            program: Any = torch.onnx.export(
                net,
                (x,),
                input_names=[input_name(x)],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table={
                    torch.ops.aten.linalg_vector_norm.default: _norm,
                    torch.ops.aten.mean.dim: _mean,
                },
                verbose=False,
            )
            for node in program.model.graph:
                if node.op_type == "Reshape":
                    node.attributes.pop("allowzero", None)  # a length of 0, which no layer has: readers refuse the word
            program.save(path, external_data=False)
        except Exception as error:  # whatever the exporter does not know
            return None, f"cannot be written as ONNX ({one_line(error)})"
        return path.read_bytes(), None


def _operators() -> Any:
    return importlib.import_module("onnxscript").opset18


def _norm(x: Any, ord: float = 2.0, dim: Sequence[int] | None = None, keepdim: bool = False, dtype: int = -1) -> Any:
    """Along dimensions, or of all."""
    op = _operators()
    if math.isinf(ord):
        reduce = op.ReduceMax if ord > 0 else op.ReduceMin
        return reduce(op.Abs(x), _axes(dim), keepdims=int(keepdim))
    if ord == 2:
        return op.Sqrt(_sum(op.Mul(x, x), dim, keepdim))
    powers = op.Pow(op.Abs(x), op.Constant(value_float=float(ord)))
    return op.Pow(_sum(powers, dim, keepdim), op.Constant(value_float=1 / ord))


def _mean(x: Any, dim: Sequence[int], keepdim: bool = False, dtype: int = -1) -> Any:
    count = math.prod(x.shape[axis] for axis in dim)
    return _operators().Div(_sum(x, dim, keepdim), _operators().Constant(value_float=float(count)))


def _sum(x: Any, dim: Sequence[int] | None, keepdim: bool) -> Any:
    return _operators().ReduceSum(x, _axes(dim), keepdims=int(keepdim))


def _axes(dim: Sequence[int] | None) -> Any:
    return _operators().Constant(value_ints=[*dim]) if dim else None
