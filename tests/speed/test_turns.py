"""Turns are taken in each round and timed one by one; the options say what they are; every script explains itself."""

import importlib
import inspect
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from marginbench.benchmarks import speed
from marginbench.benchmarks.speed import turns

SCRIPTS = [path.stem for path in Path(speed.__file__).parent.glob("*.py") if "def main(" in path.read_text()]


def test_ways_take_turns_within_each_round() -> None:
    clock = partial(next, iter([0.0, 1.0, 5.0, 7.0, 10.0, 14.0, 20.0, 28.0]))
    done = []

    def way(name: str, work: int) -> int:
        done.append((name, work))
        return 10 * work

    found = turns.take_turns({name: partial(way, name) for name in ("a", "b")}, [3, 4], clock)
    assert done == [("a", 3), ("b", 3), ("a", 4), ("b", 4)]
    assert found.seconds == {"a": [1.0, 4.0], "b": [2.0, 8.0]}
    assert found.results == {"a": [30, 40], "b": [30, 40]}


def test_ratios_are_those_of_each_round() -> None:
    """In the second round the machine was four times slower."""
    found = turns.Turns({"a": [1.0, 4.0], "b": [2.0, 8.0]}, {})
    assert found.ratios("a", "b") == [0.5, 0.5]
    assert found.ratios("b", "a") == [2.0, 2.0]


def test_correct_points_are_named_by_index() -> None:
    classifier = turns.Classifier(lambda images: images.flatten(1), suite=None, data=None)
    images = torch.eye(4).view(4, 1, 2, 2)
    assert classifier.correct(images, torch.tensor([0, 3, 2, 3])).tolist() == [0, 2, 3]


def test_options_have_the_type_of_their_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py", "--points", "7", "--time-limit", "3", "--rows", "5"])
    own = {"time_limit": turns.Option(60.0, "seconds"), "rows": turns.Option(None, "images", int)}
    words = turns.parse("What it does.", suite="digits", points=120, **own)
    assert vars(words) == {"suite": "digits", "points": 7, "time_limit": 3.0, "rows": 5}
    monkeypatch.setattr(sys, "argv", ["x.py", "--points", "many"])
    with pytest.raises(SystemExit):
        turns.parse("What it does.", points=120)


def test_a_cell_without_a_value_is_a_dash() -> None:
    assert turns.table([("a", 1.25), ("b", None)], ("", "s"), ("", ".1f")).splitlines()[3].split("|")[2].strip() == "-"


def test_a_footer_says_where() -> None:
    text = turns.where(turns.noise(3, 8, 10), "batch 4")
    assert text.startswith("images 3x8x8, batch 4, cpu, ")
    assert f"threads: {torch.get_num_threads()}" in text and torch.__version__ in text


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_teaches(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole docstring, how to call it, and something about each option."""
    script = importlib.import_module(f"marginbench.benchmarks.speed.{name}")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    assert inspect.cleandoc(script.__doc__) in out
    assert f"usage: python -m marginbench.benchmarks.speed.{name} " in out
    options = [block.split(maxsplit=2) for block in out.split("\n  --")[1:]]  # name, metavar, help
    assert options and all(len(words) == 3 for words in options), options


def test_every_script_is_found() -> None:
    assert len(SCRIPTS) == 11 and "turns" not in SCRIPTS
