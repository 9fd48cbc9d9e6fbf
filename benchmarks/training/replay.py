"""A training step recorded once and then replayed: the host is too slow to launch small operations one by one.

A recording holds the operations of a step and the memory they work on. It is valid for another batch in the same place
if what the method reads of the schedule is the same (`Context.stage`) or comes as a tensor (`Context.schedule`), and if
the host never looks at a result. The first two are taken care of here; a method that waits for the device is not
recorded.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.methods import Batch, Context, Loss
from marginbench.methods.context import Reads
from marginbench.methods.errors import one_line

Step = Callable[[Batch], Loss]  # one training step, which returns its loss without the graph of its gradient
SETTLED = 3  # equal steps before one is recorded: libraries load kernels, and optimisers allocate their state


class CannotRecordError(RuntimeError):
    """The work cannot be recorded; none of it was done."""


class Recorder(Protocol):
    """Holds one recording."""

    def watch(self, work: Callable[[], Loss]) -> tuple[Loss, str]:
        """Do the work; return its result, and why it cannot be recorded, or an empty text."""

    def record(self, work: Callable[[], Loss]) -> Loss:
        """Record the work without doing it, replacing an older recording; return where its result will be.

        Raises:
            CannotRecordError: the device refuses.
        """

    def replay(self) -> None:
        """Do the recorded work."""


class CudaGraph:
    """Records work as a CUDA graph.

    Switches to a side stream: the default stream cannot be captured.
    """

    def __init__(self, generator: torch.Generator) -> None:
        torch.cuda.synchronize(generator.device)
        torch.cuda.set_stream(_side_stream(generator.device))
        self._generator = generator
        self._graph: torch.cuda.CUDAGraph | None = None

    def watch(self, work: Callable[[], Loss]) -> tuple[Loss, str]:
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = work()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        waits = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
        return result, f"waits for the device ({waits[0].filename}, line {waits[0].lineno})" if waits else ""

    def record(self, work: Callable[[], Loss]) -> Loss:
        self._graph = None  # frees its memory for the new one
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(
                graph, stream=stream, capture_error_mode="thread_local"
            ):  # other threads may use the device
                result = work()
        except RuntimeError as error:  # the context holds the cause: ending a failed capture fails, too
            raise CannotRecordError(one_line(error.__context__ or error)) from error
        self._graph = graph
        return result

    def replay(self) -> None:
        assert self._graph is not None
        self._graph.replay()


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all trainings, since each stream has a memory cache of its own."""
    return torch.cuda.Stream(device)


@dataclass(frozen=True)
class _Recorded:
    batch: Batch
    loss: Loss
    reads: Reads
    forward: int  # images that pass through the network
    backward: int


class Replay:
    """The steps of one training: the first are done as usual, then one is recorded and from there on replayed.

    A step is recorded again when the schedule has reached another stage and stayed there for some steps: `SETTLED` the
    first time, twice as many each time after, so that a method with many short stages does not record all the time.
    """

    def __init__(self, ctx: Context, passes: PassCounter, optimiser: torch.optim.Optimizer, recorder: Recorder) -> None:
        self.obstacle = ""  # why nothing can be recorded
        self.replayed = 0  # steps
        self._ctx, self._passes, self._optimiser, self._recorder = ctx, passes, optimiser, recorder
        self._slots: list[Tensor] = []
        self._last: Reads | None = None
        self._alike, self._needed = 0, SETTLED  # equal steps in a row; how many before a recording
        self._recorded: _Recorded | None = None

    def __call__(self, step: Step, batch: Batch) -> Loss:
        """Do one step, replayed or not, and return its loss."""
        if self.obstacle:
            return step(batch)
        if self._recorded is None or not self._holds(self._recorded.reads):
            self._alike = self._alike + 1 if self._last is not None and self._holds(self._last) else 0
            if self._alike < self._needed:
                return self._do(step, batch)
            try:
                self._record(step, batch)
            except CannotRecordError as error:
                self.obstacle = str(error)
                return step(batch)
        return self._replay(batch)

    def _holds(self, reads: Reads) -> bool:
        return all(self._ctx.unnoticed(stage) == answer for stage, answer in reads.stages)

    def _do(self, step: Step, batch: Batch) -> Loss:
        self._last = Reads(self._slots)
        with self._ctx.noting(self._last):
            if self._alike < self._needed - 1:
                return step(batch)
            loss, self.obstacle = self._recorder.watch(lambda: step(batch))
            return loss

    def _record(self, step: Step, batch: Batch) -> None:
        self._recorded, self._needed = None, 2 * self._needed
        self._optimiser.zero_grad(set_to_none=True)  # makes room for those of the recording
        place = Batch(batch.x.clone(), batch.y.clone(), batch.index.clone())
        reads = Reads(self._slots, frozen=True)
        forward, backward = self._passes.forward, self._passes.backward
        try:
            with self._ctx.noting(reads):
                loss = self._recorder.record(lambda: step(place))
            passed = self._passes.forward - forward, self._passes.backward - backward
        finally:
            self._passes.forward, self._passes.backward = forward, backward
        self._recorded = _Recorded(place, loss, reads, *passed)

    def _replay(self, batch: Batch) -> Loss:
        recorded = self._recorded
        assert recorded is not None
        for name in ("x", "y", "index"):
            getattr(recorded.batch, name).copy_(getattr(batch, name))
        recorded.reads.fill(self._ctx)
        self._recorder.replay()
        self._passes.forward += recorded.forward
        self._passes.backward += recorded.backward
        self.replayed += 1
        return recorded.loss
