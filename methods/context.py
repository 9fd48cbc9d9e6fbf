"""What hooks are told: the task, and how far training has got; with a note of what a step has read of it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from marginbench.methods.facts import Norm

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """What a method may know about the data and the evaluation before training starts.

    Attributes:
        input_shape: channels, height, width of the images; 2, 1 and the length of sentences.
        class_counts: training examples per class.
        epsilon: the suite's radii "l2" and "linf", in pixels of [0, 1]; none for sentences.
    """

    input_shape: tuple[int, int, int]
    class_counts: tuple[int, ...]
    epsilon: Mapping[Norm, float]

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_counts)

    @property
    def num_train(self) -> int:
        """N, the number of training examples: those that `Batch.index` counts."""
        return sum(self.class_counts)


class Reads:
    """What a step read of the schedule: as long as the stages agree, steps differ in these numbers only.

    Args:
        slots: a scalar tensor for each number, always the same one; reading more numbers adds slots.
        frozen: the slots are filled already and must not change.
    """

    def __init__(self, slots: list[Tensor], frozen: bool = False) -> None:
        self.stages: list[tuple[Callable[[], Any], Any]] = []  # and their values
        self._numbers: list[Callable[[], float]] = []
        self._slots, self._frozen = slots, frozen

    def note(self, number: Callable[[], float], value: float, device: torch.device) -> Tensor:
        """Put a number into its slot and return the slot."""
        position = len(self._numbers)
        self._numbers.append(number)
        if position == len(self._slots):
            assert not self._frozen, "a recorded step reads more numbers than the one before it"
            self._slots.append(torch.zeros((), device=device))
        if not self._frozen:
            self._slots[position].fill_(value)
        return self._slots[position]

    def fill(self, ctx: "Context") -> None:
        """Put the numbers of this step into their slots."""
        for number, slot in zip(self._numbers, self._slots, strict=False):  # other stages may read more
            slot.fill_(ctx.unnoticed(number))


class Context:
    """How far training has got, with the state and randomness of one run.

    Attributes:
        task: what is known about data and evaluation.
        steps: optimiser steps of the whole training.
        epochs: passes over the training set.
        generator: on the device; the only source of randomness a hook may use (dropout layers excepted).
        tables: see `table`.

    On a GPU a step is recorded once and then replayed, with the numbers of the recording. A hook that
    reads `step`, `epoch`, `progress` or `decay` is recorded again whenever they change; `stage` and `schedule` avoid
    that.

    Args:
        decay: gives `decay` for a share of the training done. Default: falls linearly to 0, for loops without a
            schedule of their own.
    """

    def __init__(
        self,
        task: Task,
        steps: int,
        epochs: int,
        generator: torch.Generator,
        decay: Callable[[float], float] = lambda progress: 1 - progress,
    ) -> None:
        self.task = task
        self.steps = steps
        self.epochs = epochs
        self.generator = generator
        self._decay = decay
        self.tables: dict[str, Tensor] = {}
        self._step = 0
        self._reads: Reads | None = None  # where to note what hooks read of it

    @property
    def device(self) -> torch.device:
        """Where net, batches and tables are."""
        return self.generator.device

    @property
    def step(self) -> int:
        """Optimiser steps done: 0 in the first one, `steps` in `finish`."""
        return self.stage(lambda: self._step)

    @step.setter
    def step(self, value: int) -> None:
        self._step = value

    @property
    def epoch(self) -> int:
        """Epochs done: 0 in the first one."""
        return self.stage(lambda: self._step * self.epochs // self.steps)

    @property
    def progress(self) -> float:
        """Share of the training done, 0 at the first step, below 1 at the last."""
        return self.stage(lambda: self._step / self.steps)

    @property
    def decay(self) -> float:
        """The learning rate as a share of its peak, in [0, 1]; 1 until the peak. It always falls.

        Where the rate itself never falls, or nobody says how it does, it is 1 - `progress`.
        """
        return self.stage(lambda: self._decay(self._step / self.steps))

    def stage(self, value: Callable[[], T]) -> T:
        """Return value(), which may read the context and stays the same over many steps: a phase or a count."""
        answer = self.unnoticed(value)
        if self._reads is not None:
            self._reads.stages.append((value, answer))
        return answer

    def schedule(self, number: Callable[[], float]) -> float | Tensor:
        """Return number(), which may read the context and may differ in every step: a factor, for arithmetic only.

        Where the step may be replayed it is a float32 scalar tensor: comparing it would synchronise with the device.
        """
        answer = self.unnoticed(number)
        return answer if self._reads is None else self._reads.note(number, answer, self.device)

    @contextmanager
    def noting(self, reads: Reads | None) -> Iterator[None]:
        """A block in which reads of the schedule are noted in `reads`; with None they are not noted."""
        before, self._reads = self._reads, reads
        try:
            yield
        finally:
            self._reads = before

    def unnoticed(self, value: Callable[[], T]) -> T:
        """Return value() without noting what it reads."""
        with self.noting(None):
            return value()

    def table(self, name: str, init: float) -> Tensor:
        """Return the [num_train] float32 tensor `name`, one entry per training example, created on first use.

        It is saved with checkpoints. Read and write it at `batch.index`.
        """
        if name not in self.tables:
            self.tables[name] = torch.full((self.task.num_train,), init, device=self.device)
        return self.tables[name]
