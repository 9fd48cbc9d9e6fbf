"""What a terminal shows while runs are done: it fits, it is true, and nothing of it is left behind."""

import itertools
import logging
import os
import pty
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made import LEVEL, a_record
from processes import MARGINBENCH, Program, Start
from rich.console import Console

from marginbench.benchmarks import run_all
from marginbench.benchmarks.records.training import read_training
from marginbench.benchmarks.runs.console import LOGGER, Lines, Step
from marginbench.benchmarks.runs.live import BEST, AtWork, Screen, View, _Picture, shares
from marginbench.benchmarks.runs.locks import lock
from marginbench.benchmarks.runs.watch import Watch
from marginbench.benchmarks.runs.work import Work, prepare

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"
Terminal = Callable[..., tuple[Program, Callable[[], bytes]]]


def view(running: int, best: int) -> View:
    runs = [AtWork(f"mma(d_max=0.5,steps={i})", i, "train", "epoch 3 of 20", "1:20:00") for i in range(running)]
    rows = [[f"arcface(s=16,m=0.{i})", "2/3", "71.0", "98.2", "12.3"] for i in range(best)]
    return View(runs, "best of 35 so far", ["seeds", "robust % L2 0.5", "clean %", "certified % L2 0.5"], rows)


def drawn(width: int, height: int, seen: View | None, ended: bool = False) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    picture = _Picture(Step("", 12, 35, "3:05", "2 workers", None if seen is None else lambda: seen))
    picture.ended = ended
    with console.capture() as captured:
        console.print(picture)
    return captured.get().splitlines()


@pytest.mark.parametrize(
    ("width", "height", "running", "best"),
    [*itertools.product((200, 80, 59, 40, 20), (50, 24, 8, 3), (0, 1, 40), (0, 1, 35))],
)
def test_it_fits_the_terminal(width: int, height: int, running: int, best: int) -> None:
    """A line that is too long, or one too many, cannot be erased: it would be left behind at each refresh."""
    lines = drawn(width, height, view(running, best))
    assert len(lines) < height and max(map(len, lines)) <= width - 2
    assert "12/35" in lines[0] and "ETA 3:05" in lines[0]


def test_all_is_shown_where_there_is_room() -> None:
    text = "\n".join(drawn(100, 24, view(2, 9)))
    for word in ("mma(d_max=0.5,steps=1)  ", "seed 1", "train, epoch 3 of 20", "1:20:00", "best of 35 so far", "12.3"):
        assert word in text
    assert text.count("arcface") == BEST and "more" not in text
    narrow = "\n".join(drawn(40, 24, view(2, 9)))
    assert "epoch 3 of 20" in narrow and "71.0" in narrow and "98.2" not in narrow
    assert "arcface" not in "\n".join(drawn(100, 24, view(2, 9), ended=True))


def test_what_is_hidden_is_counted() -> None:
    lines = drawn(80, 12, view(40, 0))
    shown = sum("seed" in line for line in lines)
    assert lines[-1].strip() == f"and {40 - shown} more" and shown == 9
    assert drawn(80, 3, view(5, 5))[1].strip() == "5 runs in progress"


def test_lines_are_shared() -> None:
    for lines, running, best in itertools.product(range(-1, 30), range(30), range(12)):
        workers, rows = shares(lines, running, best)
        assert 0 <= workers <= running and 0 <= rows <= min(best, BEST)
        assert workers + rows + 2 * (rows > 0) <= max(0, lines)
    assert shares(22, 3, 9) == (3, BEST) and shares(22, 40, 9) == (15, BEST) and shares(6, 40, 9) == (3, 1)


@pytest.fixture
def work(tiny: Path, tmp_path: Path) -> Work:
    """Two runs, of ce and of another method, of which nothing is done."""
    work = prepare(str(tiny), out=tmp_path / "out")
    for folder in (work.runs, work.job.networks):
        folder.mkdir(parents=True)
    return work


def test_who_does_what(work: Work) -> None:
    watch = Watch(work)
    first, second = work.cells
    assert (watch.view().running, watch.view().best) == ([], [])
    watch.note(first.id, "in epoch 2 of 4")
    watch.note(second.id, "while the network was built")
    with (
        lock(work.runs, first.id, "ce", 0),
        lock(work.job.networks, first.training.id, "ce", 0),
        lock(work.runs, second.id, "svm", 1),
        lock(work.job.networks, "0" * 64, "of another suite", 0),
    ):
        running = {run.method: run for run in watch.running()}
    assert set(running) == {"ce", "svm"}
    assert (running["ce"].stage, running["ce"].where) == ("train", "epoch 2 of 4")
    assert (running["svm"].stage, running["svm"].repetition, running["svm"].host) == ("evaluate", 1, "")
    with lock(work.job.networks, first.training.id, "ce", 0, together=6):
        assert [run.stage for run in watch.running()] == ["train, 6 at once"]


def test_the_locks_are_not_read_at_every_refresh(work: Work) -> None:
    watch = Watch(work)
    with lock(work.runs, work.cells[0].id, "ce", 0):
        assert len(watch.view().running) == 1
    assert len(watch.view().running) == 1 and watch.running() == []


