"""A call that is to stop after a time: what it begins, what it leaves under way, and that the next call goes on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Run

from marginbench.benchmarks import read_arrays, run_all
from marginbench.benchmarks.machine import deadline
from marginbench.benchmarks.machine.deadline import Deadline, SlotOverError, alarm, parse_duration
from marginbench.benchmarks.records.reader import read_record
from marginbench.benchmarks.runs import estimates, slot
from marginbench.benchmarks.runs import work as module
from marginbench.benchmarks.runs.estimates import Estimates
from marginbench.benchmarks.runs.locks import lock
from marginbench.benchmarks.runs.slot import Slot, held_elsewhere
from marginbench.benchmarks.runs.work import Work, prepare
from marginbench.benchmarks.training.run import Run as Training
from marginbench.methods import Method, spec_of
from marginbench.methods.errors import ParameterError

ROWS = {"ce": 10.0, "pmm": 20.0, "jacobian_reg": 40.0}  # seconds of a training, on the clock of these tests
EVALUATION = 5.0


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self) -> None:
        self.time = 1e6
        self.trials: list[str] = []

    def __call__(self) -> float:
        return self.time

    def training_seconds(self, method: Method, *_: Any) -> float:
        self.trials.append(spec_of(method))
        return ROWS[spec_of(method)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for place in (deadline, slot, module):
        monkeypatch.setattr(place, "now", clock)
    monkeypatch.setattr(estimates, "training_seconds", clock.training_seconds)
    monkeypatch.setattr(estimates, "evaluation_seconds", lambda *_: EVALUATION)
    return clock


def prepared(tiny: Path, folder: Path, stop_after: float, **more: Any) -> Work:
    return prepare(str(tiny), list(ROWS), 2, "cpu", folder, stop_after=stop_after, **more)


def given(work: Work, clock: Clock, pace: float = 1.0) -> list[tuple[str, int]]:
    """The runs that are begun, each of which takes its time."""
    assert work.job.until is not None
    rows = []
    for (cell,) in Slot(work, Estimates(work), work.job.until).bundles():
        rows.append((spec_of(cell.method), cell.repetition))
        clock.time += pace * ROWS[spec_of(cell.method)] + EVALUATION
    return rows


FIRST, SECOND = [(name, 0) for name in ROWS], [(name, 1) for name in ROWS]


@pytest.mark.parametrize(
    ("stop_after", "begun"),
    [
        (170, FIRST + SECOND),  # 15 + 25 + 45, twice
        (169, [*FIRST, *SECOND[:2]]),
        (100, [*FIRST, ("ce", 1)]),
        (84, [*FIRST[:2], ("ce", 1), ("pmm", 1)]),  # jacobian_reg has 44 seconds left
        (50, [*FIRST[:2]]),  # and then 10: ce takes 15
        (45, [*FIRST[:2]]),
        (14.9, [("ce", 0)]),  # nothing would ever be done otherwise
    ],
)
def test_what_will_not_be_done_in_time_is_not_begun(
    tiny: Path, tmp_path: Path, clock: Clock, stop_after: float, begun: list[tuple[str, int]]
) -> None:
    assert given(prepared(tiny, tmp_path, stop_after), clock) == begun


def test_a_run_that_is_longer_than_the_slot_waits_for_the_others(tiny: Path, tmp_path: Path, clock: Clock) -> None:
    """jacobian_reg takes 45 s: it is begun once nothing shorter fits, and not where a slot of this length holds it."""
    assert given(prepared(tiny, tmp_path, 44), clock) == [*FIRST[:2], ("jacobian_reg", 0)]
    assert given(prepared(tiny, tmp_path, 46), clock) == FIRST[:2]


def test_what_is_under_way_comes_first(tiny: Path, tmp_path: Path, clock: Clock) -> None:
    work = prepared(tiny, tmp_path, 20)
    late = work.todo[-1]
    work.job.networks.mkdir(parents=True)
    (work.job.networks / f"{late.training.id}.ckpt").touch()
    assert given(work, clock) == [("jacobian_reg", 1)]
    (work.job.runs / f"{work.todo[1].id}.partial").mkdir(parents=True)
    clock.time = 1e6
    assert given(work, clock)[0] == ("pmm", 0)
    only = prepared(tiny, tmp_path, 20, only="train")
    clock.time = 1e6
    assert given(only, clock) == [("jacobian_reg", 1)], "its evaluation is not asked for"


def test_on_a_gpu_runs_are_begun_together_if_there_is_time_for_all(
    tiny: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = replace(prepared(tiny, tmp_path, 100), device=torch.device("cuda"))  # which these lines do not use
    assert work.job.until is not None
    bundles = Slot(work, Estimates(work), work.job.until).bundles()
    assert [[(spec_of(cell.method), cell.repetition) for cell in bundle] for bundle in bundles] == [
        [("ce", 0), ("ce", 1)],  # 15 s each; the others have not been timed
        [("pmm", 0), ("pmm", 1)],  # 25
        [("jacobian_reg", 0), ("jacobian_reg", 1)],  # 45, twice
    ]
    clock.time += 20
    bundles = Slot(work, Estimates(work), work.job.until).bundles()
    assert len(next(bundles)) == len(next(bundles)) == 2
    assert len(next(bundles)) == 1, "80 s hold one of 45"


def test_dearer_rows_are_not_timed_in_vain(tiny: Path, tmp_path: Path, clock: Clock) -> None:
    """They come later, and a trial takes time."""
    given(prepared(tiny, tmp_path, 16), clock)
    assert clock.trials == ["ce", "pmm"]


def test_what_a_call_has_told_corrects_the_trials(tiny: Path, tmp_path: Path, clock: Clock) -> None:
    run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / "other")
    (path,) = (tmp_path / "other" / "tiny" / "runs").glob("*.json")
    record = read_record(path)
    record.cost.update(seconds=30.0, evaluation_seconds=7.0)
    known = Estimates(prepared(tiny, tmp_path, 100))
    cells = prepared(tiny, tmp_path, 100).cells
    assert [known.of(cell).seconds for cell in cells[:3]] == [15, 25, 45]
    known.finished(record)  # ce took three times as long as its trial said
    assert [tuple(known.of(cell)) for cell in cells[:3]] == [
        (37, "records", 0),
        (67, "a few steps", 60),
        (127, "a few steps", 120),
    ]


def test_measured_times_need_no_trial(tiny: Path, tmp_path: Path, clock: Clock) -> None:
    run_all(str(tiny), list(ROWS), 1, "cpu", tmp_path, only="train")
    work = prepared(tiny, tmp_path, 1e4)
    seconds = [Estimates(work).of(cell) for cell in work.cells]
    assert clock.trials == [] and [one.seconds for one in seconds[:3]] == [EVALUATION] * 3
    assert all(one.seconds > EVALUATION and one.seconds < 60 for one in seconds[3:])


@pytest.mark.parametrize("only", [None, "train"])
def test_what_is_stopped_is_no_failure_and_goes_on(
    tiny: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, only: Any
) -> None:
    """Of 18 steps of a training the slot holds 5: four calls, and the network of an uninterrupted one."""
    words: dict[str, Any] = {"methods": ["pmm"], "seeds": 1, "device": "cpu", "only": only}
    whole = run_all(str(tiny), out=tmp_path / "whole", **words)
    step = Training.step

    def slow(self: Training) -> Any:
        clock.time += 100.0
        return step(self)

    monkeypatch.setattr(Training, "step", slow)
    monkeypatch.setattr("marginbench.benchmarks.runs.workers.warm_up", lambda *_: None)
    for call in range(1, 4):
        outcome = run_all(str(tiny), out=tmp_path / "parts", stop_after=500, **words)
        assert (outcome.repeated, outcome.failed, outcome.left, outcome.elsewhere, outcome.files) == (0, 0, 1, 0, [])
        assert len(list(outcome.networks.glob("*.ckpt"))) == 1 and not list(outcome.networks.glob("*.json")), call
    outcome = run_all(str(tiny), out=tmp_path / "parts", stop_after=500, **words)
    assert (outcome.repeated, outcome.failed, outcome.left) == (1, 0, 0)
    assert not list(outcome.networks.glob("*.ckpt"))
    networks = [next(one.networks.glob("*.safetensors")) for one in (whole, outcome)]
    assert networks[0].read_bytes() == networks[1].read_bytes()


def test_an_evaluation_that_is_stopped_goes_on(
    tiny: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / "whole")
    enter = Deadline.enter

    def late(self: Deadline, where: str) -> None:
        clock.time += 600.0 * ("blend" in where)
        enter(self, where)

    monkeypatch.setattr(Deadline, "enter", late)
    outcome = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / "parts", stop_after=300)
    assert (outcome.repeated, outcome.failed, outcome.left) == (0, 0, 1)
    assert len(list(outcome.networks.glob("*.json"))) == 1 and len(list(outcome.runs.glob("*.partial"))) == 1
    monkeypatch.setattr(Deadline, "enter", enter)
    outcome = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / "parts", stop_after=300)
    assert (outcome.repeated, outcome.left) == (1, 0)
    assert "taken from an evaluation that was interrupted" in capsys.readouterr().err
    a, b = (read_arrays(next(one.runs.glob("*.json"))) for one in (whole, outcome))
    assert a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def test_an_estimator_does_not_catch_the_end() -> None:
    with pytest.raises(SlotOverError), alarm(0.01, SlotOverError()):
        while True:
            try:
                sum(range(1000))
            except Exception:
                continue


def test_what_others_hold_is_not_left(tiny: Path, tmp_path: Path, clock: Clock) -> None:
    work = prepared(tiny, tmp_path, 1.0)
    for folder in (work.runs, work.job.networks):
        folder.mkdir(parents=True)
    with lock(work.runs, work.todo[0].id, "ce", 0), lock(work.job.networks, work.todo[0].training.id, "ce", 0):
        assert held_elsewhere(work) == 1


@pytest.mark.parametrize("words", [(), ("--jobs", "2"), ("--only", "train"), ("--shard", "1/2")])
def test_the_command_says_what_is_left(tiny: Path, tmp_path: Path, run: Run, words: tuple[str, ...]) -> None:
    """A slot that is over before the first run."""
    call = ("run-all", "--suite", tiny, "--out", tmp_path, "--seeds", "4", *(words or ("--jobs", "1")))
    code, out, err = run(*call, "--stop-after", "0.001s")
    assert words or "no run was begun: set-up has left 0 s of the time; give --stop-after more" in err
    count = 4 if "--shard" in words else 8
    assert code == 0 and f"Left after 0.001s: {count} runs; the same command goes on from here." in out
    assert run("run-all", "--suite", tiny, "--out", tmp_path, "--stop-after", "9 minutes")[0] == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("9m", 540), ("2h", 7200), ("1h30m", 5400), ("1.5H", 5400), ("90", 90), (7, 7)]
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "9min", "-5", "0", "1m1h", "nan", True])
def test_what_is_no_duration(text: Any) -> None:
    with pytest.raises(ParameterError, match="stop_after="):
        parse_duration(text)
