"""`marginbench compare`: one account of a difference in all tables, the images it counts, and what it refuses."""

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import EPSILON, a_failure, a_record, a_suite
from support import Run

from marginbench.benchmarks.records.metrics import per_point, summarise
from marginbench.benchmarks.records.reader import read_arrays, read_folders
from marginbench.benchmarks.records.record import write_record
from marginbench.benchmarks.statistics.paired import holm, sign_test
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.claims import findings
from marginbench.benchmarks.tables.compare import compare_rows
from marginbench.benchmarks.tables.pairs import column_pairs, suite_runs
from marginbench.benchmarks.tables.standing import standings
from marginbench.methods import MarginbenchError

POINTS = 120


def test_the_sign_test_is_exact() -> None:
    assert sign_test(8, 1) == 2 * (1 + 9) / 2**9  # counted by hand
    assert sign_test(0, 0) == 1.0
    for first, second in ((3, 9), (12, 12), (700, 612)):
        tail = sum(math.comb(first + second, i) for i in range(min(first, second) + 1))
        assert sign_test(first, second) == pytest.approx(min(1.0, 2 * tail / 2 ** (first + second)), rel=1e-9)
        assert sign_test(first, second) == sign_test(second, first)


def test_holm_on_numbers_computed_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == [] and holm([0.04]) == [0.04]
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)


def arrays_of(stream: np.random.Generator, better: float, certified: bool = True) -> dict[str, np.ndarray]:
    """Per-point arrays as an evaluation writes them."""
    label = np.arange(POINTS) % 10
    right = stream.random(POINTS) < 0.95
    upper = np.where(right, stream.gamma(4, 0.1, POINTS) + better, 0).astype(np.float32)
    arrays = {
        "label": label,
        "prediction": np.where(right, label, (label + 1) % 10),
        "output_margin": upper,
        "upper_l2": upper,
        "lower_l2": upper / 2,
        "upper_linf": upper / 5,
        "lower_linf": upper / 10,
    }
    return arrays | ({"lower_l2_crown": upper / 2, "lower_linf_crown": upper / 10} if certified else {})


