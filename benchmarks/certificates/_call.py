"""An operation that depends on the images, the rules that rewrite such operations, and what rules share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.benchmarks.certificates._builder import Builder, Data, Pair, convolution, linear, per_channel
from marginbench.benchmarks.certificates._layers import Moved, Reshape, Shift, moved
from marginbench.benchmarks.certificates._record import Unbounded, same

DENSE = 2**22  # entries of a matrix that stands for a linear operation without a layer of its own


class Call(NamedTuple):
    """An operation on at least one `Data`."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Sequence[Any], Sequence[Any]]  # for either batch; a `Data` is the same in both
    options: dict[str, Any]
    out: Pair  # what it gave
    builder: Builder
    which: int | None = None  # of several results

    def get(self, index: int) -> Any:
        """An argument: `Data`, or what is the same for both batches.

        Raises:
            Unbounded: it differs.
        """
        return agreed(self.arguments[0][index], self.arguments[1][index])

    @property
    def x(self) -> Data:
        """The first argument."""
        data = self.get(0)
        if not isinstance(data, Data):
            raise Unbounded(unknown(self.name))
        return data

    @property
    def shape(self) -> torch.Size:
        """Of the result, for one image."""
        return self.out[0].shape[1:]


Two = tuple[int, int]  # of rows and of columns
Rule = Callable[[Call], Data]
RULES: dict[str, Rule] = {}
NO_PRODUCT = "a product of two values that both depend on the image has no sound bound here"
NORMALISED = "its statistics depend on the image (those of BatchNorm are fixed in eval mode)"
WORDS = {
    "native_layer_norm": ("LayerNorm", NORMALISED),
    "native_group_norm": ("GroupNorm", NORMALISED),
    "_softmax": ("softmax", "inside the model it is a product of values that depend on the image"),
    "_log_softmax": ("log_softmax", "inside the model it is no function of single numbers"),
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne", "where"), ("a comparison of values (masks, torch.where)", "")),
    **dict.fromkeys(("_fft_r2c", "_fft_c2c"), ("torch.fft", "its numbers are complex")),
    "linalg_vector_norm": ("a norm", "only that of the features, of which cosine logits are made, changes no class"),
    "add_": ("an addition in place, as in RMSNorm,", ""),
    "sign": ("sign, of which LPPool is made,", ""),
    **dict.fromkeys(("_cdist_forward", "_euclidean_dist"), ("torch.cdist", "((x[:, None] - w) ** 2).sum(2) has one")),
    "max_pool3d_with_indices": ("MaxPool3d", "MaxPool1d and MaxPool2d have one"),
    "adaptive_max_pool3d": ("AdaptiveMaxPool3d", "those of one and two dimensions have one"),
    "bmm": ("a product of matrices", "both depend on the image, as in attention"),
}


def unknown(name: str) -> str:
    """Why there is no certificate behind an operation."""
    words, reason = WORDS.get(name, (name.strip("_"), ""))
    return f"{words} has no sound bound here{reason and ': '}{reason}"


def agreed(first: Any, second: Any) -> Any:
    if isinstance(first, Data):
        return first
    if isinstance(first, Call):  # several results, or images put on top of each other
        raise Unbounded(unknown(first.name))
    if isinstance(first, list | tuple) and any(isinstance(part, Data) for part in first):
        return [agreed(a, b) for a, b in zip(first, second, strict=True)]
    return same(first, second)


