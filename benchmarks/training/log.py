"""The training log: the mean loss of each epoch, and that of each of its parts."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Log:
    """Sums losses on their device; the host looks at them once an epoch."""

    def __init__(self) -> None:
        self.losses: list[float] = []  # mean of each epoch
        self.parts: dict[str, list[float | None]] = {}  # the same; None: not finite, or no step gave the part
        self._sums: dict[str, Tensor] = {}  # of this epoch
        self._counts: dict[str, int] = {}

    def add(self, loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Note one step: scalars."""
        for name, value in ((_TOTAL, loss), *parts.items()):
            self._sums[name] = self._sums.get(name, 0) + value.float()
            self._counts[name] = self._counts.get(name, 0) + 1

    def end_epoch(self) -> float:
        """Note the means of the epoch and return that of the loss."""
        means = {name: float(total / self._counts[name]) for name, total in self._sums.items()}
        self.losses.append(means.pop(_TOTAL))
        for name in self.parts.keys() | means.keys():
            before = [None] * (len(self.losses) - 1)
            mean = means.get(name, math.nan)
            self.parts.setdefault(name, [*before]).append(mean if math.isfinite(mean) else None)
        self._sums, self._counts = {}, {}
        return self.losses[-1]

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "parts": self.parts, "sums": self._sums, "counts": self._counts}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue where `state` was taken."""
        self.losses, self.parts, self._counts = list(state["losses"]), dict(state["parts"]), dict(state["counts"])
        self._sums = {name: total.to(device) for name, total in state["sums"].items()}


_TOTAL = ""  # beside the names of the parts
