"""auto-LiRPA: rewritten where it is slow, left alone where it is current, and missing with a reason."""

import contextlib
import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from certificate_support import certify, images, network, predicted
from torch import Tensor, nn

from marginbench.benchmarks import extras, run_all
from marginbench.benchmarks.certificates import _bounds, _compat
from marginbench.benchmarks.estimator import Answer
from marginbench.methods import NORMS
from marginbench.methods.maths.transpose import conv_transpose2d


def test_the_library_calls_our_transposed_convolution_and_gets_what_torch_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = network("cnn", 5), images(6)
    label = predicted(net, x)
    calls: list[int] = []

    def ours(*args: Any) -> Tensor:
        calls.append(1)
        return conv_transpose2d(*args)

    monkeypatch.setattr(_compat, "conv_transpose2d", ours)
    for norm in NORMS:
        fast = certify(net, x, label, norm, conv_mode="patches")
        assert calls
        with monkeypatch.context() as patch:
            patch.setattr(_bounds, "FastTranspose", contextlib.nullcontext)
            slow = certify(net, x, label, norm, conv_mode="patches")
        assert torch.allclose(fast, slow, rtol=1e-4)


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("biases", ["none", "positive", "negative", "both"])
@pytest.mark.parametrize("rows", [1, 7])
def test_products_by_sign_are_those_of_the_library_to_the_bit(patches: bool, biases: str, rows: int) -> None:
    load = _compat.load_auto_lirpa()
    library = importlib.import_module(f"{load.__name__}.operators.clampmult")
    draw = torch.Generator().manual_seed(0)
    shape = (7, 3, 4, 4, 2, 3, 3) if patches else (7, 3, 6, 5, 5)
    a = torch.randn(*shape, generator=draw)
    a[a.abs() < 0.1] = 0.0
    slopes = [torch.rand(rows, *shape[1:], generator=draw) for _ in range(4)]
    b_pos = slopes[2] if biases in ("positive", "both") else None
    b_neg = slopes[3] if biases in ("negative", "both") else None
    before = a.clone()
    expected = library._reference_multiply_by_A_signs(a, *slopes[:2], b_pos, b_neg, patches)
    found = library.ClampedMultiplication.apply(a, *slopes[:2], b_pos, b_neg, patches)
    assert library.ClampedMultiplication.clamp_mutiply_forward is _compat._by_sign
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    wide = library.ClampedMultiplication.apply(a[:1], *slopes[:2], None, None, patches)[0]
    assert torch.equal(wide, library._reference_multiply_by_A_signs(a[:1], *slopes[:2], None, None, patches)[0])
    assert torch.equal(a, before)


def test_missing_library_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network("mlp", 0), images(3)
    for name in ["auto_LiRPA", *(name for name in sys.modules if name.startswith("auto_LiRPA."))]:
        monkeypatch.setitem(sys.modules, name, None)
    got = certify(net, x, predicted(net, x), "linf")
    assert got == Answer(reason="install auto-LiRPA: pip install --no-deps auto-lirpa appdirs setuptools")


@pytest.mark.parametrize("there", [True, False])
def test_a_run_without_auto_lirpa_says_so_before_it_starts(
    there: bool, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: object() if there else None)
    run_all(str(tiny), ["ce"], 1, "cpu", tmp_path)
    advice = "warning: nothing will be certified by crown: install auto-LiRPA: pip install --no-deps auto-lirpa"
    assert (advice in capsys.readouterr().err) is not there


def test_unknown_layer_is_a_reason() -> None:
    class Running(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cummax(dim=1).values

    net, x = network("mlp", 0), images(3)
    got = certify(nn.Sequential(*net, Running()), x, torch.full((3,), 4), "linf")
    assert isinstance(got, Answer) and got.lower is None
    assert got.reason == "cummax has no sound bound here"


def test_compatibility_layer_leaves_existing_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.onnx.symbolic_helper as helper

    own = object()
    monkeypatch.setattr(helper, "_set_opset_version", own, raising=False)
    monkeypatch.setattr(torch._C.Node, "__getitem__", own, raising=False)
    _compat._add_opset_setter()
    _compat._add_node_getitem()
    assert helper._set_opset_version is own and torch._C.Node.__getitem__ is own

    class Modern(nn.Module):
        pass

    before = Modern._named_members
    _compat._accept_new_arguments(Modern)
    assert Modern._named_members is before


@pytest.mark.parametrize("padding", [0, 1, (2, 1, 0, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(4, 9), (9, 4), (5, 6), (5, 5)])
def test_windows_as_a_matrix_lie_where_they_should(
    size: tuple[int, int], stride: int, padding: int | tuple[int, int, int, int]
) -> None:
    _compat.load_auto_lirpa()
    as_matrix = importlib.import_module("auto_LiRPA.patches").patches_to_matrix
    left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
    height, width = size[0] + top + bottom, size[1] + left + right
    rows, columns = (height - 3) // stride + 1, (width - 2) // stride + 1
    stream = torch.Generator().manual_seed(0)
    pieces = torch.randn(2, 3, rows, columns, 2, 3, 2, generator=stream)
    wanted = torch.zeros(3, 2, rows, columns, 2, height, width)
    for i, j in itertools.product(range(rows), range(columns)):
        window = wanted[:, :, i, j, :, i * stride : i * stride + 3, j * stride : j * stride + 2]
        window.copy_(pieces[:, :, i, j].transpose(0, 1))
    wanted = wanted[..., top : top + size[0], left : left + size[1]].flatten(1, 3)
    assert torch.equal(as_matrix(pieces, (3, 2, *size), stride, padding), wanted)
    some = torch.randperm(2 * rows * columns, generator=stream)[:3]
    place = torch.unravel_index(some, (2, rows, columns))
    found = as_matrix(
        pieces.movedim(1, 3).flatten(0, 2)[some], (3, 2, *size), stride, padding, (3, 2, rows, columns), place
    )
    assert torch.equal(found, wanted[:, some])


def test_newer_versions_keep_their_own_way_of_writing_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    _compat.load_auto_lirpa()
    monkeypatch.setattr("auto_LiRPA.patches.patches_to_matrix", own := lambda: None)
    monkeypatch.setattr(_compat, "_is_0_3", lambda: False)
    _compat.load_auto_lirpa()
    assert importlib.import_module("auto_LiRPA.patches").patches_to_matrix is own
