"""Lets auto-LiRPA 0.3, the newest release on PyPI, import and run, not too slowly, on a current torch and numpy.

0.3 was written for torch 1.12 and numpy 1.22. Each patch below provides one name that has gone since, and does
nothing where the name exists. Upstream auto-LiRPA 0.7 needs none of them and gets none.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import inspect
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from marginbench.methods.maths.lipschitz import pair
from marginbench.methods.maths.transpose import conv_transpose2d


def load_auto_lirpa() -> ModuleType:
    """Import auto-LiRPA, silently, with the names that 0.3 misses.

    Raises:
        ImportError: it is not installed, or does not import.
    """
    try:
        with _undo_side_effects(), _names_for_0_3():
            library = importlib.import_module("auto_LiRPA")
    except ImportError:
        raise
    except Exception as error:  # libraries of different ages may fail in any way
        raise ImportError(f"auto_LiRPA does not import: {error}") from error
    _accept_new_arguments(library.BoundedModule)
    _multiply_in_fewer_passes()
    if _is_0_3():
        _tell_heights_from_widths()
    logging.getLogger("auto_LiRPA.utils").setLevel(logging.CRITICAL)  # an unknown layer is an answer, not an event
    return library


def _is_0_3() -> bool:
    try:
        return importlib.metadata.version("auto-lirpa").startswith("0.3")
    except importlib.metadata.PackageNotFoundError:
        return False


@contextlib.contextmanager
def _names_for_0_3() -> Iterator[None]:
    if not _is_0_3():
        yield
        return
    _add_opset_setter()
    _add_node_getitem()
    with _numpy_arraysetops():
        yield


@contextlib.contextmanager
def _undo_side_effects() -> Iterator[None]:
    """On import 0.3 prints, warns, resets the warning filters and installs a handler on the root logger."""
    handlers = logging.root.handlers[:]
    with (
        warnings.catch_warnings(record=True),  # 0.3 turns ignored ones on again
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        try:
            yield
        finally:
            logging.root.handlers[:] = handlers


@contextlib.contextmanager
def _numpy_arraysetops() -> Iterator[None]:
    """`numpy.lib.arraysetops.isin`, which 0.3 imports by that name; gone in numpy 2.0."""
    name = "numpy.lib.arraysetops"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    except ImportError:
        stand_in = ModuleType(name)
        stand_in.isin = np.isin  # type: ignore[attr-defined]
        sys.modules[name] = stand_in
        try:
            yield
        finally:
            del sys.modules[name]
    else:
        yield


def _add_opset_setter() -> None:
    """`torch.onnx.symbolic_helper._set_opset_version`: 0.3 calls it before it traces a network."""
    helper: Any = importlib.import_module("torch.onnx.symbolic_helper")
    if not hasattr(helper, "_set_opset_version"):
        helper._set_opset_version = _set_opset_version


def _set_opset_version(version: int) -> None:
    settings = _onnx_globals()
    settings.export_onnx_opset_version = version
    settings.autograd_inlining = False  # it needs the network, which 0.3 does not hand over


def _onnx_globals() -> Any:
    for name in ("torch.onnx._internal.torchscript_exporter._globals", "torch.onnx._globals"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).GLOBALS
    raise ImportError("this torch has no ONNX export settings, which auto-LiRPA 0.3 needs")


def _add_node_getitem() -> None:
    """`node[name]` for an attribute of a traced operation; gone in torch 2.0."""
    node: Any = torch._C.Node
    if not hasattr(node, "__getitem__"):
        node.__getitem__ = lambda self, name: getattr(self, self.kindOf(name))(name)


def _accept_new_arguments(bounded_module: Any) -> None:
    """torch 2 passes `remove_duplicate` to `Module._named_members`, which 0.3 overrides without it."""
    old = bounded_module._named_members
    parameters = inspect.signature(old).parameters.values()
    if any(p.name == "remove_duplicate" or p.kind is p.VAR_KEYWORD for p in parameters):
        return

    def named_members(self: Any, get: Any, prefix: str = "", recurse: bool = True, **_: Any) -> Any:
        return old(self, get, prefix, recurse)

    bounded_module._named_members = named_members


def _multiply_in_fewer_passes() -> None:
    """Coefficients times slopes by their sign: most of what is written to memory is written here."""
    operation: Any = importlib.import_module("auto_LiRPA.operators.clampmult").ClampedMultiplication
    operation.clamp_mutiply_forward = staticmethod(_by_sign)


def _by_sign(
    a: Tensor, d_pos: Tensor, d_neg: Tensor, b_pos: Tensor | None, b_neg: Tensor | None, patches_mode: bool
) -> tuple[Tensor, Tensor]:
    """max(a, 0) d_pos + min(a, 0) d_neg, and the same with b summed over the units: the library's, to the bit."""
    negative = a.clamp(max=0)
    positive = a - negative
    equation = "sb...chw,sb...chw->sb..." if patches_mode else "sb...,sb...->sb"
    parts = [(positive, b_pos), (negative, b_neg)]
    bias = sum((torch.einsum(equation, part, b) for part, b in parts if b is not None), a.new_zeros(()))
    wider = torch.broadcast_shapes(a.shape, d_pos.shape, d_neg.shape) != a.shape
    product = positive * d_pos if wider else positive.mul_(d_pos)
    return product.addcmul_(negative, d_neg), bias


