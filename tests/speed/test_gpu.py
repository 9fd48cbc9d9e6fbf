"""The script runs every part without a GPU where it is asked to, and says so in one line where it is not."""

import sys

import pytest
import torch

from marginbench.benchmarks.speed import gpu


def call(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words.split()])
    gpu.main()


def test_every_part_runs_at_a_tiny_size(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.backends.cudnn.allow_tf32
    call(monkeypatch, "--device cpu --small")
    assert torch.backends.cudnn.allow_tf32 == before
    text = capsys.readouterr().out
    assert all(part.title in text for part in gpu.PARTS)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    rows = {tuple(row[:-1]): row[-1] for row in cells}
    for arithmetic in ("float32", "TF32", "bf16"):
        for layout in ("channels last", "contiguous"):
            assert float(rows[arithmetic, layout]) > 0
    (step,) = [row for row in cells if row[:2] == ["cnn", "as it comes"]]
    assert float(step[3].replace(",", "")) == pytest.approx(64e3 / float(step[2]), rel=0.02)
    assert float(rows["fmn",]) > 0 and float(rows["doubts",]) > 0
    assert [row[1] for row in cells if row[0] == "cnn"] == ["as it comes", "1", "2"], "a step, and groups of two sizes"
    alike = [row for row in cells if row[0] in ("ce", "pmm", "l_softmax")]
    assert len(alike) == gpu.TOGETHER and all(row[2] == row[3] and float(row[4]) == 0.0 for row in alike)
    whole, *parts = [float(row[1]) for row in cells[-len(cells) :] if len(row) == 2 and row[1][:1].isdigit()]
    assert sum(parts) == pytest.approx(whole, abs=0.02 * len(parts)), "the parts are all of it"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "")
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and err.count("\n") == 1
    assert "no GPU to measure" in err and "--small" in err
