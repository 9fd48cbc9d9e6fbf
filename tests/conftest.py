"""The command line as a function, and a suite small enough for tests: digits, two epochs, 30 points, cheap attacks."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
from processes import Program, Start
from support import Run

from marginbench.benchmarks import cli
from marginbench.benchmarks.plugins import forget_plugins
from marginbench.methods import names
from marginbench.methods import registry as registry_module

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's packages are imported
TINY = """
name = "tiny"
title = "two epochs of digits"
methods = ["ce", "arcface(m=0.1,s=16)"]
seeds = 1

[data]
name = "digits"
validation = 200

[network]
name = "mlp"
width = 16

[training]
epochs = 2
batch_size = 128
learning_rate = 1e-2

[evaluation]
points = 30
epsilon = { linf = 0.05, l2 = 0.25 }

[evaluation.attacks]
deepfool = { steps = 5 }
blend = {}

[evaluation.certificates]
crown = {}
"""


@pytest.fixture(autouse=True)
def plugins_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    names()  # scan first
    monkeypatch.setattr(registry_module, "_methods", dict(registry_module._methods))
    yield
    forget_plugins()


@pytest.fixture(autouse=True)
def data_stay_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the user's data sets, or downloads any."""

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setenv("MARGINBENCH_DATA", str(tmp_path / "sets"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Path of the tiny suite file."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line: exit code, what it printed, what it complained about."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["marginbench", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a `Program`; it ends with the test."""
    programs: list[Program] = []

    def begin(source: str, *words: str | Path, terminal: str | None = None) -> Program:
        programs.append(Program(tmp_path / f"program-{len(programs)}", source, *words, terminal=terminal))
        return programs[-1]

    yield begin
    for program in programs:
        program.kill_group()