def test_the_best_so_far_are_means_of_what_is_done(tiny: Path, tmp_path: Path) -> None:
    def watch(**options: Any) -> Watch:
        return Watch(prepare(str(tiny), seeds=2, out=tmp_path, device="cpu", **options))

    during = watch()
    records = run_all(str(tiny), seeds=2, device="cpu", out=tmp_path).records
    during.finished(records[0])
    ((name, seeds, robust, *_),) = during.view().best
    assert (name, seeds) == (records[0].method, "1/2")
    assert robust == f"{100 * records[0].metrics['robust_accuracy_l2']:.1f}"
    for record in records[1:]:
        during.finished(record)
    rows = during.view().best
    assert watch().view().best == rows and all(row[1] == "2/2" for row in rows)
    expected = {
        name: 50 * sum(record.metrics["robust_accuracy_l2"] for record in records if record.method == name)
        for name in {record.method for record in records}
    }
    assert [row[0] for row in rows] == sorted(expected, key=lambda name: (-expected[name], name))
    assert [row[2] for row in rows] == [f"{expected[row[0]]:.1f}" for row in rows]
    assert watch(redo="everything").view().best == []  # what is known is about to be replaced


def test_rows_that_differ_by_rounding_are_in_order_of_their_names(tiny: Path, tmp_path: Path) -> None:
    watch = Watch(prepare(str(tiny), out=tmp_path, device="cpu"))
    for row, values in zip(("arcface", "kobayashi"), LEVEL, strict=True):
        for seed, value in enumerate(values):
            watch.finished(a_record(row, seed, value))
    assert [row[0] for row in watch.view().best] == ["arcface", "kobayashi"]


def test_trainings_alone_are_shown_by_their_validation_accuracy(tiny: Path, tmp_path: Path) -> None:
    watch = Watch(prepare(str(tiny), out=tmp_path, device="cpu", only="train"))
    run_all(str(tiny), device="cpu", out=tmp_path, only="train")
    (training, *_) = [read_training(path) for path in (tmp_path / "networks").glob("*.json")]
    watch.finished(training)
    assert watch.view().header == ["seeds", "validation %"]
    assert watch.view().best == [[training.method, "1/1", f"{100 * training.curve[-1].validation_accuracy:.1f}"]]


def test_messages_stand_above_the_picture(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    logger = logging.getLogger(f"{LOGGER}.test")
    for done, last in ((0, False), (1, True)):
        step = Step(f"run {done} [ended]", done, 1, "?", "1 worker", lambda: view(1, 1), last)
        record = logger.makeRecord(logger.name, logging.INFO, "", 0, "as a line", (), None, extra={"step": step})
        screen.emit(record)
    screen.emit(logger.makeRecord(logger.name, logging.WARNING, "", 0, "later", (), None))
    text = capsys.readouterr().err
    assert "run 0 [ended]" in text and "as a line" not in text and text.endswith("warning: later\n")
    screen.end()  # nothing is left to end


def test_a_table_stands_above_the_picture_and_between_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logger, widths = logging.getLogger(f"{LOGGER}.test"), list[int]()

    def table(width: int) -> str:
        widths.append(width)
        return "the table [so far]"

    step = Step("run 0", 1, 2, "?", "1 worker", lambda: view(1, 1), last=True, table=table)
    record = logger.makeRecord(logger.name, logging.INFO, "", 0, "as a line", (), None, extra={"step": step})
    Screen().emit(record)
    text = capsys.readouterr().err
    assert text.index("run 0") < text.index("the table [so far]") < text.rindex("1/2") and len(widths) == 1
    Lines().emit(record)
    assert capsys.readouterr().err == "as a line\n" and len(widths) == 1


def test_the_table_between_two_repetitions(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_all(str(tiny), device="cpu", out=tmp_path, seeds=1)
    work = prepare(str(tiny), device="cpu", out=tmp_path, seeds=2)
    text = Watch(work).table(70)
    assert "arcface(s=16,m=0.1)" in text and "\033" not in text
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 70

    def fail(*_: object) -> str:
        raise ValueError("what is shown is kept elsewhere")

    monkeypatch.setattr("marginbench.benchmarks.tables.terminal.text_after", fail)
    assert Watch(work).table(70) == "", "the runs go on"


@pytest.fixture
def terminal(start: Start) -> Iterator[Terminal]:
    """Starts a program on a terminal of its own; the second value reads what it has written so far."""
    ours, theirs = pty.openpty()

    def begin(*words: str | Path) -> tuple[Program, Callable[[], bytes]]:
        shown = bytearray()

        def read() -> bytes:
            while select.select([ours], [], [], 0.1)[0]:
                shown.extend(os.read(ours, 4096))
            return bytes(shown)

        return start(*words, terminal=os.ttyname(theirs)), read

    yield begin
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_leaves_the_cursor(terminal: Terminal, tiny: Path, tmp_path: Path, signals: int) -> None:
    process, read = terminal(MARGINBENCH, "run-all", "--suite", tiny, "--out", tmp_path / "out", "--seeds", "99")
    while b"so far" not in (shown := read()):
        assert process.alive, shown
    for _ in range(signals):
        os.kill(process.pid, signal.SIGINT)
    while process.alive:
        read()
    shown = read()
    assert process.wait() == 130 and HIDE in shown and shown.rindex(SHOW) > shown.rindex(HIDE)
    assert b"Traceback" not in shown
