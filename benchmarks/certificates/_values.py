"""Code that decides by the values in the images, where torch lets it: by how many pass a test, or outside of torch.

A recording holds for what was recorded: such code may do something else for other images. What it decides by weights
and constants is the same for all images, and computed while it is recorded.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OUTSIDE = frozenset(  # where a number leaves torch, so that no operation shows what becomes of it
    {Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.__dlpack__, Tensor.untyped_storage, Tensor.data_ptr}
)
DECIDING = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
RAISING = ("bernoulli", "binary_cross_entropy", "_assert_async")  # by the values, for code that catches it
POSITIONS = ("index", "indices", "lengths", "target")  # names of arguments: whole numbers in it raise out of range


class ReadsValuesError(Exception):
    """The code does other things for images with other values."""


@contextmanager
def values_unread(x: Tensor) -> Iterator[None]:
    """Refuse what makes numbers or sizes of values that depend on x or on chance, even if nothing seems to come of it.

    Raises:
        ReadsValuesError: by `nonzero`, `x[mask]`, `unique`, `item`, `numpy` and their kin.
    """
    known = _Dependent(x)
    try:
        with _Outside(known), _Operations(known):
            yield
    except Exception as error:
        if known.read:  # TorchScript makes another exception of one in it
            raise ReadsValuesError(known.read).with_traceback(error.__traceback__) from None
        raise
    if known.read:  # the code has caught it
        raise ReadsValuesError(known.read)


class _Dependent:
    """The tensors that depend on an image or on chance. They are kept, so that no other tensor gets their memory."""

    def __init__(self, x: Tensor) -> None:
        self._kept: dict[int, Tensor] = {}
        self.read = ""  # what makes a number or a size of one
        self.add([x])

    def add(self, values: Iterable[Any]) -> None:
        self._kept |= {_memory(value): value for value in values if isinstance(value, Tensor)}

    def among(self, values: Any) -> bool:
        return any(isinstance(value, Tensor) and _memory(value) in self._kept for value in tree_leaves(values))

    def refuse(self, func: Any) -> None:
        self.read = str(func)
        raise ReadsValuesError(self.read)


class _Operations(TorchDispatchMode):
    def __init__(self, known: _Dependent) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        decides = bool(DECIDING & {*func.tags})
        if self.known.among(_deciding(func, args, decides)):
            self.known.refuse(func)
        dependent = self.known.among((args, kwargs))
        with disable_proxy_modes_tracing() if decides and not dependent else nullcontext():
            out = func(*args, **kwargs)
        if dependent or torch.Tag.nondeterministic_seeded in func.tags:
            if any(isinstance(value, Tensor) and value.layout in SPARSE for value in tree_leaves(out)):
                self.known.refuse(func)  # a sparse tensor knows how many of its values are not 0
            written = (a for a, place in zip(args, func._schema.arguments, strict=False) if place.is_write)
            self.known.add(tree_leaves((out, list(written))))
        return out


class _Outside(TorchFunctionMode):
    def __init__(self, known: _Dependent) -> None:
        super().__init__()
        self.known = known

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in OUTSIDE and self.known.among(args):
            self.known.refuse(func)
        return func(*args, **(kwargs or {}))


def _deciding(func: Any, args: Any, decides: bool) -> Any:
    """The arguments whose values decide about the size of the result, or whether there is one."""
    name = func.overloadpacket.__name__
    if name == "masked_select":
        return args[1]
    if name in RAISING or (decides and name != "index"):
        return args
    places = zip(args, func._schema.arguments, strict=False)
    named = tree_leaves([value for value, place in places if place.name in POSITIONS])
    return [value for value in named if isinstance(value, Tensor) and not value.is_floating_point()]


def _memory(value: Tensor) -> int:
    try:
        with torch._C.DisableTorchFunction():
            return int(value.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse: it has none
        return id(value)
