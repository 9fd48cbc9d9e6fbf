"""Which trainings go together in a group, and how many: functions of what was measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

GAIN = 1.05  # a larger group must do so many times the steps in a second that a smaller one does
SIZES = (1, 2, 3, 4, 6, 8, 12, 16)  # that are tried
LARGEST = SIZES[-1]
SIMILAR = 2.0  # steps that take longer than so many times others hold these up, or leave the device to themselves
SLACK = 1.2  # of the memory that was measured: blocks of other sizes fit less well


@dataclass(frozen=True)
class Alone:
    """What one training takes by itself."""

    seconds: float = 0.0  # of a replayed step
    bytes: int = 0  # of the device, at most
    changes: tuple[int, ...] = ()  # hundredths of the training at which its schedule reaches another stage
    compiled: bool = False  # it pays to compile it
    obstacle: str = ""  # why it is not recorded: then it is trained by itself


def pays(compiling: float, before: float, after: float, steps: int) -> bool:
    """Whether so many steps gain more seconds than compiling takes; seconds of a step before it and after."""
    return compiling < steps * (before - after)


def next_size(seconds: Mapping[int, float], most: int) -> int | None:
    """The size of a group that is to be tried next; None once larger ones gain too little, or there are none.

    Args:
        seconds: of a step of all, by the sizes tried so far.
        most: trainings that may be together.
    """
    sizes = sorted({*(size for size in SIZES if size < most), min(most, LARGEST)})
    larger = [size for size in sizes if size > max(seconds, default=0)]
    if len(seconds) > 1:
        *before, last = sorted(seconds)
        if last / seconds[last] < GAIN * max(size / seconds[size] for size in before):
            return None
    return larger[0] if larger else None


def best_size(seconds: Mapping[int, float]) -> int:
    """The smallest group to which no other gains GAIN times the steps in a second."""
    best = max(size / taken for size, taken in seconds.items())
    return min(size for size, taken in seconds.items() if GAIN * size / taken > best)


def choose(rows: Sequence[str], alone: Callable[[str], Alone], most: int, room: int) -> list[int]:
    """The trainings that go together with the first one, by their positions, this one included.

    Other seeds of its row come first, then other rows whose stages change at the same time and whose steps take about
    as long; as many as fit.

    Args:
        rows: the rows of the trainings that are left, in the order in which they are wanted.
        alone: what is known of a row; asked only where it may matter, since it is measured.
        most: trainings at once.
        room: bytes that are free.
    """
    first = alone(rows[0])
    chosen, taken = [0], SLACK * first.bytes
    if first.obstacle:
        return chosen
    seeds = [place for place, row in enumerate(rows) if row == rows[0]][1:]
    others = [place for place, row in enumerate(rows) if row != rows[0]]
    for place in seeds + others:
        if len(chosen) >= most or taken + SLACK * first.bytes > room:
            break
        one = alone(rows[place])
        if _suits(first, one) and taken + SLACK * one.bytes <= room:
            chosen.append(place)
            taken += SLACK * one.bytes
    return chosen


def _suits(first: Alone, other: Alone) -> bool:
    if other.obstacle or other.changes != first.changes:
        return False
    return max(first.seconds, other.seconds) <= SIMILAR * min(first.seconds, other.seconds)
