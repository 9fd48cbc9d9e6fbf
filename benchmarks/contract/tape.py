"""A recording of a training step on the CPU, with the rules of a CUDA graph, so that methods can be tested without one.

Every operation is kept with its arguments as they were. A replay creates new tensors for those that the step
created and reuses all others: numbers computed on the host stay as recorded.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from marginbench.benchmarks.training.recorder import Branch, CannotRecordError, Side, here
from marginbench.methods import Loss
from marginbench.methods.blame import standing
from marginbench.methods.errors import one_line

_aten = torch.ops.aten
_WAITS = {
    getattr(_aten, name): words
    for name, words in {
        "_local_scalar_dense": "a number of Python is made of a tensor, as by item(), float(), or `if`",
        "lift_fresh": "a tensor is made of numbers of Python, as by torch.tensor()",
        "nonzero": "nonzero() or a mask",
        "masked_select": "masked_select()",
        "equal": "equal()",
        "bincount": "bincount()",
        "_unique2": "unique()",
        "unique_dim": "unique()",
        "unique_consecutive": "unique_consecutive()",
    }.items()
}
"""What makes the host wait for the device, or copies from the host, as its author knows it."""
MASK = "indexing with a mask, for which gather() or torch.where() can stand"


@dataclass(frozen=True)
class _Track:
    """What one branch did."""

    branch: Branch
    calls: list[tuple[Any, Any, Any, Any]]
    result: Loss


class Tape:
    """Records on the CPU, branch after branch. See `marginbench.benchmarks.training.recorder.Recorder`."""

    def __init__(self) -> None:
        self._tracks: list[_Track] = []

    def watch(self, work: Callable[[], Loss]) -> tuple[Loss, str]:
        with _Notes() as notes:
            result = work()
        return result, notes.waits[0] if notes.waits else ""

    def record(self, branches: Sequence[Branch]) -> list[Loss]:
        self._tracks = []
        tracks = [_record(branch, number) for number, branch in enumerate(branches)]
        self._tracks = tracks
        return [track.result for track in tracks]

    def replay(self) -> None:
        for track in self._tracks:
            with torch.no_grad(), track.branch.draws:
                _replay(track)

    def sides(self) -> AbstractContextManager[Side]:
        return nullcontext(here)


def _record(branch: Branch, number: int) -> _Track:
    with branch.draws:
        states = branch.generator.get_state(), torch.get_rng_state()
        with _Notes() as notes:
            try:
                result = branch.do()
            except Exception as error:
                notes.waits.append(one_line(error))
        branch.generator.set_state(states[0])
        torch.set_rng_state(states[1])
    with torch.no_grad():
        for tensor, before in notes.before.values():
            tensor.copy_(before)
    if notes.waits:
        raise CannotRecordError(notes.waits[0], number)
    return _Track(branch, notes.calls, result)


def _replay(track: _Track) -> None:
    made: dict[int, Tensor] = {}

    def now(tensor: Tensor) -> Tensor:
        return made.get(id(tensor), tensor)

    for function, args, options, old in track.calls:
        new = function(*tree_map_only(Tensor, now, args), **tree_map_only(Tensor, now, options))
        pairs = zip(_tensors(old), _tensors(new), strict=True)
        made.update({id(before): after for before, after in pairs if before is not after})
    for result in (track.result.total, *track.result.parts.values()):
        result.copy_(now(result))


class _Notes(TorchDispatchMode):
    """Operations in the order of their calls, and what tensors from outside were before them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []  # holds all tensors, so that no id is used twice
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.waits: list[str] = []
        self._made: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        options = options or {}
        for tensor in _tensors((args, options)):
            if id(tensor) not in self._made and id(tensor) not in self.before:
                self.before[id(tensor)] = tensor, tensor.clone()
        waits = _WAITS.get(function._overloadpacket) or (MASK if _selects(function, args) else "")
        if waits:
            place = standing()
            self.waits.append(f"waits for the device: {waits}" + (f" ({place})" if place else ""))
        out = function(*args, **options)
        self._made.update(id(tensor) for tensor in _tensors(out) if id(tensor) not in self.before)
        self.calls.append((function, args, options, out))
        return out


def _selects(function: Any, args: Any) -> bool:
    """Indexing with a mask: the size of the result depends on its values."""
    if function._overloadpacket not in (_aten.index, _aten.index_put, _aten.index_put_):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
