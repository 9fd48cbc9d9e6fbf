"""Models from ONNX files, by the package onnx2torch: what it cannot read, and what holds for one batch alone."""

import importlib
import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from marginbench.benchmarks.extras import ONNX_READER
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import one_line
from marginbench.methods.held import modes_kept

OPSET = 17  # the newest whose operators the package knows, but for what it knows at no version
FACTORY = "give FILE.py:FACTORY, which makes an nn.Module"
REMEDY = f"export it with opset_version={OPSET} and dynamo=False, or {FACTORY}"


def read_onnx(path: Path) -> nn.Module:
    """The module that computes what the graph does.

    Raises:
        MarginbenchError: the package is missing or cannot read the file, or the graph works for one number of images.
    """
    if ONNX_READER.missing:
        raise MarginbenchError(f"model {path}: needs a package: {ONNX_READER.advice}; or {FACTORY}")
    reader = importlib.import_module("onnx2torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model: nn.Module = reader.convert(str(path)).cpu()
        except Exception as error:  # operators that are not known, damaged files
            remedy = _remedy(path)
            raise MarginbenchError(f"model {path}: cannot be read ({one_line(error)}): {remedy}") from error
        _check_batch(path, model)
    return model


def _graph(path: Path) -> Any:
    return importlib.import_module("onnx").load(path, load_external_data=False)


def _remedy(path: Path) -> str:
    try:
        file = _graph(path)
    except Exception:  # damaged
        return REMEDY
    nodes = file.graph.node
    if unknown := sorted({node.op_type for node in nodes if not _readable(node.op_type, node.domain)}):
        plural = len(unknown) > 1
        words = f"operators {', '.join(unknown)} are" if plural else f"operator {unknown[0]} is"
        return f"the {words} read from no ONNX file: {FACTORY}"
    newest = max((opset.version for opset in file.opset_import if opset.domain in ("", "ai.onnx")), default=0)
    by_dynamo = any(attribute.name == "allowzero" for node in nodes for attribute in node.attribute)
    return REMEDY if newest > OPSET or by_dynamo else FACTORY


def _readable(operator: str, domain: str) -> bool:
    """Whether a graph of the older operators can do without it, or with a form of it that the package knows."""
    schemas = importlib.import_module("onnx").defs
    with suppress(schemas.SchemaError):
        schemas.get_schema(operator, OPSET, domain)
        converters = importlib.import_module("onnx2torch.node_converters")
        try:
            converters.get_converter(operator, OPSET, domain)
        except NotImplementedError:
            return False
    return True  # where it is younger, the exporter writes something else


def _check_batch(path: Path, model: nn.Module) -> None:
    """Give one image more than a graph of a fixed batch was exported for: many work all the same."""
    try:
        graph = _graph(path).graph
        constants = {tensor.name for tensor in graph.initializer}
        (given,) = (value for value in graph.input if value.name not in constants)
        shape = [size.dim_value for size in given.type.tensor_type.shape.dim]
    except Exception:  # what is given to it is checked when it is evaluated
        return
    if not shape or not math.prod(shape):  # a length that is open is 0
        return
    batch = shape[0]
    dtype = importlib.import_module("onnx").helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    if not _takes([batch + 1, *shape[1:]], dtype, model):
        raise MarginbenchError(
            f"model {path}: was exported for a fixed batch of {batch}: export it for any, with"
            " dynamic_shapes=({0: torch.export.Dim('batch')},), or with dynamic_axes={'images': {0: 'batch'}} and"
            " input_names=['images'] where dynamo=False"
        )


def _takes(shape: Sequence[int], dtype: Any, model: nn.Module) -> bool:
    with torch.no_grad(), modes_kept(model):
        model.eval()
        try:
            return len(model(torch.from_numpy(np.zeros(shape, dtype)))) == shape[0]
        except Exception:  # of any operation
            return False
