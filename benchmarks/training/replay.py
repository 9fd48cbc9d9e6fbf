"""One training's part in a recording: when its steps are alike, and whether what was recorded is still what it does.

The host is too slow to launch small operations one by one. A recorded step is valid for another batch in the same place
if what the method reads of the schedule is the same (`Context.stage`) or comes as a tensor (`Context.schedule`), and if
the host never looks at a result. The first two are taken care of here; a method that waits for the device is not
recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.machine.seeds import Draws
from marginbench.benchmarks.training.recorder import Branch, Recorder
from marginbench.methods import Batch, Context, Loss
from marginbench.methods.context import Reads

Step = Callable[[Batch], Loss]  # one training step, which returns its loss without the graph of its gradient
SETTLED = 3  # equal steps before one is recorded: libraries load kernels, and optimisers allocate their state


@dataclass
class _Recorded:
    batch: Batch
    reads: Reads
    loss: Loss | None = None
    forward: int = 0  # images that pass through the network
    backward: int = 0


class Replay:
    """The steps of one training: the first are done as usual, then one is recorded and from there on replayed.

    A step is recorded again when the schedule has reached another stage and stayed there for some steps: `SETTLED` the
    first time, twice as many each time after, so that a method with many short stages does not record all the time.

    See `Group`, which asks it for all of that.
    """

    def __init__(
        self, ctx: Context, passes: PassCounter, optimiser: torch.optim.Optimizer, draws: Draws, step: Step
    ) -> None:
        self.obstacle = ""  # why nothing can be recorded
        self.replayed = 0  # steps
        self.fits = False  # what is recorded is what this step does
        self._ctx, self._passes, self._optimiser, self._draws, self._step = ctx, passes, optimiser, draws, step
        self._slots: list[Tensor] = []
        self._last: Reads | None = None
        self._alike, self._needed = 0, SETTLED  # equal steps in a row; how many before a recording
        self._recorded: _Recorded | None = None

    def look(self) -> None:
        """Compare the step that comes now with the recorded one, and with the last; once in each step."""
        self.fits = self._recorded is not None and self._holds(self._recorded.reads)
        if not self.fits:
            self._alike = self._alike + 1 if self._last is not None and self._holds(self._last) else 0

    @property
    def ready(self) -> bool:
        """Whether this step may be recorded."""
        return not self.obstacle and (self.fits or self._alike >= self._needed)

    @property
    def waiting(self) -> bool:
        """Whether a later step may be ready."""
        return not self.obstacle and not self.ready

    @property
    def stages(self) -> list[Callable[[], object]]:
        """What the latest step that was done or recorded has read of the schedule, and must stay the same."""
        reads = self._recorded.reads if self._recorded is not None else self._last
        return [] if reads is None else [stage for stage, _ in reads.stages]

    def do(self, batch: Batch, recorder: Recorder) -> Loss:
        """Do the step as usual; the last one before a recording is watched."""
        with self._draws:
            if self.obstacle:
                return self._step(batch)
            self._last = Reads(self._slots)
            with self._ctx.noting(self._last):
                if self.fits or self._alike < self._needed - 1:
                    return self._step(batch)
                loss, self.obstacle = recorder.watch(lambda: self._step(batch))
                return loss

    def branch(self, batch: Batch) -> Branch:
        """The step as it is to be recorded now, for batches like this one."""
        self._optimiser.zero_grad(set_to_none=True)  # makes room for those of the recording
        place = Batch(batch.x.clone(), batch.y.clone(), batch.index.clone())
        self._recorded = _Recorded(place, Reads(self._slots, frozen=True))
        return Branch(self._record, lambda: self._step(place), self._ctx.generator, self._draws)

    def recorded(self, loss: Loss) -> None:
        """It has been recorded; its loss will be there."""
        assert self._recorded is not None
        self._recorded.loss = loss
        if not self.fits:  # it is not recorded for the sake of others
            self._needed *= 2
        self.fits = True

    def refuse(self, obstacle: str) -> None:
        """It cannot be recorded."""
        self.obstacle, self._recorded = obstacle, None

    def fill(self, batch: Batch) -> None:
        """Put what is new in this step where the recording finds it."""
        assert self._recorded is not None
        for name in ("x", "y", "index"):
            getattr(self._recorded.batch, name).copy_(getattr(batch, name))
        self._recorded.reads.fill(self._ctx)

    def done(self) -> Loss:
        """The step has been replayed: note what that was."""
        recorded = self._recorded
        assert recorded is not None and recorded.loss is not None
        self._passes.forward += recorded.forward
        self._passes.backward += recorded.backward
        self.replayed += 1
        return recorded.loss

    def _holds(self, reads: Reads) -> bool:
        return all(self._ctx.unnoticed(stage) == answer for stage, answer in reads.stages)

    def _record(self) -> Loss:
        recorded = self._recorded
        assert recorded is not None
        forward, backward = self._passes.forward, self._passes.backward
        try:
            with self._ctx.noting(recorded.reads), self._draws:
                loss = self._step(recorded.batch)
            recorded.forward, recorded.backward = self._passes.forward - forward, self._passes.backward - backward
            return loss
        finally:
            self._passes.forward, self._passes.backward = forward, backward
