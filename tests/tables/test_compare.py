"""`marginbench compare`: the statistics against other formulas, their error rates, and the table."""

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import EPSILON, a_failure, a_record, a_suite
from scipy import stats
from support import Run

from marginbench.benchmarks.records.metrics import per_point, summarise
from marginbench.benchmarks.records.record import write_record
from marginbench.benchmarks.statistics.paired import bootstrap, holm, mcnemar, student
from marginbench.benchmarks.tables.compare import COMPARED, compare_column, compare_rows
from marginbench.methods import MarginbenchError

POINTS = 120


def test_mcnemar_is_the_exact_sign_test() -> None:
    a, b = np.zeros(20, bool), np.zeros(20, bool)
    a[:8], b[8:9] = True, True
    assert mcnemar(a, b) == 2 * (1 + 9) / 2**9  # 8 against 1, counted by hand
    assert mcnemar(a, a) == 1.0
    stream = np.random.default_rng(1)
    for points in (20, 50, 4000):
        a, b = stream.random(points) < 0.6, stream.random(points) < 0.5
        first, second = int((a & ~b).sum()), int((b & ~a).sum())
        tail = sum(math.comb(first + second, i) for i in range(min(first, second) + 1))
        assert mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail / 2 ** (first + second)), rel=1e-9)
        assert mcnemar(a, b) == mcnemar(b, a)


def test_holm_on_numbers_computed_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == [] and holm([0.04]) == [0.04]


def test_student_is_the_paired_t_test_of_scipy() -> None:
    a, b = [0.9, 0.8, 0.85, 0.95], [0.7, 0.75, 0.8, 0.6]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    assert student(differences) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert math.isnan(student([1.0]))
    assert student([0.0, 0.0]) == 1.0 and student([1.0, 1.0]) == 0.0
    assert student([0.1, math.nextafter(0.1, 1)]) < 1e-9, "quietly, where the spread is rounding alone"


