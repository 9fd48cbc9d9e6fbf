"""How long runs will take is foretold from a few steps, in several stages of a training, and from growing points."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from marginbench.benchmarks.runs import timing
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.training.run import Run
from marginbench.methods import create


@pytest.mark.parametrize(("batch_size", "steps"), [(100_000, 1), (600, 2), (400, 3), (128, 9)])
def test_trainings_of_any_length_are_foretold(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, steps: int
) -> None:
    """On a clock on which the first step takes a minute, where there are others, and every other one a second."""
    text = tiny.read_text().replace("epochs = 2", "epochs = 1")
    tiny.write_text(text.replace("batch_size = 128", f"batch_size = {batch_size}"))
    suite = load_suite(str(tiny))
    data = suite.load_data()
    clock = 0.0

    def step(run: Run) -> None:
        nonlocal clock
        clock += 60.0 if steps > 1 and run.ctx.step == 0 else 1.0
        run.ctx.step += 1

    assert Run(create("ce"), suite, data, 0).ctx.steps == steps
    monkeypatch.setattr(Run, "step", step)
    monkeypatch.setattr(timing, "seconds_on", lambda _: clock)
    assert timing.training_seconds(create("ce"), suite, data) == steps


def test_stages_of_a_training_count_alike(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes as many seconds as the training has progressed: half a second on average."""
    tiny.write_text(tiny.read_text().replace("epochs = 2", "epochs = 40"))
    suite = load_suite(str(tiny))
    data = suite.load_data()
    clock = 0.0

    def step(run: Run) -> None:
        nonlocal clock
        clock += run.ctx.progress
        run.ctx.step += 1

    steps = Run(create("ce"), suite, data, 0).ctx.steps
    monkeypatch.setattr(Run, "step", step)
    monkeypatch.setattr(timing, "seconds_on", lambda _: clock)
    assert timing.training_seconds(create("ce"), suite, data) == pytest.approx(0.5 * steps, rel=0.05)


@pytest.mark.parametrize(("patience", "asked"), [(1e9, [16, 16, 64, 256, 300]), (0.0, [16, 16, 64])])
def test_evaluations_are_timed_on_growing_numbers_of_points(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, patience: float, asked: list[int]
) -> None:
    """On a clock on which an evaluation takes 2 s, and 0.1 s more for every point."""
    tiny.write_text(tiny.read_text().replace("points = 30", "points = 300"))
    suite = load_suite(str(tiny))
    seen: list[int] = []

    def evaluate(_: Any, __: Any, ___: Any, settings: Any, *names: str) -> None:
        seen.append(settings.points)

    monkeypatch.setattr(timing, "evaluate", evaluate)
    monkeypatch.setattr(timing, "train", lambda *_: SimpleNamespace(net=None))
    monkeypatch.setattr(timing, "PATIENCE", patience)
    monkeypatch.setattr(timing, "seconds_on", lambda _: sum(2 + 0.1 * points for points in seen))
    assert timing.evaluation_seconds(suite, suite.load_data()) == pytest.approx(32)
    assert seen == asked


def test_a_forecast_is_no_shorter_than_what_was_timed() -> None:
    assert timing.extrapolate([(16, 5.0), (64, 4.0)], 300) == 4.0
    assert timing.extrapolate([(16, 5.0)], 300) == 5.0
