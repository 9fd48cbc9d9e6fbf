"""`marginbench verify`: records are made again in fresh processes, and what was changed by hand is found."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from processes import MARGINBENCH, Start
from support import Run

from marginbench.benchmarks import run_all
from marginbench.benchmarks.contract.new_method import write_template
from marginbench.benchmarks.machine.device import threads_of
from marginbench.benchmarks.plugins import forget_plugins
from marginbench.benchmarks.records import provenance
from marginbench.benchmarks.records.reader import read_arrays, read_record, read_records
from marginbench.benchmarks.records.record import Record, write_record
from marginbench.benchmarks.runs.verify import Question, draw, verify
from marginbench.benchmarks.training.load import load_network
from marginbench.methods import MarginbenchError

METHODS = ["ce", "pgd_at", "ce_dropout"]  # attacks and random numbers in training too


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of two rows, from a checkout without changes."""
    path = tmp_path_factory.mktemp("made")
    (path / "tiny.toml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "_commit", lambda: "c0ffee")
        run_all(path / "tiny.toml", ["ce", "svm"], 3, "cpu", path / "out", progress=False)
    return path / "out"


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in the same checkout."""
    monkeypatch.setattr(provenance, "_commit", lambda: "c0ffee")
    return Path(shutil.copytree(made, tmp_path / "out"))


def content(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def a_path(folder: Path, method: str = "ce", repetition: int = 0) -> Path:
    found = {path: read_record(path) for path in folder.rglob("runs/*.json")}
    return next(path for path, one in found.items() if (one.method, one.repetition) == (method, repetition))


def rewrite(path: Path, record: Record, arrays: dict[str, np.ndarray]) -> None:
    """As somebody who knows how records are protected: hashes and names fit."""
    path.unlink()
    path.with_suffix(".npz").unlink()
    record = record if arrays else replace(record, arrays_sha256=None)
    write_record(path.parent, replace(record, id=record.identity.id), arrays)


def test_fresh_processes_give_the_same_bits(tiny: Path, tmp_path: Path, start: Start) -> None:
    """Training and evaluation, all arrays and losses; with the threads of the record, whatever the process has."""
    out = tmp_path / "out"
    words = ("run-all", "--suite", tiny, "--methods", ",".join(METHODS), "--jobs", "1", "--out", out)
    first = start(MARGINBENCH, *words)
    assert first.wait() == 0, first.err
    before = content(out)
    second = start(MARGINBENCH, "verify", out, "--sample", "3", "--jobs", "1")
    assert second.wait() == 0, second.err
    lines = [line.split("|")[1:3] for line in second.out.splitlines() if " of tiny" in line]
    assert {row.split()[0]: said.strip() for row, said in lines} == dict.fromkeys(METHODS, "same bits")
    assert content(out) == before, "it writes nothing there"


def test_workers_agree_too(folder: Path, run: Run) -> None:
    """Workers are forks of another process, which sees the commit as it is."""
    code, text, err = run("verify", folder, "--sample", "2", "--jobs", "2")
    assert code == 0 and text.count("| same bits |") == 2 and "Sample: 2 of 6 runs." in text, text
    assert "[2/2]" in err


def test_the_threads_are_those_of_the_record(folder: Path) -> None:
    threads = read_record(a_path(folder)).environment.threads
    with threads_of(threads + 1):
        found = verify(Question([folder], ["ce"], sample=1, jobs=1))
        assert torch.get_num_threads() == threads + 1
    assert found.unlike == [] and [verdict.answer for _, verdict in found.verdicts] == ["same bits"]


def test_a_sample_is_drawn_by_hashing(folder: Path) -> None:
    records = read_records([folder])

    def drawn(**more: Any) -> list[str]:
        return [record.id for record in draw(records, Question([folder], **more))]

    assert len(drawn()) == 5 and drawn(sample=2) == drawn()[:2]
    assert len({*drawn(sample=1), *drawn(sample=1, seed=1), *drawn(sample=1, seed=2), *drawn(sample=1, seed=3)}) > 1
    assert len(drawn(methods=["svm"])) == 3 and len(drawn(methods=["svm"], sample=2)) == 2
    fewer = [record for record in records if record.id != drawn()[0]]
    assert [record.id for record in draw(fewer, Question([folder], sample=4))] == drawn()[1:5], "others stay drawn"


# What somebody may have changed, and what is said of it. `ce` seed 0 is changed, the environment is the same.


def arrays_alone(path: Path) -> None:
    """The file, and the hash in the record."""
    record, arrays = read_record(path), read_arrays(path)
    arrays["upper_l2"] = arrays["upper_l2"] * 2
    rewrite(path, record, arrays)


def arrays_and_metrics(path: Path) -> None:
    """One number of one point, and the mean that follows from it."""
    record, arrays = read_record(path), read_arrays(path)
    arrays["upper_l2"][np.argmax(arrays["upper_l2"])] += np.float32(1e-3)
    mean = float(arrays["upper_l2"].mean())
    rewrite(path, replace(record, metrics={**record.metrics, "margin_upper_l2": mean}), arrays)


def metric(path: Path) -> None:
    """Sealed anew."""
    record, arrays = read_record(path), read_arrays(path)
    higher = record.metrics["robust_accuracy_l2"] + 0.1
    rewrite(path, replace(record, metrics={**record.metrics, "robust_accuracy_l2": higher}), arrays)


def revision(path: Path) -> None:
    """As after a change of the method."""
    record, arrays = read_record(path), read_arrays(path)
    newer = replace(record.identity, revision=record.identity.revision + 1)
    rewrite(path, replace(record, identity=newer), arrays)


def suite(path: Path) -> None:
    record, arrays = read_record(path), read_arrays(path)
    rewrite(path, replace(record, identity=replace(record.identity, suite="0" * 64)), arrays)


def data(path: Path) -> None:
    record, arrays = read_record(path), read_arrays(path)
    rewrite(path, replace(record, identity=replace(record.identity, data="0" * 64)), arrays)


def certificate(path: Path) -> None:
    """As if another one had been asked."""
    record, arrays = read_record(path), read_arrays(path)
    rewrite(path, record, {**arrays, "lower_l2_other": arrays["lower_l2_crown"]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (arrays_alone, "in the record, but"),
        (arrays_and_metrics, "arrays differ, although the environments do not"),
        (metric, "robust_accuracy_l2 is"),
        (revision, "would be another run here: revision"),
        (suite, "would be another run here: suite 000000000000 -> "),
        (data, "would be another run here: training "),
        (certificate, "not the same arrays: lower_l2_other in the record alone"),
    ],
)
def test_what_was_changed_by_hand_does_not_agree(
    folder: Path, run: Run, change: Callable[[Path], None], words: str
) -> None:
    for path in folder.rglob("runs/*.json"):
        if path != a_path(folder):
            path.unlink()
    change(a_path(folder))
    code, text, _ = run("verify", folder, "--jobs", "1")
    (line,) = [line for line in text.splitlines() if line.startswith("| ce seed 0")]
    assert code == 1 and line.split("|")[2].strip() == "no" and words in line


def test_a_file_that_cannot_be_read_does_not_agree(folder: Path, run: Run) -> None:
    path = a_path(folder)
    path.with_suffix(".npz").write_bytes(b"cut")
    code, text, _ = run("verify", folder, "--sample", "1", "--jobs", "1")
    assert code == 1 and "Sample: 1 of 5 runs." in text and f"{path.stem}.npz is not the file that was written" in text


def elsewhere(path: Path, by: float) -> None:
    """A record that another processor has left, with margins that differ by so much."""
    record, arrays = read_record(path), read_arrays(path)
    arrays["upper_l2"] = np.maximum(arrays["upper_l2"] + np.float32(by) * (arrays["upper_l2"] > 0), 0).astype(
        np.float32
    )
    environment = replace(record.environment, processor="Another")
    mean = float(arrays["upper_l2"].mean())
    metrics = {**record.metrics, "margin_upper_l2": mean}
    robust = arrays["upper_l2"] > record.epsilon["l2"]
    metrics["robust_accuracy_l2"] = float((robust & (arrays["prediction"] == arrays["label"])).mean())
    rewrite(path, replace(record, environment=environment, metrics=metrics), arrays)


def test_elsewhere_a_seeds_spread_is_enough_and_more_is_not(folder: Path, run: Run) -> None:
    elsewhere(a_path(folder, "svm"), 1e-6)
    elsewhere(a_path(folder), 5.0)
    code, text, _ = run("verify", folder, "--sample", "6", "--jobs", "1")
    said = {line.split("|")[1].strip(): line for line in text.splitlines() if " of tiny" in line}
    assert code == 1 and text.count("| same bits ") == 4 and "- processor: Another -> " in text
    assert "| a seed's spread " in said["svm seed 0 of tiny"]
    assert "| no " in said["ce seed 0 of tiny"] and "allowed" in said["ce seed 0 of tiny"]


def test_a_method_that_is_gone_is_named(folder: Path) -> None:
    path = a_path(folder)
    record, arrays = read_record(path), read_arrays(path)
    rewrite(path, replace(record, method="gone", identity=replace(record.identity, method="gone")), arrays)
    for other in folder.rglob("runs/*.json"):
        if read_record(other).method != "gone":
            other.unlink()
    ((name, verdict),) = verify(Question([folder], jobs=1)).verdicts
    assert (name, verdict.answer) == ("gone seed 0 of tiny", "no") and "unknown method 'gone'" in verdict.why


def test_a_row_of_a_plugin_that_is_not_given_names_the_option(tiny: Path, tmp_path: Path, run: Run) -> None:
    path = write_template("unseen", tmp_path)
    run_all(str(tiny), [path], 1, "cpu", tmp_path / "out", progress=False)
    forget_plugins()
    words = "unseen is of a plug-in that is not loaded: give its file with --plugin FILE.py"
    for more in ((), ("--methods", "unseen")):
        code, text, _ = run("verify", tmp_path / "out", "--jobs", "1", *more)
        assert code == 1 and words in text
    with pytest.raises(MarginbenchError, match="give its file with --plugin"):
        load_network(next((tmp_path / "out").rglob("*.safetensors")))
    code, text, _ = run("verify", tmp_path / "out", "--jobs", "1", "--plugin", path)
    assert code == 0 and "| same bits " in text


def test_what_is_left_out_is_said(folder: Path, run: Run) -> None:
    path = a_path(folder)
    rewrite(path, replace(read_record(path), status="failed", error="no luck", metrics={}), {})
    code, text, _ = run("verify", folder, "--sample", "1", "--jobs", "1")
    assert code == 0 and "Sample: 1 of 5 runs.\nLeft out, as failed or marked in tables as old: 1 record." in text


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--methods", "mma"), "--methods mma: no such row in the records"),
        (("--sample", "0"), "--sample 0: must be at least 1"),
        (("--jobs", "0"), "--jobs 0: must be at least 1"),
    ],
)
def test_wrong_questions_are_refused(folder: Path, run: Run, words: tuple[str, str], problem: str) -> None:
    code, _, err = run("verify", folder, *words)
    assert code == 2 and problem in err


def test_a_folder_without_runs_is_refused(tmp_path: Path, run: Run) -> None:
    code, _, err = run("verify", tmp_path)
    assert code == 2 and "no records of runs that can be done again" in err


def test_the_hash_that_is_rewritten_is_the_one_that_is_checked(folder: Path) -> None:
    """The tests above change what no hash protects, or the hash too."""
    path = a_path(folder)
    arrays_alone(path)
    assert read_record(path).arrays_sha256 == hashlib.sha256(path.with_suffix(".npz").read_bytes()).hexdigest()
