"""Records on disk: what is written comes back, what is broken is named, and tables go on without it."""

import itertools
import json
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made import a_failure, a_record
from support import Run

from marginbench.benchmarks import load
from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.reader import read_arrays, read_folders, read_record, read_records
from marginbench.benchmarks.records.record import About, Record, write_record
from marginbench.methods import MarginbenchError

ARRAYS = {"upper_l2": np.array([0.5, np.inf], dtype=np.float32)}


def full(method: str = "ce") -> Record:
    """A record with something in every part."""
    return a_record(
        method,
        metrics={"points": 10.0, "clean_accuracy": 0.5, "margin_upper_l2": math.inf, "probe_rate": 0.25},
        about=About("A title", "baselines", "Somebody: Something", ("accuracy", "input_margin"), 1),
        columns=[Column("probe_rate", "probe %", 100.0, 1, ascending=True, meaning="Share of what was probed.")],
        notes=["probe = what was probed."],
        estimators={"crown_l2": {"seconds": 0.5}, "milp_l2": {"not_applicable": "too large"}},
        doubts={"noise_wins": "1.4% of correct points"},
        explanations={"noise_wins": "Random directions come nearer."},
        losses=[2.0, 1.0],
        parts={"penalty": [None, 0.5]},
    )


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = write_record(tmp_path / "runs", full(), ARRAYS)
    record = read_record(path)
    assert record.arrays_sha256 is not None and record.pack() == {
        **full().pack(),
        "arrays_sha256": record.arrays_sha256,
    }
    assert record.about == full().about and record.columns == full().columns and record.identity == full().identity
    assert record.id == path.stem == record.identity.id
    assert np.array_equal(read_arrays(path)["upper_l2"], ARRAYS["upper_l2"])
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]


def test_nan_and_infinities_come_back_as_they_were_written(tmp_path: Path) -> None:
    metrics = {"margin_upper_l2": math.inf, "output_margin": -math.inf, "feature_margin": math.nan, "points": 2.0}
    path = write_record(tmp_path / "runs", a_record("ce", metrics=metrics), ARRAYS)
    found = read_record(path).metrics
    assert {name: str(value) for name, value in found.items()} == {name: str(value) for name, value in metrics.items()}


def test_null_of_an_older_record_is_infinite_where_it_can_be(tmp_path: Path) -> None:
    path = write_record(tmp_path / "runs", a_record("ce"), ARRAYS)
    metrics = {"margin_upper_l2": None, "output_margin": None, "clever_l2": None, "points": 2.0}
    older = {**json.loads(path.read_text()), "schema_version": 2, "metrics": metrics}
    del older["sha256"]
    path.write_text(json.dumps(older))
    record = read_record(path)
    assert record.metrics["margin_upper_l2"] == math.inf and record.schema_version == 4
    assert math.isnan(record.metrics["output_margin"]) and math.isnan(record.metrics["clever_l2"])


def test_a_failed_run_has_no_arrays(tmp_path: Path) -> None:
    path = write_record(tmp_path / "runs", a_failure("svm"), {})
    assert read_arrays(path) == {} and not path.with_suffix(".npz").exists()


def test_folders_may_overlap(tmp_path: Path) -> None:
    runs = tmp_path / "toy" / "runs"
    write_record(runs, full(), ARRAYS)
    write_record(runs, a_failure("svm"), {})
    assert len(read_records([tmp_path, tmp_path / "toy", runs])) == len(load(tmp_path)) == 2
    with pytest.raises(MarginbenchError, match="nowhere: no such folder"):
        read_records([tmp_path / "nowhere"])


def test_a_renamed_record_is_refused(tmp_path: Path) -> None:
    path = write_record(tmp_path / "runs", full(), ARRAYS)
    copy = path.rename(path.with_name("copy.json"))
    with pytest.raises(MarginbenchError, match=r"copy\.json: key 'id': should be the name of the file"):
        read_record(copy)


def test_a_file_may_be_named_by_a_string(tmp_path: Path) -> None:
    path = write_record(tmp_path / "runs", full(), ARRAYS)
    assert read_record(str(path)) == read_record(path) and read_arrays(str(path)).keys() == ARRAYS.keys()


