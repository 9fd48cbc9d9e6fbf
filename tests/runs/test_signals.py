"""Ctrl-C and SIGTERM: the first ends a command in order and with one line, the next ends it at once."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from processes import MARGINBENCH, Program, Start, wait_for

from marginbench.benchmarks.runs import interrupt
from marginbench.benchmarks.runs.interrupt import InterruptedBySignal, check_interrupted, interruptible

WORDS = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}
STUCK = f"""
import atexit, signal, threading
from marginbench.benchmarks.runs import run_all
tables = run_all._records
def stuck(*arguments):
    try:
        yield from tables(*arguments)
    finally:  # whatever it is that hangs when a command clears up
        print("clearing up", flush=True)
        threading.Event().wait()
run_all._records = stuck
{MARGINBENCH}
"""


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of this process, as they were."""
    before = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupt._arrived.clear()


def test_a_signal_that_is_lost_is_raised_again(handlers: None) -> None:
    with interruptible():
        check_interrupted()
        with suppress(KeyboardInterrupt):  # as Python does with what a destructor raises
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(InterruptedBySignal) as caught:
            check_interrupted()
    assert caught.value.number == signal.SIGTERM


def test_without_a_signal_the_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def begun(start: Start, tiny: Path, out: Path, jobs: int, source: str = MARGINBENCH) -> Program:
    """A `run-all` that has finished a run and is far from its end."""
    process = start(source, "run-all", "--suite", tiny, "--out", out, "--jobs", str(jobs), "--seeds", "99")
    wait_for(lambda: list((out / "tiny" / "runs").glob("*.json")), process)
    return process


def silent(err: str) -> bool:
    """Nothing but our own lines: no traceback, no complaint of a library."""
    ours = ("suite ", "[", "198 runs to do", "terminated", "interrupted")
    return all(line.startswith(ours) or line.endswith(" runs done") for line in err.splitlines())


@pytest.mark.parametrize("number", WORDS, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_first_signal_ends_in_order(
    start: Start, tiny: Path, tmp_path: Path, jobs: int, number: signal.Signals
) -> None:
    process = begun(start, tiny, tmp_path / "out", jobs)
    os.killpg(process.pid, number) if number == signal.SIGINT else os.kill(process.pid, number)
    word, code = WORDS[number]
    assert process.wait() == code
    last = process.err.splitlines()[-1]
    assert last == f"{word}: finished runs are kept; run the same command again for the rest"
    assert silent(process.err), process.err
    wait_for(lambda: not process.group())
    for path in (tmp_path / "out").rglob("runs/*.json"):
        assert json.loads(path.read_text())["status"] == "done"


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_second_signal_ends_at_once(start: Start, tiny: Path, tmp_path: Path, jobs: int) -> None:
    process = begun(start, tiny, tmp_path / "out", jobs, STUCK)
    os.killpg(process.pid, signal.SIGINT)
    wait_for(lambda: "clearing up" in process.out, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert silent(process.err), process.err
    wait_for(lambda: not process.group())


def test_ctrl_c_while_workers_load_leaves_no_traceback(start: Start, tiny: Path, tmp_path: Path) -> None:
    """The fork server has been started, and imports torch, when the command says its first line."""
    process = start(MARGINBENCH, "run-all", "--suite", tiny, "--out", tmp_path / "out", "--jobs", "2", "--seeds", "99")
    wait_for(lambda: process.err, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert silent(process.err), process.err
