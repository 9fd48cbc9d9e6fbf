"""What a network holds: its tensors and numbers wherever it keeps them, and copies that share none of them."""

import copy
import sys
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from functools import update_wrapper
from types import CellType, FunctionType, MethodType, SimpleNamespace
from typing import Any, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from marginbench.methods.errors import MarginbenchError, one_line

M = TypeVar("M", bound=nn.Module)


class Place(NamedTuple):
    """Where a value stands, so that another can be put there."""

    container: Any  # a mapping, a list or deque, or a ScriptModule
    key: Any
    value: Any

    @torch.no_grad()
    def put(self, value: Any) -> None:
        """Set a copy of it; in the same memory where that fits, for whoever else looks at it."""
        fits = isinstance(value, Tensor) and isinstance(self.value, Tensor)
        if fits and (value.shape, value.dtype) == (self.value.shape, self.value.dtype):
            self.value.copy_(value)
        elif isinstance(self.value, nn.Parameter):  # of a module that stands in a list
            self.value.data = value.clone()
        elif isinstance(self.container, nn.Module):
            setattr(self.container, self.key, copy.deepcopy(value))
        else:
            self.container[self.key] = copy.deepcopy(value)

    def remove(self) -> None:
        """As before it was first set."""
        del self.container[self.key]


def held(net: nn.Module) -> dict[str, Place]:
    """By name, as in `layers.1.mean` or `known['a'][0]`, all that is neither a module nor a registered parameter.

    That is buffers and attributes of modules, and what lists, mappings and objects in them hold. What stands in two
    places has the name of the first.
    """
    seen = {id(parameter) for parameter in net.parameters()}
    return {name.removeprefix("."): place for name, place in _walk("", Place(None, None, net), seen)}


def unaltered(module: nn.Module) -> bool:
    """Whether a call of it runs the forward of its class and nothing else: no hooks, no forward or call of its own."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not hooked and "forward" not in vars(module) and type(module).__call__ is nn.Module.__call__


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it computes W x + b of its weight and bias: subclasses may do anything, as cosine heads do."""
    return type(module) is nn.Linear and unaltered(module)


@contextmanager
def modes_kept(net: nn.Module) -> Iterator[list[nn.Module]]:
    """A block with the modules that have a mode, as frozen TorchScript has not; afterwards each has the one it had."""
    modes = [(module, module.training) for module in net.modules() if hasattr(module, "training")]
    try:
        yield [module for module, _ in modes]
    finally:
        for module, training in modes:
            module.training = training


def duplicate(net: M) -> M:
    """A copy that shares nothing with the network, whatever that keeps from earlier calls.

    Tensors that were computed with gradients, which `deepcopy` refuses, are copied as constants, and so are buffers of
    lazy layers, without values yet. Functions, which it shares, as a hook that keeps what it sees, belong to the copy.

    Raises:
        MarginbenchError: something in the network cannot be copied.
    """
    memo: dict[int, Any] = {}
    for place in held(net).values():
        for tensor in _tensors(place.value):
            if isinstance(tensor, UninitializedBuffer):
                memo[id(tensor)] = UninitializedBuffer(device=tensor.device, dtype=tensor.dtype)  # type: ignore[call-arg]
            elif not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    try:
        with torch.no_grad():  # the weights of a ScriptModule are cloned
            copied = copy.deepcopy(net, memo)
        for container, key, value in (*_hooks(copied), *held(copied).values()):
            if isinstance(value, FunctionType):
                container[key] = _rebound(value, memo)
        return copied
    except Exception as error:  # whatever a part of the network raises
        problem = f"cannot be copied ({one_line(error)}): keep locks, files, generators and the like out of the module"
        raise MarginbenchError(problem) from error


def _hooks(net: nn.Module) -> Iterator[Place]:
    for module in net.modules():
        for store in () if isinstance(module, torch.jit.ScriptModule) else vars(module).values():
            if isinstance(store, dict):
                yield from (Place(store, key, value) for key, value in store.items())


