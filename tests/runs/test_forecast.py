"""What a plan will take: the seconds of a few steps, times the steps that there are."""

from pathlib import Path

import pytest

from marginbench.benchmarks.runs import forecast
from marginbench.benchmarks.runs.run_all import prepare
from marginbench.benchmarks.training.loop import Run
from marginbench.methods import create


@pytest.mark.parametrize(("batch_size", "steps"), [(100_000, 1), (600, 2), (400, 3), (128, 9)])
def test_trainings_of_any_length_are_foretold(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, steps: int
) -> None:
    """On a clock on which the first step takes a minute, where there are others, and every other one a second."""
    text = tiny.read_text().replace("epochs = 2", "epochs = 1")
    tiny.write_text(text.replace("batch_size = 128", f"batch_size = {batch_size}"))
    work = prepare(str(tiny), ["ce"], 1, "cpu", tmp_path)
    clock = 0.0

    def step(run: Run) -> None:
        nonlocal clock
        clock += 60.0 if steps > 1 and run.ctx.step == 0 else 1.0
        run.ctx.step += 1

    monkeypatch.setattr(Run, "step", step)
    monkeypatch.setattr(forecast, "seconds_on", lambda _: clock)
    assert Run(create("ce"), work.suite, work.data, 0).ctx.steps == steps
    assert forecast._time_steps(create("ce"), work) == steps
