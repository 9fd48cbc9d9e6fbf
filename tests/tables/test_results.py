"""The committed tables are what the committed records give, and the README shows those of the digits."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from marginbench.benchmarks.records.reader import read_records
from marginbench.benchmarks.runs.plan import choose_methods, make_plan
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.tables.files import contents

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path for path in (ROOT / "results" / "reference").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def refresh() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "results" / "refresh.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_tables_follow_from_records(folder: Path) -> None:
    for name, content in contents(read_records([folder])).items():
        assert (folder / name).read_text(encoding="utf-8") == content, f"{name}: run results/refresh.py"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_records_are_complete_and_free_of_contradictions(folder: Path) -> None:
    suite = load_suite(folder.name)
    records = read_records([folder])
    assert {record.identity.suite for record in records} == {suite.fingerprint}, "the suite has changed: run it again"
    methods = choose_methods(None, suite, ())
    wanted = {(method.info.key, method.info.revision) for method in methods}
    assert {(record.identity.method, record.identity.revision) for record in records} == wanted
    seeds = max(suite.seeds, *(record.repetition + 1 for record in records))  # the suite asks for fewer
    plan = make_plan(suite, methods, range(seeds), records[0].identity.data)
    needed = {cell.id for cell in plan if cell.repetition < suite.seeds}
    found = {record.id for record in records}
    assert needed <= found <= {cell.id for cell in plan}, "a method has other fields: run it again"
    assert len(records) == len(found)
    for record in records:
        assert record.status == "done" and "contradiction" not in record.doubts, record.method


def test_every_doubt_is_explained_beside_the_results() -> None:
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for record in read_records(FOLDERS):
        for doubt in record.doubts:
            assert f"`{record.method}`" in text and f"`{doubt}`" in text, f"{record.method}: {doubt}"


def test_every_claim_that_does_not_show_is_explained_beside_the_results() -> None:
    """Of the claims about images; feature margins and accuracies are what the table is for."""
    from marginbench.benchmarks.tables.claims import findings

    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for finding in findings(read_records([ROOT / "results" / "reference" / "digits"])):
        if finding.claim in ("input_margin", "certified_radius", "rejection") and finding.verdict != "yes":
            assert f"`{finding.method}`" in text, f"{finding.method}: {finding.claim} {finding.verdict}"


def test_the_readme_shows_the_tables(refresh: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert refresh.readme(text, contents(read_records([ROOT / "results/reference/digits"]))) == text, (
        "run results/refresh.py"
    )
