"""Every function for notebooks takes records from the same sources, and says what it cannot take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import a_record

from marginbench.benchmarks import compare_rows, leaderboard, load, margins, plot, read_folders, tightness
from marginbench.benchmarks.records.reader import read_records
from marginbench.benchmarks.records.record import write_record
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError

RUNS = Path("results/local/toy/runs")
NORMS = ("l2", "linf")
ALONE: list[Callable[[Any], Any]] = [leaderboard, load]  # records alone will do
FRAMES: list[Callable[[Any], Any]] = [
    *ALONE,
    tightness,
    lambda source: margins(source, ["clean_accuracy"], information=False),
    lambda source: compare_rows("m1", "m0", source),
]


@pytest.fixture(autouse=True)
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three methods with two seeds in the default folder of the working directory."""
    monkeypatch.chdir(tmp_path)
    right = np.arange(20) > 1
    for method in range(3):
        for seed in range(2):
            upper = np.where(right, 1.0 + method + seed, 0.0).astype(np.float32)
            found = {f"{kind}_{norm}": upper for norm in NORMS for kind in ("upper", "lower")}
            found |= {f"upper_{norm}_fmn": upper for norm in NORMS}
            found |= {"label": 0 * right, "prediction": ~right + 0, "output_margin": upper}
            metrics = {
                "clean_accuracy": 0.9,
                "robust_accuracy_l2": 0.1 * method,
                "margin_upper_l2": float(upper.mean()),
            }
            write_record(RUNS, a_record(f"m{method}", seed, metrics=metrics), found)


def no_path(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns="path", errors="ignore")


@pytest.mark.parametrize("function", FRAMES)
def test_folders_frames_and_readings_are_one_source(function: Callable[[Any], pd.DataFrame], tmp_path: Path) -> None:
    wanted = function("results/local")
    assert len(wanted)
    for source in (Path("results"), [RUNS, tmp_path], load(), read_folders([RUNS.absolute()])):
        pd.testing.assert_frame_equal(no_path(function(source)), no_path(wanted))


@pytest.mark.parametrize("source", [RUNS, [RUNS], load, lambda: read_folders([RUNS])])
def test_figures_take_them_too(source: Any) -> None:
    assert plot("accuracy_curves", source() if callable(source) else source).to_dict()["layer"]


def test_the_default_is_that_of_the_command_line() -> None:
    assert len(leaderboard()) == 3 and len(load()) == 6
    assert len(margins(information=False)) and len(tightness()) and len(compare_rows("m1", "m0"))


def test_records_alone_have_no_points() -> None:
    records = read_records([RUNS])
    assert sorted(load(iter(records))["method"]) == sorted(load()["method"])
    columns = ["method", "n", "clean_accuracy", "robust_accuracy_l2"]
    pd.testing.assert_frame_equal(leaderboard(records)[columns], leaderboard()[columns])
    for function in (*FRAMES[len(ALONE) :], lambda source: plot("accuracy_curves", source)):
        with pytest.raises(ParameterError, match=r"source.*the arrays beside them are needed: pass their folder"):
            function(records)


@pytest.mark.parametrize("wrong", [pd.DataFrame({"suite": ["toy"]}), 3, ["toy", a_record("ce")], None])
@pytest.mark.parametrize("function", [*FRAMES, lambda source: plot("accuracy_curves", source)])
def test_what_is_no_source_is_refused(function: Callable[[Any], Any], wrong: Any) -> None:
    with pytest.raises(ParameterError, match=r"source=.*(should be folders, a frame of|has no column `path`)"):
        function(wrong)


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    with pytest.raises(MarginbenchError, match="nowhere: no such folder"):
        margins("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MarginbenchError, match="these records: no run that ended well"):
        plot("intervals", [])
    with pytest.raises(MarginbenchError, match="empty: no run that ended well"):
        plot("accuracy_curves", "empty")
    assert not len(load([]))