def _rebound(value: Any, memo: dict[int, Any]) -> Any:
    """What stands for a value in a copy of a network.

    A function closes over the copies of what it closed over, and so do functions inside; what is not of the network is
    shared. Functions with a variable in common have one in the copy too.
    """
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, MethodType):
        return MethodType(_rebound(value.__func__, memo), _rebound(value.__self__, memo))
    if not isinstance(value, FunctionType) or not (value.__closure__ or value.__defaults__ or value.__kwdefaults__):
        return value
    cells = tuple(memo.setdefault(id(cell), CellType()) for cell in value.__closure__ or ())
    made = FunctionType(value.__code__, value.__globals__, value.__name__, closure=cells if cells else None)
    memo[id(value)] = made  # first: it may close over itself
    update_wrapper(made, value)
    del made.__wrapped__  # type: ignore[attr-defined]
    made.__defaults__ = value.__defaults__ and tuple(_rebound(item, memo) for item in value.__defaults__)
    made.__kwdefaults__ = {key: _rebound(item, memo) for key, item in (value.__kwdefaults__ or {}).items()}
    for new, cell in zip(cells, value.__closure__ or (), strict=True):
        with suppress(ValueError):  # no value yet
            new.cell_contents = _rebound(cell.cell_contents, memo)
    return made


@torch.no_grad()
def in_double(net: M) -> M:
    """A copy in float64, also of constants that are no buffers: what it keeps for one type would not fit the other.

    Raises:
        MarginbenchError: something in the network cannot be copied.
    """
    precise = duplicate(net).double()
    for place in held(precise).values():
        if isinstance(place.value, Tensor) and place.value.dtype == torch.float32:
            place.value.data = place.value.double()  # wherever else it stands
    return precise


def _walk(name: str, place: Place, seen: set[int]) -> Iterator[tuple[str, Place]]:
    members = _members(place.value)
    if members is not None or isinstance(place.value, Tensor):
        if id(place.value) in seen:
            return
        seen.add(id(place.value))
    if members is None:
        yield name, place
    else:
        for part, member in members:
            yield from _walk(name + part, member, seen)


def _members(value: Any) -> list[tuple[str, Place]] | None:
    """What is in a module or a container, or None for anything else."""
    if isinstance(value, torch.jit.ScriptModule):
        children = [(f".{key}", Place(value, key, child)) for key, child in value.named_children()]
        return [(f".{key}", Place(value, key, item)) for key, item in _scripted(value)] + children
    if isinstance(value, nn.Module):
        stores = (vars(value), value._parameters, value._buffers, value._modules)
        return [
            (f".{key}", Place(store, key, item))
            for store in stores
            for key, item in store.items()
            if key not in _OF_TORCH or store is not stores[0]
        ]
    if isinstance(value, MutableMapping):
        return [(f"[{key!r}]", Place(value, key, item)) for key, item in value.items()]
    if isinstance(value, list | deque):
        return [(f"[{i}]", Place(value, i, item)) for i, item in enumerate(value)]
    if _is_plain(value):
        return [(f".{key}", Place(vars(value), key, item)) for key, item in vars(value).items()]
    return None


_OF_TORCH = vars(nn.Module()).keys()


def _scripted(module: torch.jit.ScriptModule) -> Iterator[tuple[str, Any]]:
    """Buffers, and attributes that TorchScript lets the code of a module change."""
    kind = vars(module).get("_concrete_type")
    for key in [] if kind is None else kind.get_attributes():
        value = getattr(module, key)
        if isinstance(value, Tensor | int | float):  # lists and mappings come as copies
            yield key, value


def _is_plain(value: Any) -> bool:
    """An object of a user's class that holds values, as data classes do."""
    if isinstance(value, SimpleNamespace):
        return True
    root = type(value).__module__.partition(".")[0]
    foreign = root in sys.stdlib_module_names or root in ("torch", "numpy")
    return hasattr(value, "__dict__") and not callable(value) and not foreign


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)
