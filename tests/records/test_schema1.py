"""A record of schema 1, as the program of that time wrote it, still loads; what it did not say stays blank."""

import shutil
from pathlib import Path

import pytest

from marginbench.benchmarks.records.reader import Reading, read_arrays, read_record, read_records
from marginbench.benchmarks.records.record import About, write_record
from marginbench.benchmarks.tables.claims import render_claims
from marginbench.benchmarks.tables.frame import leaderboard
from marginbench.benchmarks.tables.render import render
from marginbench.methods import MarginbenchError

FOLDER = Path(__file__).parent / "schema1"
(PATH,) = (FOLDER / "runs").glob("*.json")


def test_it_is_the_same_run() -> None:
    record = read_record(PATH)
    assert record.id == PATH.stem == record.identity.id
    assert record.schema_version == 4 and record.method == "arcface(s=16,m=0.1)" and record.epsilon["l2"] == 0.25
    assert len(read_arrays(PATH)["upper_l2"]) == 20
    assert record.environment.device == "cpu" and record.suite.settings["training"]["epochs"] == 3


def test_no_metric_is_lost() -> None:
    record = read_record(PATH)
    row = leaderboard([record]).iloc[0]
    measured = {name: value for name, value in record.metrics.items() if name not in ("points", "validation_accuracy")}
    assert measured["margin_upper_l2"] == float("inf")
    for name, value in measured.items():
        assert row[name] == value, name
    assert "rejection robust accuracy l2" in render([record], "md")


def test_what_it_did_not_say_stays_blank() -> None:
    record = read_record(PATH)
    assert record.about == About() and set(record.explanations.values()) == {"..."}
    assert "- unattacked: ..." in render([record], "md")
    assert "| arcface(s=16,m=0.1) | — | — | — | — |" in render_claims(Reading({PATH: record}, {}))


def test_written_again_it_is_of_the_newest_schema(tmp_path: Path) -> None:
    path = write_record(tmp_path / "runs", read_record(PATH), read_arrays(PATH))
    assert '"schema_version": 4' in path.read_text() and read_record(path).pack() == {
        **read_record(PATH).pack(),
        "arrays_sha256": read_record(path).arrays_sha256,
    }


@pytest.mark.parametrize("key", ["metrics", "doubts", "suite", "identity"])
def test_a_broken_one_is_named(tmp_path: Path, key: str) -> None:
    path = Path(shutil.copy(PATH, tmp_path))
    path.write_text(path.read_text().replace(f'\n "{key}": {{', f'\n "{key}": 3, "was": {{'))
    with pytest.raises(MarginbenchError, match=rf"{path.name}: key '{key}'"):
        read_record(path)
    assert len(read_records([FOLDER])) == 1
