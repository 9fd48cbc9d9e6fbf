"""Seeds from names: adding a method changes nobody else's draw, and no clock or position enters."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON (sorted keys, no spaces) of a value, as 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
