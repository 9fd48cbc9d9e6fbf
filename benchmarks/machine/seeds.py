"""Seeds derived from names: no clock or position enters, so that adding a method changes no other method's draws."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from marginbench.benchmarks.machine.files import digest


def derive_seed(*names: str | int) -> int:
    """A 63-bit seed from names such as (suite, purpose, method, repetition)."""
    return int(digest(list(names))[:16], 16) >> 1


def generator(device: torch.device | str, *names: str | int) -> torch.Generator:
    """A fresh generator on the device, seeded from names."""
    return torch.Generator(device).manual_seed(derive_seed(*names))


@contextmanager
def seeded(device: torch.device, *names: str | int) -> Iterator[None]:
    """Seed torch's global generators from names inside the block, and restore them after it."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derive_seed(*names))
        yield


class Draws:
    """torch's global generators as one of several runs sees them: each block goes on where the last one ended.

    A block within a block of the same object changes nothing.

    Attributes:
        generator: what stands in for the global generator of a GPU, which a CUDA graph must know; None on a CPU.
    """

    def __init__(self, device: torch.device, *names: str | int) -> None:
        cuda = device.type == "cuda"
        self.generator = generator(device, *names) if cuda else None
        self._device = device
        self._host = generator("cpu", *names).get_state()
        self._depth = 0

    def __enter__(self) -> "Draws":
        if self._depth == 0:
            self._outside = torch.get_rng_state()
            torch.set_rng_state(self._host)
            if self.generator is not None:  # no state is copied: that would wait for the device, and spoil a recording
                everybodys = torch.cuda.default_generators[self._device.index]
                self._outside_cuda = everybodys.graphsafe_get_state()
                everybodys.graphsafe_set_state(self.generator)
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._host = torch.get_rng_state()
            torch.set_rng_state(self._outside)
            if self.generator is not None:
                torch.cuda.default_generators[self._device.index].graphsafe_set_state(self._outside_cuda)

    def get_state(self) -> Tensor:
        """That of the device's generator, for a checkpoint."""
        if self.generator is not None:
            return self.generator.get_state()
        return torch.get_rng_state() if self._depth else self._host

    def set_state(self, state: Tensor) -> None:
        """Go on where `state` was taken."""
        if self.generator is not None:
            self.generator.set_state(state)
        elif self._depth:
            torch.set_rng_state(state)
        else:
            self._host = state