def _tell_heights_from_widths() -> None:
    """In `patches_to_matrix`, which takes one for the other: else bounds are wrong where windows meet a matrix."""
    kept: Any = importlib.import_module("auto_LiRPA.patches").patches_to_matrix
    if hasattr(kept, "__wrapped__"):
        return
    using = [m for name, m in sys.modules.items() if name.startswith("auto_LiRPA") and hasattr(m, kept.__name__)]
    for module in using:
        setattr(module, kept.__name__, functools.wraps(kept)(functools.partial(_as_matrix, kept)))


def _as_matrix(
    kept: Callable[..., Tensor],
    pieces: Tensor,
    input_shape: Sequence[int],
    stride: Any,
    padding: int | tuple[int, int, int, int],
    output_shape: Any = None,
    unstable_idx: Any = None,
) -> Tensor:
    """Weights of windows as [B, S, C, H, W], S their places: the library's where padded images are squares.

    Args:
        pieces: [O, B, h, w, C, k, l], or [S, B, C, k, l] at the places `unstable_idx`.
    """
    left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
    height, width = input_shape[-2] + top + bottom, input_shape[-1] + left + right
    if height == width:
        return kept(pieces, input_shape, stride, padding, output_shape, unstable_idx)
    if pieces.ndim == 9:
        pieces = pieces.squeeze(5).squeeze(1)
    if unstable_idx is None:
        row, column = torch.cartesian_prod(*map(torch.arange, pieces.shape[2:4])).repeat(len(pieces), 1).unbind(1)
        pieces = pieces.movedim(1, 3).flatten(0, 2)
    else:
        _, row, column = unstable_idx
    down, across = pair(stride)
    corner = (down * width * row + across * column).to(pieces.device)
    inner = width * torch.arange(pieces.shape[3])[:, None] + torch.arange(pieces.shape[4])
    place = corner[:, None] + inner.flatten().to(corner)
    rows = pieces.new_zeros(*pieces.shape[:3], height * width)
    rows.scatter_(3, place[:, None, None].expand(*pieces.shape[:3], -1), pieces.flatten(3))
    images: Tensor = rows.unflatten(3, (height, width))
    return images[..., top : height - bottom, left : width - right].transpose(0, 1)


class FastTranspose(TorchFunctionMode):
    """Within it `conv_transpose2d` is ours: bounds go back to images in a third of the time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_transposed if func is F.conv_transpose2d else func)(*args, **(kwargs or {}))


def _transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    if bias is not None or groups != 1 or pair(dilation) != (1, 1):
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv_transpose2d(x, weight, pair(stride), pair(padding), pair(output_padding))
