"""The steps of one or several trainings, in one recording as long as that holds."""

from collections.abc import Mapping, Sequence

from marginbench.benchmarks.training.recorder import CannotRecordError, Recorder
from marginbench.benchmarks.training.replay import SETTLED, Replay
from marginbench.methods import Batch, Loss


class Group:
    """Steps trainings together: each is a branch of one recording, done as usual while it cannot be.

    A recording holds for all of its branches or for none. It is made anew without a training that has left, with one
    that has become ready, and when those whose schedule has reached another stage have settled there. The others wait
    for these for `SETTLED` steps, done as usual; then they are recorded without them.

    A recorded step does what the step would have done, and each training has generators of its own: whether it is
    recorded, when, and beside which others makes no difference to it.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._inside: list[Replay] = []  # the branches of the recording
        self._waited = 0  # steps in a row in which the recording did not hold

    def step(self, batches: Mapping[Replay, Batch]) -> dict[Replay, Loss | Exception]:
        """One step of each training with its batch: its loss, or what it raised.

        Losses are on the device, and valid until the next step.
        """
        for run in batches:
            run.look()
        self._record_if_due(batches)
        replayed = self._inside if self._holds(batches) else []
        for run in replayed:
            run.fill(batches[run])
        if replayed:
            self.recorder.replay()
        outcomes: dict[Replay, Loss | Exception] = {run: run.done() for run in replayed}
        for run, batch in batches.items():
            if run not in outcomes:
                try:
                    outcomes[run] = run.do(batch, self.recorder)
                except Exception as error:  # a method may raise anything; the others go on
                    outcomes[run] = error
        return outcomes

    def _holds(self, batches: Mapping[Replay, Batch]) -> bool:
        return bool(self._inside) and all(run in batches and run.fits for run in self._inside)

    def _record_if_due(self, batches: Mapping[Replay, Batch]) -> None:
        ready = [run for run in batches if run.ready]
        if self._holds(batches):
            self._waited = 0
            due = len(ready) > len(self._inside)
        else:
            due = self._waited >= SETTLED or not any(run.waiting for run in batches)
            self._waited += 1
        while due and ready and not self._record(ready, batches):
            ready = [run for run in ready if not run.obstacle]

    def _record(self, ready: Sequence[Replay], batches: Mapping[Replay, Batch]) -> bool:
        self._inside, self._waited = [], 0
        try:
            losses = self.recorder.record([run.branch(batches[run]) for run in ready])
        except CannotRecordError as error:
            for run in ready if error.branch is None else [ready[error.branch]]:
                run.refuse(str(error))
            return False
        for run, loss in zip(ready, losses, strict=True):
            run.recorded(loss)
        self._inside = [*ready]
        return True