def rule(*names: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


def on_top(call: Call, stack: Call) -> list[Any]:
    """The values that lie on top of each other, for operations over these, as in `torch.stack([f(x), g(x)]).mean(0)`.

    Raises:
        Unbounded: the operation goes over something else.
    """
    if call.get(1) not in (0, [0]) or call.shape != stack.out[0].shape[2:]:
        raise Unbounded(unknown("stack"))
    parts: list[Any] = stack.get(0)
    return parts


def repeated(call: Call, t: Tensor) -> Tensor:
    """The operation on other values; of several results the one that `out` is."""
    values = [call.get(i) for i in range(len(call.arguments[0]))]
    arguments = [t if isinstance(value, Data) else _like(value, t) for value in values]
    out: Any = call.function(*arguments, **call.options)
    result: Tensor = out if call.which is None else out[call.which]
    return result


def _like(value: Any, t: Tensor) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(t)
    return value


def broadcast(call: Call, x: Data) -> Data:
    if x.shape == call.shape:
        return x
    return as_matrix(call.builder, x, lambda t: t.expand(len(t), *call.shape), call.shape)


def affine(call: Call, x: Data, scale: Any, shift: Any) -> Data:
    """scale x + shift, with numbers or tensors that broadcast."""
    x, like = broadcast(call, x), call.out[0]
    if _is(scale, 1) and _is(shift, 0):
        return x
    parts = [torch.as_tensor(part, dtype=torch.float64, device=like.device) for part in (scale, shift)]
    try:
        scale, shift = (part.expand(1, *call.shape)[0] for part in parts)
    except RuntimeError:
        raise Unbounded("the model adds or multiplies other numbers to each image of a batch") from None
    channels = [_each_channel(part) for part in (scale, shift)]
    if channels[0] is None or len(call.shape) not in (1, 3):
        if not too_large(x.shape, call.shape):
            return as_matrix(call.builder, x, lambda t: scale * t + shift, call.shape)
        index = torch.arange(x.shape.numel(), device=like.device).view(x.shape)
        x = call.builder.apply(Moved(index, scale.to(like)), x)
    elif channels[1] is not None:
        return call.builder.apply(per_channel(channels[0], channels[1], like), x)
    elif not _is(scale, 1):
        x = call.builder.apply(per_channel(channels[0], torch.zeros_like(channels[0]), like), x)
    return call.builder.apply(Shift(shift[None].to(like)), x)


def _is(part: Any, number: float) -> bool:
    return bool((torch.as_tensor(part) == number).all())


def _each_channel(part: Tensor) -> Tensor | None:
    """[C], if all entries of a channel [C, ...] are the same."""
    if part.ndim == 0:
        return None
    flat = part.reshape(len(part), -1)
    return flat[:, 0] if bool((flat == flat[:, :1]).all()) else None


def too_large(inputs: torch.Size, outputs: torch.Size) -> bool:
    """Whether no matrix may stand for an operation with values of these shapes."""
    return inputs.numel() * outputs.numel() > DENSE


def as_matrix(
    builder: Builder, x: Data, function: Callable[[Tensor], Tensor], shape: torch.Size, words: str = "a rearrangement"
) -> Data:
    """A linear operation with float64 [B, *shape]; one of numbers that are only put elsewhere may be large."""
    inputs, like = x.shape.numel(), x.values[0]
    if too_large(x.shape, shape):
        layer = _moved(x, function)
        if layer is None:
            sizes = f"{inputs} numbers into {shape.numel()}"
            raise Unbounded(f"{words} of {sizes} is too large for the matrix that bounds need")
        return builder.apply(layer, x)
    with torch.no_grad():
        basis = torch.eye(inputs, dtype=torch.float64, device=like.device).view(inputs, *x.shape)
        bias = function(torch.zeros_like(basis[:1])).reshape(1, -1)
        weight = (function(basis).reshape(inputs, -1) - bias).T
    flat = builder.apply(Reshape((inputs,)), x) if len(x.shape) != 1 else x
    out = builder.apply(linear(weight, bias[0], like), flat)
    return out if len(shape) == 1 else builder.apply(Reshape(tuple(shape)), out)


def _moved(x: Data, function: Callable[[Tensor], Tensor]) -> Moved | None:
    """The function, if each entry that it gives is one of x or 0."""
    like = x.values[0]
    numbers = torch.arange(1, x.shape.numel() + 1, dtype=torch.float64, device=like.device).view(1, *x.shape)
    found, others = function(numbers)[0], numbers.sqrt()
    if bool(((found < 0) | (found > numbers.amax())).any()):
        return None
    index, filled = (found.long() - 1).clamp(min=0), (found > 0).double()
    return Moved(index, filled.to(like)) if torch.equal(moved(others, index, filled), function(others)) else None


def convolve(
    builder: Builder, x: Data, weight: Tensor, bias: Tensor | None = None, stride: Two = (1, 1), padding: Two = (0, 0)
) -> Data:
    """A convolution without groups and dilation, as auto-LiRPA's patches know it: with one padding and one stride.

    Zeros around the kernel make two paddings one. Where strides differ, a matrix stands for it.
    """
    most = max(padding)
    rows, columns = (most - one for one in padding)
    weight = F.pad(weight, (columns, columns, rows, rows))
    if stride[0] == stride[1]:
        return builder.apply(convolution(weight, bias, x.values[0], stride=stride[0], padding=most), x)

    def function(t: Tensor) -> Tensor:
        return F.conv2d(t, weight.to(t), None if bias is None else bias.to(t), stride, most)

    shape = function(x.values[0]).shape[1:]
    return as_matrix(builder, x, function, shape, "a convolution with two strides")
