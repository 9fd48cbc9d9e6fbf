"""The seconds that a training is charged for: all of them if it runs alone, its share of the group's otherwise."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol

import torch

from marginbench.benchmarks.machine.device import seconds_on


class Clock(Protocol):
    """Counts what one training is charged for."""

    def read(self) -> float:
        """Seconds from some moment on, once the device has finished its work."""

    def paused(self) -> AbstractContextManager[None]:
        """A block that nobody is charged for."""


class OwnClock:
    """Of a training that runs alone."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pauses = device, 0.0

    def read(self) -> float:
        return seconds_on(self._device) - self._pauses

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = seconds_on(self._device)
        yield
        self._pauses += seconds_on(self._device) - began


class Shares:
    """Divides the time of a group among the trainings that are in it.

    One of weight w is charged for w / W of each second, where W is the sum of the weights of all that are in the group
    then. Weights are the seconds that a step takes alone: trainings of one method are charged alike, and one whose
    steps take twice as long pays twice as much, as it would alone.

    Args:
        clock: in seconds, read once the device has finished its work.
        glance: the same without waiting for it.
    """

    def __init__(self, clock: Callable[[], float], glance: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._glance = clock, glance
        self._weights: dict[int, float] = {}
        self._charged: dict[int, float] = {}
        self._last: float | None = None  # up to here all time is divided; None: nobody is charged now

    @classmethod
    def on(cls, device: torch.device) -> "Shares":
        return cls(partial(seconds_on, device))

    def divide(self, weights: Mapping[int, float]) -> None:
        """From now on time is divided among these trainings."""
        self._settle(self._clock())
        self._weights = dict(weights)

    def share(self, place: int) -> "Share":
        return Share(self, place)

    def charged(self, place: int, wait: bool = True) -> float:
        """Seconds of one training so far."""
        self._settle(self._clock() if wait else self._glance())
        return self._charged.get(place, 0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block that nobody is charged for."""
        if self._last is None:
            yield
            return
        self._settle(self._clock())
        self._last = None
        try:
            yield
        finally:
            self._last = self._clock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """A block whose time is divided."""
        self._last = self._clock()
        yield
        self._settle(self._clock())
        self._last = None

    def _settle(self, now: float) -> None:
        if self._last is None:
            return
        total = sum(self._weights.values())
        for place, weight in self._weights.items():
            self._charged[place] = self._charged.get(place, 0.0) + (now - self._last) * weight / total
        self._last = now


class Share:
    """The clock of one training of a group."""

    def __init__(self, shares: Shares, place: int) -> None:
        self._shares, self._place = shares, place

    def read(self) -> float:
        return self._shares.charged(self._place)

    def glance(self) -> float:
        """The same without waiting for the device: for deadlines, which are looked at after every step."""
        return self._shares.charged(self._place, wait=False)

    def paused(self) -> AbstractContextManager[None]:
        return self._shares.paused()
