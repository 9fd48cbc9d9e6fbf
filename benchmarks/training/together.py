"""Several trainings at once, each as if it were alone: one that fails leaves the group, and the others go on."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import cast

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.machine.deadline import DeadlineError, SlotOverError
from marginbench.benchmarks.machine.memory import out_of_memory
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.clock import Share, Shares
from marginbench.benchmarks.training.group import Group
from marginbench.benchmarks.training.loop import How, Trained, training
from marginbench.benchmarks.training.recorder import Recorder, here
from marginbench.benchmarks.training.run import Run
from marginbench.methods import Batch, Method


@dataclass(frozen=True)
class Entrant:
    """One training of a group."""

    method: Method
    repetition: int
    how: How
    weight: float = 1.0  # of its share in the group's seconds, see `Shares`


@dataclass(frozen=True)
class Left:
    """A training that has left its group."""

    place: int  # among the entrants
    outcome: Trained | Exception | None  # None: no time, no memory beside the others, or compiled it failed
    seconds: float  # that this group has charged it for, those before its checkpoint left out


class _StoppedError(Exception):
    """The time of the whole call is up."""


@dataclass(frozen=True)
class _Member:
    run: Run
    steps: Generator[None, None, Trained]
    share: Share
    weight: float


def train_together(
    entrants: Sequence[Entrant],
    suite: Suite,
    data: Dataset,
    shares: Shares | None = None,
    recorder: Callable[[], Recorder] | None = None,
) -> Iterator[Left]:
    """Do what `train` does for each, all at once; each comes when it ends, while the others wait.

    Its deadline counts what it is charged for.

    Args:
        shares: whose clock is that of the data's device by default.
        recorder: see `Run`.
    """
    shares = shares or Shares.on(data.train.device)
    members: dict[int, _Member] = {}
    group: Group | None = None
    try:
        for place, entrant in enumerate(entrants):
            try:
                members[place] = _enter(entrant, shares.share(place), suite, data, recorder)
            except Exception as error:  # a method may raise anything; the others must go on
                yield Left(place, _seen(error, entrant, entrants), 0.0)
        with shares.running():
            shares.divide({place: member.weight for place, member in members.items()})
            while members:
                outcomes: dict[int, Trained | Exception] = {}
                for place, member in members.items():
                    if (ended := _go_on(member)) is not None:
                        outcomes[place] = ended
                runs = {place: member.run for place, member in members.items() if place not in outcomes}
                if group is None:
                    group = next((Group(run.recorder()) for run in runs.values() if run.recorder), None)
                outcomes |= step_together(runs, group)
                for place, outcome in outcomes.items():
                    members.pop(place).steps.close()
                    seconds = shares.charged(place)
                    shares.divide({place: member.weight for place, member in members.items()})
                    with shares.paused():
                        yield Left(place, _seen(outcome, entrants[place], entrants), seconds)
    finally:  # interrupted, or nobody wants the rest
        for member in members.values():
            member.steps.close()


def _enter(
    entrant: Entrant, share: Share, suite: Suite, data: Dataset, recorder: Callable[[], Recorder] | None
) -> _Member:
    how = replace(entrant.how, clock=share)
    how.deadline.count(share.glance)
    how.deadline.enter("while the network was built")
    way = {"eager": how.eager, "compiled": how.compiled}
    run = Run(entrant.method, suite, data, entrant.repetition, **way, recorder=recorder)
    return _Member(run, training(run, data, how), share, entrant.weight)


def _go_on(member: _Member) -> Trained | Exception | None:
    """Up to the next step; what it ended with, if it did."""
    try:
        with member.run.draws:
            next(member.steps)
    except StopIteration as end:
        return cast(Trained, end.value)
    except SlotOverError:  # each of the others keeps a checkpoint as well
        return _StoppedError()
    except Exception as error:
        return error
    return None


def step_together(runs: Mapping[int, Run], group: Group | None) -> dict[int, Exception]:
    """One step of each; what those raised that failed."""
    failed: dict[int, Exception] = {}
    batches: dict[int, Batch] = {}
    with nullcontext(here) if group is None else group.recorder.sides() as side:
        for place, run in runs.items():
            try:
                with side(place), run.draws:
                    if run.replay is None:
                        run.step(len(runs))
                    else:
                        batches[place] = run.begin()
            except Exception as error:
                failed[place] = error
    if group is None:
        return failed
    replays = {run.replay: place for place, run in runs.items() if place in batches and run.replay is not None}
    outcomes = group.step({replay: batches[place] for replay, place in replays.items()})
    for replay, outcome in outcomes.items():
        if isinstance(outcome, Exception):
            failed[replays[replay]] = outcome
        else:
            runs[replays[replay]].end(outcome, len(runs))
    return failed


def _seen(outcome: Trained | Exception, entrant: Entrant, entrants: Sequence[Entrant]) -> Trained | Exception | None:
    """What the training by itself would have come to, as far as that is known."""
    if not isinstance(outcome, Exception) or isinstance(outcome, DeadlineError):
        return outcome
    if isinstance(outcome, _StoppedError):
        return None
    crowded = len(entrants) > 1 and out_of_memory(outcome)
    return None if crowded or entrant.how.compiled else outcome
