"""What was interrupted or damaged: finished runs are kept, and the others are named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import MARGINBENCH, Start, wait_for
from support import Run


def _truncate(path: Path) -> None:
    path.write_text(path.read_text()[:200])


def _newer(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))


def _unknown_key(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "surprise": 1}))


def _cut_arrays(path: Path) -> None:
    arrays = path.with_suffix(".npz")
    arrays.write_bytes(arrays.read_bytes()[:100])


def _lose_arrays(path: Path) -> None:
    path.with_suffix(".npz").unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_truncate, "not a complete JSON object"),
        (_newer, "schema_version 99 is newer"),
        (_unknown_key, "key 'surprise'"),
        (_cut_arrays, "is not the file that was written"),
        (_lose_arrays, "No such file"),
    ],
)
def test_a_broken_record_is_named_and_repeated_only_on_demand(
    run: Run, tiny: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    out = tmp_path / "out"
    run("run-all", "--suite", tiny, "--out", out, "--jobs", "1")
    records = sorted((out / "tiny" / "runs").glob("*.json"))
    spoil(records[0])
    before = {path: path.read_bytes() for path in (out / "tiny" / "runs").iterdir()}
    code, text, err = run("run-all", "--suite", tiny, "--out", out, "--jobs", "1")
    assert code == 0 and "0 runs done, 2 had a record already" in text
    assert "warning: skipped 1 record" in err and str(records[0]) in err and words in err
    assert before == {path: path.read_bytes() for path in (out / "tiny" / "runs").iterdir()}
    code, text, _ = run("status", out)
    assert code == 0 and "failed: " in text and words in text
    code, text, _ = run("run-all", "--suite", tiny, "--out", out, "--jobs", "1", "--retry")
    assert code == 0 and "1 run done, 1 had a record already" in text
    assert run("leaderboard", out, "--strict")[0] == 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_process_loses_at_most_the_runs_in_progress(
    tiny: Path, tmp_path: Path, run: Run, start: Start, jobs: int
) -> None:
    out = tmp_path / "out"
    words = ("run-all", "--suite", tiny, "--out", out)
    process = start(MARGINBENCH, *words, "--jobs", str(jobs), "--seeds", "30")
    runs = out / "tiny" / "runs"
    wait_for(lambda: len(list(runs.glob("*.json"))) >= 2, process)
    process.kill()
    kept = {path: path.read_bytes() for path in runs.glob("*.json")}
    wait_for(lambda: not process.group() or len(list(runs.glob("*.json"))) > len(kept) + jobs)
    assert not process.group(), "a worker went on without its parent"
    kept = {path: path.read_bytes() for path in runs.glob("*.json")}
    exit_code, text, _ = run(*words, "--jobs", "1", "--seeds", "2")
    resumed = sum(json.loads(content)["repetition"] < 2 for content in kept.values())
    assert exit_code == 0 and f"{4 - resumed} run{'s' * (resumed != 3)} done, {resumed} had a record already" in text
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_ctrl_c_says_how_to_go_on(run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("marginbench.benchmarks.runs.train.train", interrupt)
    code, _, err = run("run-all", "--suite", tiny, "--out", tmp_path / "out", "--jobs", "1")
    assert code == 130 and "finished runs are kept" in err
