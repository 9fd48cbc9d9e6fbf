"""The script runs, and counts what it says."""

import sys

import pytest

from marginbench.benchmarks import train_speed


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
        assert evaluation > 0 and share > 0  # no more: other work on the machine may hit either
    assert "images 1x8x8, batch 16, float32, cpu" in lines[-2]
