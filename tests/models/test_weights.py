"""State dicts are found and fitted under whatever names they were saved, or refused in one line with the remedy."""

import io
import logging
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

from marginbench.benchmarks.models.weights import load_weights
from marginbench.methods import MarginbenchError

State = dict[str, Tensor]


def net() -> nn.Module:
    return nn.Sequential(OrderedDict(body=nn.Linear(4, 3), relu=nn.ReLU(), head=nn.Linear(3, 2)))


def filled() -> nn.Module:
    model = net()
    model.load_state_dict(state())
    return model


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()


def state(value: float = 1.0) -> State:
    return {name: torch.full_like(tensor, value) for name, tensor in net().state_dict().items()}


def prefixed(prefix: str, value: float = 1.0) -> State:
    return {prefix + name: tensor for name, tensor in state(value).items()}


FITTING: dict[str, Callable[[], Any]] = {
    "plain": state,
    "of DataParallel": lambda: prefixed("module."),
    "of torch.compile": lambda: prefixed("_orig_mod."),
    "of both": lambda: prefixed("module._orig_mod."),
    "of a compiled part": lambda: {name.replace("body.", "body._orig_mod."): t for name, t in state().items()},
    "of Lightning": lambda: {"epoch": 3, "state_dict": prefixed("model.")},
    "of a wrapper": lambda: {"net": prefixed("net.")},
    "deeper": lambda: {"checkpoint": {"model": state()}, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "by another name": lambda: {"weights": state(), "lr": 0.1},
    "of one in a list": lambda: [state()],
    "of a list in a checkpoint": lambda: {"state_dict": [state()], "epoch": 3},
    "ordered": lambda: OrderedDict(state()),
    "of AveragedModel": lambda: AveragedModel(filled()).state_dict(),
}


INTEGERS: dict[str, Callable[[Tensor], Tensor]] = {
    "int8": lambda t: (127 * t).round().to(torch.int8),
    "uint8": lambda t: (255 * t.abs()).to(torch.uint8),
    "int64": lambda t: t.long(),
    "bool": lambda t: t > 0,
    "qint8": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_are_no_weights(kind: str, tmp_path: Path) -> None:
    saved = state() | {"head.weight": INTEGERS[kind](torch.ones(2, 3))}
    torch.save(saved, tmp_path / "net.pt")
    with pytest.raises(MarginbenchError, match=f"'head.weight' holds {kind}, and the model has float32 there"):
        load_weights(net(), tmp_path / "net.pt")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are(kind: torch.dtype, tmp_path: Path) -> None:
    torch.save({name: tensor.to(kind) for name, tensor in state().items()}, tmp_path / "net.pt")
    model = net()
    load_weights(model, tmp_path / "net.pt")
    assert all(tensor.dtype == torch.float32 and bool((tensor == 1).all()) for tensor in model.state_dict().values())


def test_integers_are_where_the_model_has_them(tmp_path: Path) -> None:
    model = nn.BatchNorm1d(3)
    model.register_buffer("order", torch.arange(3))
    saved = {**model.state_dict(), "num_batches_tracked": torch.tensor(7), "order": torch.tensor([2, 1, 0])}
    torch.save(saved, tmp_path / "net.pt")
    load_weights(model, tmp_path / "net.pt")
    assert model.get_buffer("order").tolist() == [2, 1, 0] and int(model.get_buffer("num_batches_tracked")) == 7


@pytest.mark.parametrize("kind", FITTING)
def test_a_state_dict_is_found(kind: str, tmp_path: Path) -> None:
    torch.save(FITTING[kind](), tmp_path / "net.pt")
    for model in (net(), Wrapper(), nn.DataParallel(net())):
        load_weights(model, tmp_path / "net.pt")
        assert all(bool((tensor == 1).all()) for tensor in model.state_dict().values()), type(model)


def test_of_two_that_fit_the_usual_one_is_taken_aloud_or_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, path = net(), tmp_path / "net.pt"
    torch.save({"ema": state(2.0), "model": state(1.0), "other": {"fc.weight": torch.ones(2, 2)}}, path)
    with caplog.at_level(logging.WARNING, "marginbench"):
        load_weights(model, path)
    assert all(bool((tensor == 1).all()) for tensor in model.state_dict().values())
    assert "took 'model'; 'ema' would fit the model too" in caplog.text
    torch.save({"ema": state(2.0), "raw": state(1.0)}, path)
    with pytest.raises(MarginbenchError, match="'ema' and 'raw' fit the model: save the one that is meant"):
        load_weights(model, path)


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net()), buffer)
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.numpy() for name, tensor in state().items()})
    return buffer.getvalue()


REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("net.pt", lambda: b"", "is empty: copy or download it again"),
    "cut": ("net.pt", lambda: saved(state())[:-300], "is cut off: copy or download it again"),
    "pointer": (
        "net.safetensors",
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "is a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    "page": ("net.pt", lambda: b"<!DOCTYPE html>\n<html>", "is a web page, not the file itself"),
    "text": ("net.pt", lambda: b"no weights at all", "holds nothing that torch.save or safetensors has written: copy"),
    "noise": ("net.safetensors", lambda: b"\xff" * 100, "holds nothing that torch.save or safetensors has written"),
    "pickle": ("net.pkl", lambda: pickle.dumps(state()), "is a pickle that torch.save did not write: save model"),
    "safetensors": (
        "net.pt",
        lambda: (100).to_bytes(8, "little") + b'{"a":',
        "not a readable file of weights .SafetensorError.*copy or download it again",
    ),
    "numpy": ("net.npz", arrays, r"is an .npz file of numpy: save model.state_dict\(\) with torch.save"),
    "TorchScript": ("net.pt", scripted, "is a whole TorchScript model: give it as the model, without weights"),
    "module": ("net.pt", lambda: saved(net()), r"refused, it is more than tensors .*: save model.state_dict\(\)"),
    "list": ("net.pt", lambda: saved([state(), state()]), "holds a list, and no single state dict"),
    "nested list": (
        "net.pt",
        lambda: saved({"state_dict": [state(), state()]}),
        "holds a list, and no single state dict",
    ),
    "numbers": ("net.pt", lambda: saved({"lr": 0.1}), "holds no tensors by name"),
    "keys": (
        "net.pt",
        lambda: saved({f"layer{i}": torch.ones(1) for i in range(5)}),
        "no key 'body.weight', 'body.bias', 'head.weight', ... .4 in all., "
        "unexpected key 'layer0', 'layer1', 'layer2', ... .5 in all.$",
    ),
    "prefix": (
        "net.pt",
        lambda: saved({**prefixed("student."), "teacher": torch.ones(1)}),
        "unexpected key .*; without the prefix 'student.', 4 of the model's 4 keys are there$",
    ),
    "shape": ("net.pt", lambda: saved({**state(), "head.weight": torch.ones(5, 3)}), "size mismatch for head.weight"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_state_dict_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    name, content, message = REFUSED[kind]
    if kind == "safetensors":
        pytest.importorskip("safetensors")
    (tmp_path / name).write_bytes(content())
    with pytest.raises(MarginbenchError, match=f"weights .*{name}: .*{message}") as error:
        load_weights(net(), tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_older_forms_are_read_behind_a_prefix_too(prefix: str, tmp_path: Path) -> None:
    saved = {f"{prefix}0.weight_g": torch.full((3, 1), 2.0), f"{prefix}0.weight_v": torch.tensor([[3.0, 4.0]] * 3)}
    saved |= {f"{prefix}1.{name}": torch.ones(3) for name in ("weight", "bias", "running_mean", "running_var")}
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 3, bias=False)), nn.BatchNorm1d(3))
    torch.save(saved, tmp_path / "net.pt")
    load_weights(model, tmp_path / "net.pt")
    assert torch.allclose(model[0].weight, torch.tensor([1.2, 1.6])) and bool((model[1].running_mean == 1).all())
    torch.save({"ema": saved, "raw": saved}, tmp_path / "two.pt")
    with pytest.raises(MarginbenchError, match="'ema' and 'raw' fit the model"):
        load_weights(model, tmp_path / "two.pt")
    del saved[f"{prefix}1.running_mean"]
    torch.save(saved, tmp_path / "net.pt")
    with pytest.raises(MarginbenchError, match="do not fit the model: no key"):
        load_weights(model, tmp_path / "net.pt")


def test_what_a_file_is_does_not_depend_on_its_name(tmp_path: Path) -> None:
    files = pytest.importorskip("safetensors.torch")
    files.save_file(state(2.0), tmp_path / "net.pt")
    torch.save(state(3.0), tmp_path / "net.safetensors")
    torch.save(state(4.0), tmp_path / "old.npz", _use_new_zipfile_serialization=False)
    for name, value in (("net.pt", 2.0), ("net.safetensors", 3.0), ("old.npz", 4.0)):
        model = net()
        load_weights(model, tmp_path / name)
        assert all(bool((tensor == value).all()) for tensor in model.state_dict().values())
    with pytest.raises(MarginbenchError, match="is a folder: give the file of weights in it"):
        load_weights(net(), tmp_path)
