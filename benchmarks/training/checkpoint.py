"""Checkpoints, from which a training continues after an interruption."""

import io
import pickle
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from marginbench.benchmarks.machine.files import write_atomically


@dataclass
class Checkpoint:
    """The file from which an interrupted training can continue. Without a path nothing is kept."""

    path: Path | None = None
    every: float = 300.0  # seconds between two of them
    _last: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        return self.path is not None and time.monotonic() - self._last >= self.every

    @property
    def exists(self) -> bool:
        return self.path is not None and self.path.exists()

    def save(self, state: dict[str, Any]) -> None:
        """Write tensors and numbers; an older checkpoint is replaced once the new one is complete.

        Raises:
            UnwritableError: the folder cannot be written.
        """
        if self.path is None:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.path, buffer.getvalue())
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state saved last, on the CPU; None if there is none or it cannot be read: training then starts over."""
        if self.path is None or not self.exists:
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        return state

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
