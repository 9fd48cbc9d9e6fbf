"""Functions of torch that put the rows of several images into one matrix, done image by image: bounds need that."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

PRODUCTS = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__})


class ByImage(TorchFunctionMode):
    """Within it, images stay apart where they are multiplied, circular padding writes nowhere, and so on."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = None
        if func is F.pad and "circular" in (*args[2:3], kwargs.get("mode")):
            found = _circular(args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs["pad"])
        elif func is F.linear and args and args[0].ndim > 2:
            found = _linear(*args, **kwargs)
        elif func in PRODUCTS and len(args) == 2 and not kwargs:
            found = _product(*(args[::-1] if func is Tensor.__rmatmul__ else args))
        elif func is Tensor.__getitem__:
            found = _subsampled(*args)
        elif func is torch.tensordot and len(args) >= 2:
            found = _tensordot(args[0], args[1], *args[2:], **kwargs)
        elif func is torch.einsum and len(args) == 3 and isinstance(args[0], str):
            found = _einsum(*args)
        elif func is F.instance_norm:
            found = _instance_norm(*args, **kwargs)
        return func(*args, **kwargs) if found is None else found


def _circular(x: Tensor, pads: Sequence[int]) -> Tensor:
    """As a concatenation."""
    for i in range(0, len(pads), 2):
        dim, (before, after) = x.ndim - 1 - i // 2, pads[i : i + 2]
        parts = x.narrow(dim, x.shape[dim] - before, before), x, x.narrow(dim, 0, after)
        x = torch.cat([part for part in parts if part.shape[dim]], dim)
    return x


def _subsampled(x: Tensor, index: Any) -> Tensor | None:
    """`x[:, :, ::2, ::2]` as pooling: both steps at once, which a convolution can take."""
    if not isinstance(index, tuple) or len(index) != 4 or not all(isinstance(part, slice) for part in index):
        return None
    whole = x.ndim == 4 and all(not part.start and part.stop is None for part in index)
    *first, rows, columns = (part.step or 1 for part in index)
    images = whole and x.is_floating_point() and first == [1, 1]
    return F.avg_pool2d(x, 1, rows) if images and rows == columns > 1 else None


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """With fixed statistics it is batch norm."""
    fixed = not use_input_stats
    return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps) if fixed else None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b of the last dimension, with one product [., in] W^T for each image."""
    rows = torch.bmm(input.reshape(len(input), -1, input.shape[-1]), weight.T.expand(len(input), -1, -1))
    out = rows.reshape(*input.shape[:-1], len(weight))
    return out if bias is None else out + bias


def _product(first: Tensor, second: Tensor) -> Tensor | None:
    """first @ second, where one of them may be a matrix or a vector for all images, or a matrix for each channel."""
    found = None
    if second.ndim == 1 and first.ndim > 1:
        found = _linear(first, second[None])[..., 0]
    elif first.ndim == 1 and second.ndim > 2:
        found = _linear(second.mT, first[None])[..., 0]
    elif first.ndim > 2 and second.ndim == 2:
        found = _linear(first, second.T)
    elif first.ndim == 2 and second.ndim > 2:
        found = _linear(second.mT, first).mT
    elif (first.ndim, second.ndim) == (4, 3) and first.shape[1] == len(second):
        found = torch.stack([_linear(x, w.T) for x, w in zip(first.unbind(1), second, strict=True)], 1)
    elif (first.ndim, second.ndim) == (3, 4) and len(first) == second.shape[1]:
        found = torch.stack([_linear(x.mT, w).mT for w, x in zip(first, second.unbind(1), strict=True)], 1)
    return found


def _tensordot(x: Tensor, weight: Tensor, dims: Any = 2, out: Any = None) -> Tensor | None:
    if isinstance(dims, int):
        dims = [range(x.ndim - dims, x.ndim), range(dims)]
    if not isinstance(dims, list | tuple) or out is not None:
        return None
    of_x, of_weight = ([d % t.ndim for d in part] for part, t in zip(dims, (x, weight), strict=True))
    return None if 0 in of_x else _contracted(x, weight, of_x, of_weight)


def _einsum(equation: str, *operands: Tensor) -> Tensor | None:
    """Of two operands, the images and a tensor for all of them, that share only what is summed over."""
    terms, arrow, out = equation.replace(" ", "").partition("->")
    names = terms.split(",")
    if not (arrow and out and terms.replace(",", "").isalpha() and len(names) == 2):
        return None
    (of_x, x), (of_weight, weight) = sorted(zip(names, operands, strict=True), key=lambda term: term[0][0] != out[0])
    summed = [name for name in of_x if name in of_weight]
    kept = [name for name in of_x + of_weight if name not in summed]
    once = all(len({*term}) == len(term) for term in (of_x, of_weight))
    if not once or of_x[0] != out[0] or sorted(kept) != sorted(out):
        return None
    found = _contracted(x, weight, [of_x.index(n) for n in summed], [of_weight.index(n) for n in summed])
    return found.permute([kept.index(name) for name in out])


def _contracted(x: Tensor, weight: Tensor, of_x: Sequence[int], of_weight: Sequence[int]) -> Tensor:
    """[B, rest of x, rest of the weight], summed over dimensions of both."""
    rest, others = ([d for d in range(t.ndim) if d not in used] for t, used in ((x, of_x), (weight, of_weight)))
    rows = x.permute(*rest, *of_x).flatten(len(rest)) if of_x else x[..., None]
    columns = weight.permute(*others, *of_weight).reshape(-1, rows.shape[-1])
    return _linear(rows, columns).reshape(*(x.shape[d] for d in rest), *(weight.shape[d] for d in others))
