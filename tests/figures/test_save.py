"""Figures as files, and the command."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import Run

from marginbench.benchmarks.figures.draw import plot
from marginbench.benchmarks.figures.save import FORMS, save
from marginbench.benchmarks.figures.scan import FIGURES
from marginbench.methods.errors import ParameterError

STARTS = {".svg": b"<svg", ".pdf": b"%PDF", ".png": b"\x89PNG", ".html": b"<!DOCTYPE html>", ".json": b"{"}


@pytest.mark.parametrize("form", FORMS)
def test_every_format(form: str, board: Path, tmp_path: Path) -> None:
    path = tmp_path / f"figure{form}"
    save(plot("intervals", board), path)
    assert path.read_bytes().lstrip().startswith(STARTS[form])


def test_a_figure_is_as_wide_as_a_column(board: Path, tmp_path: Path) -> None:
    chart = plot("intervals", board, width=84)
    for name in ("a.svg", "a.pdf", "a.png"):
        save(chart, tmp_path / name)
    width = re.search(rb'width="([\d.]+)"', (tmp_path / "a.svg").read_bytes())
    assert width and float(width[1]) / 96 * 25.4 == pytest.approx(84, abs=0.3)
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+)", (tmp_path / "a.pdf").read_bytes())
    assert box and float(box[1]) / 72 * 25.4 == pytest.approx(84, abs=0.3)
    assert int.from_bytes((tmp_path / "a.png").read_bytes()[16:20]) / 300 * 25.4 == pytest.approx(84, abs=0.3)


def test_letters_of_a_column_are_those_of_a_caption(board: Path) -> None:
    """At the width of a column a pixel of CSS is 0.75 points."""
    from marginbench.benchmarks.figures.save import svg

    sizes = [float(size) * 0.75 for size in re.findall(r'font-size="([\d.]+)px"', svg(plot("cost", board)))]
    assert min(sizes) >= 7.5


def test_a_page_of_its_own_needs_no_network(board: Path, tmp_path: Path) -> None:
    save(plot("intervals", board), tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert "vegaEmbed" in text and not re.search(r"<(script|link)[^>]*(src|href)=", text)


def test_another_ending_is_refused(board: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"\.svg, \.pdf, \.png, \.html, \.json"):
        save(plot("intervals", board), tmp_path / "a.jpg")


def test_the_command_writes_a_figure(run: Run, board: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    words = ["--picked", "mma,arcface(m=0.3)", "--norm", "l2", "--dark", "--width", "100", "-o", out]
    assert run("plot", "accuracy_curves", board, *words)[0] == 0
    spec = json.loads(out.read_text())
    assert spec["params"] == [{"name": "picked", "value": ["mma", "arcface(m=0.3)"]}]
    assert spec["width"] == pytest.approx(100 / 25.4 * 96, abs=0.1)
    assert run("plot", "cost", board, "--option", "unit=passes", "-o", out)[0] == 0


def test_the_command_lists_figures(run: Run) -> None:
    code, out, _ = run("plot", "--list")
    assert code == 0
    assert all(name in out and figure.about in out for name, figure in FIGURES.items())


def test_a_list_of_figures_waits_for_no_library() -> None:
    code = "from marginbench.benchmarks.cli import main\ntry:\n    main()\nexcept SystemExit:\n    print(*sys.modules)"
    command = [sys.executable, "-c", f"import sys\nsys.argv[1:] = ['plot', '--list']\n{code}"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    assert "marginbench.benchmarks.figures.scan" in loaded
    assert not {"torch", "altair", "pandas", "scipy", "sklearn"} & set(loaded)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["cost"], "name a file with -o"),
        ([], "name a figure"),
        (["cost", "BOARD", "-o", "a.jpg"], "should end in"),
        (["cost", "BOARD", "--norm", "l2", "-o", "a.svg"], "--norm l2: cost has no such option"),
        (["cost", "BOARD", "--option", "unit", "-o", "a.svg"], "should be KEY=VALUE"),
        (["costs", "BOARD", "-o", "a.svg"], "unknown figure 'costs': did you mean 'cost'"),
    ],
)
def test_the_command_says_what_is_wrong(run: Run, board: Path, words: list[str], problem: str) -> None:
    code, _, error = run("plot", *[board if word == "BOARD" else word for word in words])
    assert code == 2
    assert problem in error and error.count("\n") == 1