@pytest.mark.parametrize("read", [read_record, read_arrays])
def test_a_file_that_is_not_there_is_not_called_broken(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(MarginbenchError) as caught:
        read(tmp_path / "none.json")
    assert str(caught.value) == f"record {tmp_path / 'none.json'}: No such file or directory"


FAILED, OLD, NEW = (
    a_failure("ce", finished="2026-01-03T00:00:00+00:00"),
    a_record("ce", clean=0.1, finished="2026-01-01T00:00:00+00:00"),
    a_record("ce", clean=0.2, finished="2026-01-02T00:00:00+00:00"),
)


@pytest.mark.parametrize("order", list(itertools.permutations([FAILED, OLD, NEW])))
def test_of_a_run_in_several_folders_the_newest_that_is_done_counts(tmp_path: Path, order: list[Record]) -> None:
    for folder, record in zip("abc", order, strict=True):
        write_record(tmp_path / folder / "runs", record, {})
    assert read_records([tmp_path]) == [NEW]


def change(*keys: str, to: object) -> Callable[[Path], None]:
    """Set a value deep in a record's JSON; ... takes the key away."""

    def spoil(path: Path) -> None:
        values = inner = json.loads(path.read_text())
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        if to is ...:
            del inner[keys[-1]]
        path.write_text(json.dumps(values))

    return spoil


def truncate(path: Path) -> None:
    path.write_text(path.read_text()[:200])


def cut_arrays(path: Path) -> None:
    arrays = path.with_suffix(".npz")
    arrays.write_bytes(arrays.read_bytes()[:100])


def lose_arrays(path: Path) -> None:
    path.with_suffix(".npz").unlink()


SPOILT = [
    (truncate, "not a complete JSON object"),
    (lambda path: path.write_text("[]"), "not a complete JSON object ([])"),
    (change("schema_version", to=99), "schema_version 99 is newer than 4"),
    (change("schema_version", to=...), "key 'schema_version': is missing"),
    (change("schema_version", to=True), "key 'schema_version': should be a whole number from 1 to 4, not True"),
    (change("schema_version", to=0), "key 'schema_version': should be a whole number from 1 to 4, not 0"),
    (change("id", to="f" * 64), "the digest of the identity, not 'ffff"),
    (change("identity", "fields", to={"m": 0.5}), "the digest of the identity, not '"),
    (change("identity", "fields", to={"m": float("nan")}), "key 'identity': has no digest"),
    (change("surprise", to=1), "key 'surprise': is not known"),
    (change("finished", to=...), "key 'finished': is missing"),
    (change("identity", "revision", to="2"), "key 'identity.revision': should be a whole number, not '2'"),
    (change("identity", "schema", to=9), "key 'identity.schema': should be a whole number from 1 to 2, not 9"),
    (change("identity", "more", to=9), "key 'identity.more': is not known"),
    (change("status", to="perhaps"), "key 'status': should be one of done, failed, not 'perhaps'"),
    (change("metrics", "points", to=True), "key 'metrics.points': should be a number, not True"),
    (change("metrics", "points", to="many"), "key 'metrics.points': should be a number, not 'many'"),
    (change("metrics", to=[]), "key 'metrics': should be an object, not []"),
    (change("losses", to={}), "key 'losses': should be a list, not {}"),
    (change("columns", to=[{"name": "x"}]), "key 'columns.header': is missing"),
    (change("about", "claims", to=["fame"]), "key 'about.claims': should be one of accuracy,"),
    (change("suite", "name", to=...), "key 'suite.name': should be a string, not None"),
    (change("suite", "evaluation", to={}), "key 'suite.epsilon': should be an object, not None"),
    (change("suite", "evaluation", "epsilon", to={"l2": 1}), "should have the keys l2, linf, not l2"),
    (change("metrics", "clean_accuracy", to=0.6), "key 'sha256': is not the digest of the others"),
    (change("losses", to=[2.0, 0.9]), "key 'sha256': is not"),
    (change("doubts", to={}), "key 'sha256': is not"),
    (change("sha256", to="0" * 64), "key 'sha256': is not"),
    (change("sha256", to=7), "key 'sha256': is not"),
    (change("metrics", "clean_accuracy", to=1.01), "key 'metrics.clean_accuracy': cannot be 1.01"),
    (change("metrics", "margin_upper_l2", to=-0.5), "key 'metrics.margin_upper_l2': cannot be -0.5"),
    (change("metrics", "points", to=-1), "key 'metrics.points': cannot be -1"),
    (lambda path: path.write_text("[" * 10**6), "not a complete JSON object"),
    (change("environment", to=3), "key 'environment': should be an object, not 3"),
    (change("environment", "versions", "torch", to=2), "should be a string or null, not 2"),
]
ARRAYS_SPOILT = [(cut_arrays, "is not the file that was written"), (lose_arrays, "No such file")]


@pytest.mark.parametrize(
    ("spoil", "words"), SPOILT, ids=[f"{number} {words}" for number, (_, words) in enumerate(SPOILT)]
)
def test_a_broken_record_is_skipped_and_named_and_strict_refuses_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], words: str
) -> None:
    path = write_record(tmp_path / "runs", full("ce"), ARRAYS)
    write_record(tmp_path / "runs", full("svm"), ARRAYS)
    spoil(path)
    with caplog.at_level(logging.WARNING):
        assert [record.method for record in read_records([tmp_path])] == ["svm"]
    (warning,) = caplog.messages
    assert "1 record that cannot be read" in warning and str(path) in warning and words in warning
    with pytest.raises(MarginbenchError) as caught:
        read_records([tmp_path], strict=True)
    assert words in str(caught.value) and str(path) in str(caught.value)
    assert ("upgrade" if "newer" in words else "delete it") in str(caught.value)