def test_the_bootstrap_of_one_repetition_is_that_of_scipy() -> None:
    d = np.random.default_rng(2).exponential(size=300) - 0.9
    low, high, _ = bootstrap(d[None], draws=20_000)
    found = stats.bootstrap((d,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(3))
    assert low == pytest.approx(found.confidence_interval.low, abs=0.005)
    assert high == pytest.approx(found.confidence_interval.high, abs=0.005)
    assert bootstrap(d[None]) == bootstrap(d[None]), "the seed is fixed"


def test_the_bootstrap_spreads_over_repetitions_and_points() -> None:
    """Its variance for d = r + p, by hand: (n - 1) / n var(r) / n + (N - 1) / N var(p) / N, with sample variances."""
    stream = np.random.default_rng(4)
    r, p = stream.normal(size=(5, 1)), stream.normal(size=(1, 80))
    wanted = math.sqrt(0.8 * r.var(ddof=1) / 5 + 79 / 80 * p.var(ddof=1) / 80)
    low, high, _ = bootstrap(r + p, draws=40_000)
    assert (high - low) / 2 == pytest.approx(1.96 * wanted, rel=0.05)
    assert bootstrap(np.ones((3, 10))) == (1.0, 1.0, 2 / 5001)
    assert bootstrap(np.zeros((3, 10)))[2] == 1.0


def simulated(stream: np.random.Generator, n: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Margins of two rows: points of different difficulty, seeds of different luck, noise; a is better by `shift`."""
    points = stream.gamma(2, 0.25, size=(1, POINTS))
    pair = [points * np.exp(0.1 * stream.normal(size=(n, 1)) + 0.3 * stream.normal(size=(n, POINTS))) for _ in range(2)]
    return pair[0] + shift, pair[1]


def rates(n: int, shift: float, share: bool, trials: int = 300) -> float:
    """How often p < 5 %. For n = 1 the seeds have no luck: it is the two networks that are compared."""
    stream = np.random.default_rng(5)
    hits = 0
    for _ in range(trials):
        a, b = simulated(stream, max(n, 2), shift)
        if n == 1:
            order = stream.random(a[0].shape) < 0.5  # exchangeable, point by point
            a, b = np.where(order, a[0], b[0] + shift)[None], np.where(order, b[0], a[0] - shift)[None]
        column = compare_column("x", a > 0.5, b > 0.5) if share else compare_column("x", a, b)
        hits += column.p < 0.05
    return hits / trials


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "__defaults__", (400, 0))


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_equal_rows_differ_in_at_most_about_five_per_cent(n: int, share: bool) -> None:
    rate = rates(n, 0.0, share)
    assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    if not share and n != 3:  # a share of few discordant points, and two tests at once, are on the safe side
        assert rate >= 0.01


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_a_planted_difference_is_found(n: int, share: bool) -> None:
    assert rates(n, 0.4, share, trials=60) >= 0.7


def test_infinite_margins_are_not_averaged() -> None:
    a, b = np.full((2, 6), 0.5), np.full((2, 6), 0.25)
    a[0, 0] = np.inf
    column = compare_column("margin_upper_l2", a, b)
    assert column.mean_a == math.inf and column.mean_b == 0.25
    assert column.difference == 0.25 and column.infinite == 1 and math.isnan(column.p)
    column = compare_column("margin_upper_l2", np.full((1, 3), np.inf), b[:1, :3])
    assert math.isnan(column.difference) and math.isnan(column.low) and column.infinite == 3


def test_with_nan_nothing_is_compared() -> None:
    a, b = np.full((3, 6), 0.5), np.full((3, 6), 0.25)
    a[0, 0] = np.nan
    column = compare_column("margin_upper_l2", a, b)
    numbers = (column.mean_a, column.difference, column.low, column.high, column.student_half, column.p)
    assert all(map(math.isnan, numbers)) and column.mean_b == 0.25 and column.infinite == 0


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
    assert len(lines) == 2 + len(COMPARED) and len({line.count("|") for line in lines}) == 1
    verdicts = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in lines[2:]}
    assert verdicts["clean %"] == "not shown" and verdicts["robust % L2 0.5"] == "differs"
    assert verdicts["margin L2, upper"] == verdicts["margin L∞, lower"] == "differs"
    assert "Holm's correction over the 9 columns" in text and "Student" in text and "repetitions 0, 1, 2, 3, 4" in text
    assert "McNemar's exact p of each repetition" in text
    code, text, _ = run("compare", "twin", "ce", toy, "--format", "csv")
    table = pd.read_csv(io.StringIO(text))
    assert code == 0 and set(table["verdict"]) == {"not shown"}
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p"].tolist()))
    assert all(len(str(p).split()) == 5 for p in table["p_mcnemar"][:5])


def test_means_are_those_of_the_leaderboard(toy: Path) -> None:
    arrays = arrays_of(np.random.default_rng(8), 0.1)
    metrics = summarise(arrays, EPSILON)
    points = per_point(arrays, EPSILON)
    assert set(points) == set(COMPARED)
    for name, values in points.items():
        assert values.mean() == pytest.approx(metrics[name], rel=1e-6)
    table = compare_rows("good", "ce", toy)
    assert (table["difference"] - (table["mean_a"] - table["mean_b"])).abs().max() < 1e-12
    back = compare_rows("ce", "good", toy)
    assert back["difference"].tolist() == pytest.approx((-table["difference"]).tolist())
    assert back["p_student"].tolist() == pytest.approx(table["p_student"].tolist())


def test_missing_and_infinite_columns_say_so(run: Run, toy: Path) -> None:
    code, text, _ = run("compare", "bare", "ce", toy)
    assert code == 0 and text.count("| not measured") == 4 and "over the 5 columns" in text
    assert "One pair of networks" in text
    code, text, _ = run("compare", "lost", "ce", toy)
    assert code == 0 and text.count("| infinite") == 1 and "∞" in text and "no attack moved 2 of the points" in text


def test_specs_are_read_in_any_form_and_stale_rows_left_out(toy: Path) -> None:
    assert set(compare_rows("arcface( m = 0.1 )", "ce", toy)["a"]) == {"arcface(m=0.1)"}
    write(toy, "ce", 0, arrays_of(np.random.default_rng(9), 9.0), source="edited")
    table = compare_rows("good", "ce", toy)
    assert set(table["repetitions"]) == {"0"}, "of two versions the newer one counts, whole"


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
        (("ce", "late"), ["no repetition in common", "late has [7]"]),
        (("ce", "dead"), ["no repetition in common", "dead has none"]),
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
