"""What a hook must leave as it found it: its method, the batch, the modes of the network, the global generators."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from marginbench.methods import Batch
from marginbench.methods.hooks import HookError, holding, place_of

GENERATORS = "draw from ctx.generator alone"


@contextmanager
def untouched(hook: Callable[..., Any], net: nn.Module | None = None, batch: Batch | None = None) -> Iterator[None]:
    """A block that calls the hook.

    Args:
        net: its modules must be in the same mode afterwards; what they draw in their forward passes, as dropout does,
            is not the hook's. Default: the hook may draw from torch's generators, as where weights are made.
        batch: its tensors must be the same afterwards.

    Raises:
        HookError: the hook has changed one of them, or its method.
    """
    unseeded = random.getstate(), _numpy_state()
    modes = [] if net is None else [(name, module, module.training) for name, module in net.named_modules()]
    before = {} if batch is None else {name: value.clone() for name, value in _tensors(batch)}
    with ExitStack() as stack:
        stack.enter_context(holding(hook))
        draws = None if net is None else stack.enter_context(_following(net))
        yield
    for name, value in () if batch is None else _tensors(batch):
        if value.requires_grad:
            raise HookError(place_of(hook), f"asked for gradients of batch.{name} itself: work on batch.{name}.clone()")
        if not torch.equal(value, before[name]):
            raise HookError(place_of(hook), f"wrote into batch.{name}: work on batch.{name}.clone()")
    for name, module, training in modes:
        if module.training is not training:
            left = f"net.{name}".rstrip(".") + (".eval()" if training else ".train()")
            raise HookError(place_of(hook), f"left {left} on: put it back into the mode that it was in")
    if draws is not None and draws.strange:
        raise HookError(place_of(hook), f"drew from torch's global generator, or seeded it: {GENERATORS}")
    alone = threading.current_thread() is threading.main_thread()  # a Dask worker's other threads draw, too
    for name, old, new in zip(("random", "numpy.random"), unseeded, (random.getstate(), _numpy_state()), strict=True):
        if alone and old != new:
            raise HookError(place_of(hook), f"drew from the global generator of {name}: {GENERATORS}")


class _Draws:
    """Follows torch's global generators: moved by a forward pass of a module, or by something else?"""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._depth = 0
        self._state = self._now()
        self._moved = False

    @property
    def strange(self) -> bool:
        return self._moved or self._now() != self._state

    def enter(self, *_: object) -> None:
        if self._depth == 0:
            self._moved = self.strange
        self._depth += 1

    def leave(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._state = self._now()

    def _now(self) -> tuple[bytes, ...]:
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return tuple(state.numpy().tobytes() for state in states)


@contextmanager
def _following(net: nn.Module) -> Iterator[_Draws]:
    draws = _Draws(next(net.parameters()).device)
    handles = [
        register_module_forward_pre_hook(draws.enter),
        register_module_forward_hook(draws.leave, always_call=True),
    ]
    try:
        yield draws
    finally:
        for handle in handles:
            handle.remove()


def _tensors(batch: Batch) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in vars(batch).items() if isinstance(value, Tensor)]


def _numpy_state() -> tuple[bytes, int]:
    state: Any = np.random.get_state(legacy=False)["state"]
    return state["key"].tobytes(), state["pos"]