def write(
    folder: Path, method: str, repetition: int, arrays: dict[str, np.ndarray], status: str = "done", **identity: str
) -> None:
    suite = a_suite(f"toy{identity.get('suite', 'f')[0]}", "a toy")
    make = a_record if status == "done" else a_failure
    day = 2 if "source" in identity else 1
    record = make(method, repetition, identity=identity, suite=suite, finished=f"2026-01-{day:02}T00:00:00+00:00")
    if status == "done":
        record = replace(record, metrics=summarise(arrays, EPSILON))
    write_record(folder / "toy" / "runs", record, arrays if status == "done" else {})


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Rows `good` and `ce` of five repetitions, `twin` like `ce`, `bare` without certificates, `lost` with infinity."""
    stream = np.random.default_rng(6)
    for repetition in range(5):
        write(tmp_path, "ce", repetition, arrays_of(stream, 0.0))
        write(tmp_path, "good", repetition, arrays_of(stream, 0.3))
        write(tmp_path, "twin", repetition, arrays_of(stream, 0.0))
    write(tmp_path, "arcface(m=0.1)", 0, arrays_of(stream, 0.3))
    write(tmp_path, "bare", 0, arrays_of(stream, 0.0, certified=False))
    lost = arrays_of(stream, 0.0)
    lost["upper_l2"][:2] = np.inf
    write(tmp_path, "lost", 0, lost)
    write(tmp_path, "late", 7, arrays_of(stream, 0.0))
    write(tmp_path, "dead", 0, {}, status="failed")
    write(tmp_path, "elsewhere", 0, arrays_of(stream, 0.0), suite="e" * 64)
    write(tmp_path, "redrawn", 0, arrays_of(stream, 0.0), data="c" * 64)
    other = arrays_of(stream, 0.0)
    write(tmp_path, "relabelled", 0, {**other, "label": other["label"][::-1].copy()})
    write(tmp_path, "resampled", 0, {**other, "index": np.arange(POINTS)})
    return tmp_path


def test_what_differs_and_what_does_not(run: Run, toy: Path) -> None:
    code, text, _ = run("compare", "good", "ce", toy)
    assert code == 0
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 9 and len({line.count("|") for line in lines}) == 1
    verdicts = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in lines[2:]}
    assert verdicts["clean %"] == "not shown" and verdicts["robust % L2 0.5"] == "differs"
    assert verdicts["margin L2, upper"] == verdicts["margin L∞, lower"] == "differs"
    assert "Holm's correction over the 9 columns" in text and "of one seed (0, 1, 2, 3, 4)" in text
    assert "exact sign test" in text and "repetition" not in text
    code, text, _ = run("compare", "twin", "ce", toy, "--format", "csv")
    table = pd.read_csv(io.StringIO(text))
    assert code == 0 and set(table["verdict"]) == {"not shown"}
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p"].tolist()))
    assert all(len(str(cell).split()) == 5 for name in ("p_images", "above", "below") for cell in table[name])


def test_means_are_those_of_the_leaderboard(toy: Path) -> None:
    arrays = arrays_of(np.random.default_rng(8), 0.1)
    metrics = summarise(arrays, EPSILON)
    points = per_point(arrays, EPSILON)
    for name, values in points.items():
        assert values.mean() == pytest.approx(metrics[name], rel=1e-6)
    table = compare_rows("good", "ce", toy)
    assert set(points) == set(table["column"])
    assert (table["difference"] - (table["mean_a"] - table["mean_b"])).abs().max() < 1e-12
    back = compare_rows("ce", "good", toy)
    assert back["difference"].tolist() == pytest.approx((-table["difference"]).tolist())
    assert back["p"].tolist() == table["p"].tolist() and back["above"].tolist() == table["below"].tolist()
    assert back["low"].tolist() == pytest.approx((-table["high"]).tolist())


def test_images_are_counted_pair_by_pair(toy: Path) -> None:
    line = compare_rows("good", "ce", toy).set_index("column").loc["robust_accuracy_l2"]
    reading = read_folders([toy])
    robust = {
        (record.method, record.repetition): read_arrays(path)["upper_l2"] > 0.5
        for path, record in reading.records.items()
        if record.method in ("good", "ce") and record.identity.data == "d" * 64
    }
    pairs = [(robust["good", seed], robust["ce", seed]) for seed in range(5)]
    assert line["above"] == " ".join(str((a & ~b).sum()) for a, b in pairs)
    assert line["below"] == " ".join(str((b & ~a).sum()) for a, b in pairs)
    first = sign_test(int((pairs[0][0] & ~pairs[0][1]).sum()), int((pairs[0][1] & ~pairs[0][0]).sum()))
    assert float(line["p_images"].split()[0]) == pytest.approx(first, rel=1e-5)


def test_below_three_seeds_images_are_all_that_is_said(run: Run, toy: Path) -> None:
    table = compare_rows("arcface(m=0.1)", "ce", toy)
    assert set(table["verdict"]) == {"too few seeds"} and set(table["seeds"]) == {"0"}
    assert table[["low", "high", "p", "p_holm"]].isna().all(axis=None) and table["difference"].notna().all()
    assert float(table.set_index("column").loc["margin_upper_l2", "p_images"]) < 0.001
    code, text, _ = run("compare", "arcface(m=0.1)", "ce", toy)
    assert code == 0 and "below 3 networks of a row nothing is said" in text and "about these networks alone" in text


def test_rows_without_a_seed_in_common_have_no_pairs_of_networks(run: Run, toy: Path) -> None:
    code, text, _ = run("compare", "late", "ce", toy)
    assert code == 0 and "images: none are counted" in text and "sign test" not in text


def test_rows_of_two_folders_are_compared_as_those_of_one(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    wanted = compare_rows("good", "ce", toy)
    other = tmp_path_factory.mktemp("other")
    for path, record in read_folders([toy]).records.items():
        if record.method == "good":
            (other / "runs").mkdir(exist_ok=True)
            for file in (path, path.with_suffix(".npz")):
                file.rename(other / "runs" / file.name)
    pd.testing.assert_frame_equal(compare_rows("good", "ce", [toy, other]), wanted)


def test_missing_and_infinite_columns_say_so(run: Run, toy: Path) -> None:
    code, text, _ = run("compare", "bare", "ce", toy)
    assert code == 0 and text.count("| not measured") == 4 and "the pair of networks of one seed (0)" in text
    code, text, _ = run("compare", "lost", "ce", toy)
    assert code == 0 and text.count("| infinite") == 1 and "∞" in text and "no attack moved 2 of the images" in text


def test_one_difference_is_the_same_in_all_tables() -> None:
    """Of the digits: compare, claims, leaderboard, and so what is made of them."""
    folder = Path(__file__).parents[2] / "results" / "reference" / "digits"
    reading = read_folders([folder])
    table = compare_rows("mma", "ce", folder).set_index("column")
    for column in ("margin_upper_l2", "margin_upper_linf"):
        line = table.loc[column]
        (claim,) = [one for one in findings(reading) if (one.method, one.column) == ("mma", column)]
        of_column = {row: of[column] for (_, row), of in standings(reading, [column]).items()}
        of = of_column["mma"]
        numbers = (claim.difference, claim.low, claim.high)
        assert numbers == (of.difference, of.difference_low, of.difference_high)
        assert numbers == (line["difference"], line["low"], line["high"])
        assert claim.p == line["p"] and of.mean == line["mean_a"] and of_column["ce"].mean == line["mean_b"]
        (suite,) = suite_runs(reading).values()
        known = {column.name: column for column in columns.measured()}
        between = column_pairs(suite, known[column])
        others = [row for row in between.rows if row != "ce"]
        adjusted = holm([between.difference(row, "ce").p for row in others])
        assert of.p == adjusted[others.index("mma")] and between.difference("mma", "ce").p == line["p"]


def test_specs_are_read_in_any_form_and_stale_rows_left_out(toy: Path) -> None:
    assert set(compare_rows("arcface( m = 0.1 )", "ce", toy)["a"]) == {"arcface(m=0.1)"}
    write(toy, "ce", 0, arrays_of(np.random.default_rng(9), 9.0), source="edited")
    table = compare_rows("good", "ce", toy)
    assert set(table["seeds"]) == {"0"}, "of two versions the newer one counts, whole"


def test_without_folders_results_local_is_read(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy)
    with pytest.raises(MarginbenchError, match="results/local: no such folder"):
        compare_rows("good", "ce")
    Path("results").mkdir()
    Path("toy").rename("results/local")
    assert set(compare_rows("good", "ce")["a"]) == {"good"}


def test_two_suites_make_two_tables(run: Run, toy: Path) -> None:
    stream = np.random.default_rng(10)
    for method in ("good", "ce"):
        write(toy, method, 0, arrays_of(stream, 0.0), suite="e" * 64)
    code, text, _ = run("compare", "good", "ce", toy)
    assert code == 0 and "## toye" in text and "## toyf" in text


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (("goood", "ce"), ["no row 'goood'", "did you mean 'good'"]),
        (("ce", "mma"), ["no row 'mma'", "known: "]),
        (("ce", "ce"), ["another row"]),
        (("ce", "elsewhere"), ["no suite in common", "toyf (ffffffff)", "toye (eeeeeeee)"]),
        (("ce", "redrawn"), ["does not count", "other data"]),
        (("ce", "relabelled"), ["different test points"]),
        (("ce", "resampled"), ["different test points"]),
        (("ce", "dead"), ["no run of dead ended well"]),
    ],
)
def test_wrong_input_gives_one_line_and_exit_code_2(
    run: Run, toy: Path, rows: tuple[str, str], words: list[str]
) -> None:
    code, out, err = run("compare", *rows, toy)
    assert code == 2 and out == "" and err.count("\n") == 1
    for word in words:
        assert word in err
    with pytest.raises(MarginbenchError):
        compare_rows(*rows, toy)


def test_a_missing_folder_and_help(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("compare", "mma", "ce")
    assert code == 2 and "results/local: no such folder" in err
    code, text, _ = run("compare", "--help")
    assert code == 0 and "marginbench compare mma ce" in " ".join(text.split())
