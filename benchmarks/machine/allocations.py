"""Counts the bytes of the tensors that a computation makes, and stops it before it makes too many."""

import math
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

HIDDEN = 1.5  # what operations take is this much more than their results: kernels' work space, copies, rounding


class OverBudgetError(RuntimeError):
    """A computation would need more memory than it may take."""

    def __init__(self, needed: int, limit: int) -> None:
        super().__init__(f"{needed} bytes are needed, {limit} are available")
        self.needed, self.limit = needed, limit  # needed up to here: it may be more


class Allocations(TorchDispatchMode):
    """Within it, the tensors that are made are counted while they live, times HIDDEN.

    Each operation costs some 10 microseconds more, with a limit some 100.

    Args:
        limit: bytes; an operation that would exceed them is not begun.

    Raises:
        OverBudgetError: the limit would be exceeded.
    """

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = math.inf if limit is None else limit
        self.peak = 0  # bytes
        self._live = 0
        self._raised: BaseException | None = None
        self._known: dict[int, weakref.ref[Any]] = {}

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        raised, self._raised = self._raised, None
        try:
            if raised is not None and error is not None and error is not raised:
                raise raised from None  # TorchScript has put an error without words in its place
        finally:
            del raised, error  # whose traceback keeps tensors, and this frame

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return self._counted(func, args, kwargs or {})
        except Exception as error:
            self._raised = error
            raise

    def _counted(self, func: Any, args: Any, kwargs: Any) -> Any:
        inputs = _tensors((args, kwargs))
        if self.limit != math.inf:
            self._foresee(func, args, kwargs, inputs)
        given = {tensor.untyped_storage()._cdata for tensor in inputs}  # a view of an input is no new memory
        out = func(*args, **kwargs)
        for tensor in _tensors(out):
            if tensor.untyped_storage()._cdata not in given:
                self._count(tensor.untyped_storage())
        self._check(0)
        return out

    def _foresee(self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> None:
        """The size of a result is found on the device `meta`, which holds no data, before the result is made.

        Not where it is small in any case: no result has more entries than its inputs multiplied, and multiplied by the
        numbers that say how often they are repeated, or how far they are padded.
        """
        entries: float = math.prod(max(tensor.numel(), 1) for tensor in inputs)
        numbers = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, int | float))
        for number in numbers:
            entries *= 1 + abs(number)
        if inputs and 8 * HIDDEN * entries + self._bytes(0) <= self.limit:
            return
        try:
            args, kwargs = tree_map_only(Tensor, _without_data, (args, kwargs))
            if "device" in kwargs:
                kwargs = {**kwargs, "device": torch.device("meta")}
            given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
            results = _tensors(func(*args, **kwargs))
        except Exception:  # sizes that depend on the data, or nothing is known: counted once it is there
            return
        self._check(sum(_size(one) for one in results if one.untyped_storage()._cdata not in given))

    def _check(self, more: int) -> None:
        if self._bytes(more) > self.limit:
            raise OverBudgetError(self._bytes(more), int(self.limit))

    def _bytes(self, more: int) -> int:
        return int(HIDDEN * (self._live + more))

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or storage.device.type == "meta":
            return

        def gone(_: Any) -> None:
            del self._known[key]
            self._live -= size

        self._known[key] = weakref.ref(storage, gone)
        self._live += size
        self.peak = max(self.peak, self._bytes(0))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _without_data(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _size(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()
