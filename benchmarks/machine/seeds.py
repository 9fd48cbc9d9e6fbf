"""Seeds derived from names: no clock or position enters, so that adding a method changes no other method's draws."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
