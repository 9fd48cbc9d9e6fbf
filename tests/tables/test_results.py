"""The committed tables are what the committed records give, and the pages show them."""

import csv
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from marginbench.benchmarks.records.reader import read_folders, read_records
from marginbench.benchmarks.records.settings import read_setting, setting_paths
from marginbench.benchmarks.runs.choice import choose_methods
from marginbench.benchmarks.runs.plan import make_plan
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.tables.board import boards, where_rows_stand
from marginbench.benchmarks.tables.choice import Choice
from marginbench.benchmarks.tables.leaderboard import rank

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "results" / "reference").glob("*/runs"))  # not networks
SUFFIX = "_tuned"
TUNED = [folder for folder in FOLDERS if folder.name.endswith(SUFFIX)]

OLD_CSV = [  # when every table had all columns
    "suite",
    "suite_fingerprint",
    "method",
    "key",
    "n",
    "failed",
    "points",
    "clean_accuracy",
    "robust_accuracy_l2",
    "robust_accuracy_linf",
    "certified_accuracy_l2",
    "certified_accuracy_linf",
    "margin_lower_l2",
    "margin_upper_l2",
    "margin_lower_linf",
    "margin_upper_linf",
    "unattacked_l2",
    "unattacked_linf",
    "feature_margin",
    "output_margin",
    "rejection_rate",
    "rejection_accuracy",
    "rejection_robust_accuracy_l2",
    "rejection_robust_accuracy_linf",
    "smoothed_accuracy",
    "smoothed_certified_accuracy_l2",
    "smoothed_radius_l2",
    "smoothed_abstention",
    "clever_l2",
    "clever_linf",
    "cost",
    "doubts",
    "error",
]


@pytest.fixture(scope="module")
def refresh() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "results" / "refresh.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_committed_follows_from_the_records(refresh: ModuleType) -> None:
    """Tables, the pages of the suites, and what the READMEs show of them."""
    files = refresh.refreshed()
    for path, content in files.items():
        assert refresh.same(path, content), f"{path}: run results/refresh.py"
    assert len(files) == 6 * len(FOLDERS) + 2 * len(TUNED) + 4


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("ce,0.49537037037037041,a\n", True),
        ("ce,0.495370371,a\n", False),
        ("ce,0.49537037037037035,b\n", False),
        ("ce,,a\n", False),
        ("ce,0.49537037037037035,a\nmma,1,a\n", False),
    ],
)
def test_files_are_the_same_but_for_last_digits(other: str, same: bool, refresh: ModuleType, tmp_path: Path) -> None:
    for suffix in ("csv", "md"):
        path = tmp_path / f"table.{suffix}"
        path.write_text("ce,0.49537037037037035,a\n")
        assert refresh.same(path, other) == (same and suffix == "csv")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_csv_has_every_column_of_old_that_was_measured(folder: Path) -> None:
    header = (folder / "leaderboard.csv").read_text().split("\n", 1)[0].split(",")
    metrics = {name for record in read_records([folder]) for name in record.metrics}
    facts = {"suite", "suite_fingerprint", "method", "key", "n", "failed", "cost", "doubts", "error"}
    old = [name for name in header if name in OLD_CSV]
    assert old == [name for name in OLD_CSV if name in metrics | facts]


def test_ten_rows_are_chosen_by_their_rule(refresh: ModuleType) -> None:
    reading = read_folders([ROOT / "results" / "reference" / "digits"])
    records = list(reading.records.values())
    table = [line for line in refresh.ten_rows(reading).splitlines() if line.startswith("|")][2:]
    lines = [line.split("|")[1].strip().removesuffix(" (baseline)") for line in table]
    order = [row.facts["method"] for row in rank(records)]
    (board,) = boards(records, Choice(), where_rows_stand(reading))
    shown = [row.facts["method"] for row in board.rows]
    family = {record.method: record.about.family for record in records}
    best = {next(method for method in order if family[method] == name) for name in set(family.values())}
    assert len(lines) == 10 and lines == sorted(lines, key=shown.index)
    assert {"ce", *best} <= set(lines)
    others = [method for method in order if method not in {"ce", *best}]
    assert set(lines) - {"ce", *best} == set(others[: 10 - len({"ce", *best})])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_records_are_complete_and_free_of_contradictions(folder: Path) -> None:
    suite = load_suite(folder.name.removesuffix(SUFFIX))
    records = [record for record in read_records([folder]) if record.tuning is None]
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


@pytest.mark.parametrize("folder", TUNED, ids=lambda folder: folder.name)
def test_every_row_has_been_tuned_alike(folder: Path) -> None:
    records = read_records([folder])
    tuned = {record.method: record for record in records if record.tuning is not None}
    assert {record.tuning.row for record in tuned.values()} == {r.method for r in records if r.tuning is None}
    assert len({record.tuning.way for record in tuned.values()}) == 1
    for name, record in tuned.items():
        seeds = [one.repetition for one in records if one.method == name]
        assert sorted(seeds) == [0, 1, 2] and len(record.tuning.history) == record.tuning.trials, name
        assert record.status == "done" and "contradiction" not in record.doubts, name
    settings = [read_setting(path) for path in setting_paths(folder)]
    assert {setting.row: setting for setting in settings} == {one.tuning.row: one.tuning for one in tuned.values()}


def test_every_doubt_is_explained_beside_the_results() -> None:
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for record in read_records(FOLDERS):
        for doubt in record.doubts:
            assert f"`{record.method}`" in text and f"`{doubt}`" in text, f"{record.method}: {doubt}"


def test_every_claim_that_does_not_show_is_explained_beside_the_results() -> None:
    """Of the claims about images; feature margins and accuracies are what the table is for."""
    from marginbench.benchmarks.tables.claims import findings

    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for finding in findings(read_folders([ROOT / "results" / "reference" / "digits"])):
        if finding.claim in ("input_margin", "certified_radius", "rejection") and finding.verdict != "yes":
            assert f"`{finding.method}`" in text, f"{finding.method}: {finding.claim} {finding.verdict}"


def test_differences_of_margins_are_those_of_the_table() -> None:
    """`row` +1.23 ± 0.45, to the last digit that is said: in L2 with two digits, in L-infinity with three."""
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    one = r"([+-]\d\.\d+) ± (\d\.\d+)"
    checked = 0
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        said = re.findall(rf"`(\w+)`\s+\(?{one}(?: in L2)?(?:\s+and\s+{one})?", section)
        if not said:
            continue
        path = ROOT / "results" / "reference" / section.split()[0] / "leaderboard.csv"
        rows = {row["method"]: row for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())}
        for name, *numbers in said:
            for difference, half in filter(all, (numbers[:2], numbers[2:])):
                digits = len(difference.partition(".")[2])
                column = f"margin_upper_{'linf' if digits == 3 else 'l2'}_difference"
                low, high = (float(rows[name][f"{column}_{end}"]) for end in ("low", "high"))
                rounding = 0.501 * 10**-digits
                assert float(difference) == pytest.approx(float(rows[name][column]), abs=rounding), name
                assert float(half) == pytest.approx((high - low) / 2, abs=rounding), name
                checked += 1
    assert checked > 25
