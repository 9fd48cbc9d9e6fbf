"""The script runs, and counts what it says."""

import sys
from collections.abc import Callable

import pytest

from marginbench.benchmarks.machine.memory import Chunks
from marginbench.benchmarks.speed import training as train_speed
from marginbench.benchmarks.speed import turns
from marginbench.benchmarks.speed.turns import noise
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.training.run import Run


def test_a_row_for_each_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = "train_speed --networks cnn,resnet20 --channels 1 --size 8 --batch 16 --steps 1 --turns 1 --device cpu"
    monkeypatch.setattr(sys, "argv", words.split())
    monkeypatch.setattr(train_speed, "PRODUCT", 64)
    train_speed.main()
    lines = capsys.readouterr().out.splitlines()
    for name, line in zip(("cnn", "resnet20"), lines[2:4], strict=True):
        cells = [cell.strip().replace(",", "") for cell in line.strip("|").split("|")]
        assert cells[0] == name and cells[1] == "16"
        training, share, plain, ratio, evaluation = (float(cell.rstrip("%")) for cell in cells[2:])
        assert ratio == pytest.approx(training / plain, rel=0.05, abs=0.006)
        assert evaluation > 0 and share > 0
    assert "images 1x8x8, batch 16, float32, cpu" in lines[-2]


def test_rates_are_images_by_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock on which a step of training takes 3 s, one of the plain loop 6, and an evaluation 1."""
    clock = 0.0

    def takes(seconds: float) -> Callable[..., None]:
        def work(*_: object) -> None:
            nonlocal clock
            clock += seconds

        return work

    suite = load_suite("digits")
    monkeypatch.setattr(Run, "step", takes(3.0))
    monkeypatch.setattr(Chunks, "rows", takes(1.0))
    monkeypatch.setattr(train_speed, "_plain", lambda *_: takes(6.0))
    monkeypatch.setattr(turns, "clock_of", lambda _: lambda: clock)
    data, batch = noise(1, 8, 1024), suite.training.batch_size
    found = train_speed.measure(suite, data, steps=2, rounds=3, workers=0)
    assert found == pytest.approx((batch / 3, batch / 6, 2 * batch, 2.0, 0.0))  # no operations were counted