@pytest.mark.parametrize(("spoil", "words"), ARRAYS_SPOILT, ids=["cut", "lost"])
def test_arrays_are_checked_where_they_are_read_and_by_strict(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    path = write_record(tmp_path / "runs", full(), ARRAYS)
    spoil(path)
    assert len(read_records([tmp_path])) == 1, "tables read none"
    calls: list[Callable[[], object]] = [
        lambda: read_arrays(path),
        lambda: read_record(path),
        lambda: read_records([tmp_path], strict=True),
    ]
    for call in calls:
        with pytest.raises(MarginbenchError, match=words):
            call()
    assert words in read_folders([tmp_path], check_arrays=True).problems[path]


def test_older_records_have_no_hash_but_cannot_hold_just_anything(tmp_path: Path) -> None:
    path = write_record(tmp_path / "runs", full(), ARRAYS)
    change("sha256", to=...)(path)
    change("metrics", "clean_accuracy", to=0.75)(path)
    assert read_record(path).metrics["clean_accuracy"] == 0.75, "nothing protects it"
    change("metrics", "clean_accuracy", to=75.0)(path)
    with pytest.raises(MarginbenchError, match=r"metrics\.clean_accuracy': cannot be 75\.0: delete it"):
        read_record(path)


def test_layout_and_order_of_the_keys_are_no_content(tmp_path: Path) -> None:
    path = write_record(tmp_path / "runs", full(), ARRAYS)
    wanted = read_record(path)
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert read_record(path) == wanted


def test_strict_names_all_that_cannot_be_read(tmp_path: Path) -> None:
    paths = [write_record(tmp_path / "runs", full(method), ARRAYS) for method in ("ce", "svm", "mixup")]
    for path in paths[:2]:
        truncate(path)
    with pytest.raises(MarginbenchError, match="2 problems:") as caught:
        read_records([tmp_path], strict=True)
    assert [sum(str(path) in line for line in str(caught.value).splitlines()) for path in paths] == [1, 1, 0]


def test_one_warning_lists_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [write_record(tmp_path / "runs", full(method), ARRAYS) for method in ("ce", "svm", "mixup")]
    for path in paths[:2]:
        truncate(path)
    frame = load(tmp_path)
    (warning,) = caplog.messages
    assert list(frame["method"]) == ["mixup"]
    assert "skipped 2 records that cannot be read" in warning and all(str(path) in warning for path in paths[:2])
    with pytest.raises(MarginbenchError):
        load(tmp_path, strict=True)


@pytest.mark.parametrize("command", [("leaderboard",), ("claims",), ("compare", "svm", "mixup")])
def test_commands_go_on_without_a_broken_record(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    arrays = {
        "label": np.arange(8),
        "prediction": np.arange(8),
        **{f"{end}_{norm}": np.ones(8) for end in ("upper", "lower") for norm in ("l2", "linf")},
    }
    paths = [write_record(tmp_path / "runs", full(method), arrays) for method in ("ce", "svm", "mixup")]
    truncate(paths[0])
    code, text, _ = run(*command, tmp_path)
    assert code == 0 and "mixup" in text
    code, _, err = run(*command, tmp_path, "--strict")
    assert code == 2 and str(paths[0]) in err


def test_nesting_is_refused_where_a_library_lets_python_nest_until_it_crashes(tmp_path: Path) -> None:
    """auto-LiRPA allows a million calls within each other: the JSON parser, which is in C, overflows before that."""
    path = write_record(tmp_path / "runs", full("ce"), ARRAYS)
    path.write_text("[" * 10**6)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        with pytest.raises(MarginbenchError, match="not a complete JSON object"):
            read_record(path)
        assert sys.getrecursionlimit() == 10**6
    finally:
        sys.setrecursionlimit(before)
