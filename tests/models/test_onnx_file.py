"""ONNX files that cannot be evaluated: what to do about each, said in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from marginbench.benchmarks.models.load import load_model
from marginbench.methods import MarginbenchError

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnx2torch", reason="the extra onnx is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages


def write(path: Path, nodes: list[Any], opset: int = 17, batch: int | str = "batch", **constants: np.ndarray) -> str:
    """A graph from x [batch, 1, 8, 8] to logits."""
    make, real = onnx.helper, onnx.TensorProto.FLOAT
    given = make.make_tensor_value_info("x", real, [batch, 1, 8, 8])
    answer = make.make_tensor_value_info("logits", real, None)
    held = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = make.make_graph(nodes, "net", [given], [answer], held)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", opset)], ir_version=8), path)
    return str(path)


def node(operator: str, *inputs: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(operator, [*inputs], ["logits"], **attributes)


def refused(path: str) -> str:
    with pytest.raises(MarginbenchError) as error:
        load_model(path)
    assert "\n" not in str(error.value) and "give FILE.py:FACTORY" in str(error.value)
    return str(error.value)


EXPORT = "export it with opset_version=17 and dynamo=False"


def test_another_export_is_asked_for_only_where_that_helps(tmp_path: Path) -> None:
    recurrent = write(tmp_path / "lstm.onnx", [node("LSTM", "x", "w", "w", hidden_size=2)], w=np.zeros((1, 8, 8), "f"))
    answer = refused(recurrent)
    assert "the operator LSTM is read from no ONNX file" in answer and EXPORT not in answer
    for name, young in (("gelu", node("Gelu", "x")), ("reshape", node("Reshape", "x", "to"))):  # older ones do
        answer = refused(write(tmp_path / f"{name}.onnx", [young], 20, to=np.array([-1, 64])))
        assert EXPORT in answer and "read from no" not in answer
    zeros = {"to": np.array([-1, 64])}
    answer = refused(write(tmp_path / "zero.onnx", [node("Reshape", "x", "to", allowzero=1)], **zeros))
    assert EXPORT in answer, "the other exporter writes no such word"
    limits = write(tmp_path / "limits.onnx", [node("Clip", "x", "x")])
    answer = refused(limits)
    assert EXPORT not in answer, "it has been"


def test_a_graph_for_one_batch_is_refused_and_one_that_works_for_any_is_not(tmp_path: Path) -> None:
    for batch in (1, 4):
        fixed = write(tmp_path / "fixed.onnx", [node("Reshape", "x", "to")], batch=batch, to=np.array([batch, 64]))
        with pytest.raises(MarginbenchError, match=rf"fixed\.onnx: was exported for a fixed batch of {batch}: .*dyn"):
            load_model(fixed)
    x = torch.rand(5, 1, 8, 8)
    for name, batch in (("named", 1), ("open", "batch")):
        model, _ = load_model(write(tmp_path / f"{name}.onnx", [node("Flatten", "x")], batch=batch))
        assert torch.equal(model(x), x.flatten(1))
