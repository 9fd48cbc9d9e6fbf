"""Every column that all tables have, once; those of probes come with the records.

Names, headers, units, digits and what is good are read off here by leaderboard, claims, comparisons and pages.
"""

from collections.abc import Iterable, Iterator

from marginbench.benchmarks.records.column import NORM_TEXT, Column
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.scores import SCORES
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.methods import NORMS

RANK, TO_BASELINE = "rank", f"to {BASELINE}"  # columns of pages that say where a row stands
INTERVAL = "_ci95"  # after the name of a column: half of Student's interval over seeds
STANDING = {  # after the name of a measured column, in csv and json; see `standing.Standing`
    "low": "Lower end of the mean's 95 % interval over seeds; none below three of them.",
    "high": "Upper end of the mean's 95 % interval over seeds.",
    "difference": "Mean minus that of ce.",
    "difference_low": "Lower end of the difference's 95 % interval over seeds and test points, uncorrected.",
    "difference_high": "Upper end of the difference's 95 % interval over seeds and test points.",
    "p": "That there is no difference to ce, two-sided; after Holm's correction over the rows.",
    "best_rank": "Lower end of the rank's 95 % interval, 1 for the best row.",
    "worst_rank": "Upper end of the rank's 95 % interval; rows that cannot be compared may all be better.",
    "letters": "Rows that share a letter cannot be told apart, at 5 % over all pairs.",
    "group": "No two rows of a group can be told apart, at 5 % over all pairs; 1 is the best.",
}


def _shares(name: str, header: str, meaning: str, unknown: bool = False) -> tuple[Column, ...]:
    """Of the images, at the suite's radius in each norm."""
    return tuple(
        Column(f"{name}_{norm}", f"{header} {NORM_TEXT[norm]} {{{norm}:g}}", 100, 1, unknown, not unknown, meaning)
        for norm in NORMS
    )


def _unattacked(norm: str) -> Column:
    meaning = "Share of the correct images that no attack could move."
    return Column(f"unattacked_{norm}", f"unattacked % {NORM_TEXT[norm]}", 100, 1, True, False, meaning)


FACTS = (
    Column("suite", "suite", ascending=True, on_page=False),
    Column("suite_fingerprint", "suite fingerprint", ascending=True, on_page=False),
    Column(
        "method",
        "method",
        ascending=True,
        meaning="Its key, and the fields that differ from their defaults.",
    ),
    Column("key", "key", ascending=True, on_page=False),
    Column("n", "n", meaning="Networks (seeds)."),
    Column("failed", "failed", ascending=True, on_page=False, meaning="Runs that ended with an error."),
    Column(
        "points",
        "points",
        meaning="Test images on which each network was measured: all, or a sample in which every class has its share.",
    ),
)
ACCURACIES = (
    Column("clean_accuracy", "clean %", 100, 1, meaning="Share of the images that are classified correctly."),
    *_shares("robust_accuracy", "robust %", "Correct, and no attack found an adversarial example in the ball."),
    *_shares("certified_accuracy", "certified %", "Correct, and proven to stay so in the whole ball."),
)
ENDS = {
    "lower": "Mean certified radius in pixels, 0 for a misclassified image.",
    "upper": "Mean distance in pixels of the nearest adversarial example found, 0 for a misclassified image.",
}
MARGINS = tuple(
    Column(f"margin_{end}_{norm}", f"margin {NORM_TEXT[norm]}, {end}", meaning=meaning)
    for norm in NORMS
    for end, meaning in ENDS.items()
)
UNKNOWN = _shares("unknown", "unknown %", "Correct, not attacked and not certified: robust or not, nobody knows.", True)
UNATTACKED = {norm: _unattacked(norm) for norm in NORMS}
OTHERS = (
    Column(
        "feature_margin",
        "feature margin",
        on_page=False,
        meaning="Distance of the features to the plane between the class and the runner-up, by the length of the"
        " longest; where the head normalises features, of those before.",
    ),
    Column(
        "output_margin",
        "output margin",
        on_page=False,
        meaning="Logit of the true class minus the largest other.",
    ),
    Column(
        "train_accuracy",
        "train %",
        100,
        1,
        on_page=False,
        meaning="Accuracy on as many training images as there are validation images.",
    ),
    Column("validation_accuracy", "validation %", 100, 1, on_page=False, meaning="Accuracy on the validation images."),
    Column(
        "generalisation_gap",
        "gap %",
        100,
        1,
        ascending=True,
        on_page=False,
        meaning="Training accuracy minus validation accuracy.",
    ),
)
POINTWISE = {column.name for column in (*ACCURACIES, *UNKNOWN, *MARGINS)} | {"feature_margin", "output_margin", *SCORES}
COST = Column("cost", "cost", 1, 2, True, meaning="Training time relative to the median of ce on the same machine.")
PASSES = Column(
    "passes",
    "passes",
    1,
    2,
    True,
    False,
    "Forward and backward passes of the training relative to the median of ce: its cost on any machine, but for bounds"
    " that are propagated through the layers, which are not counted.",
)
COSTS = (COST, PASSES)
SURELY_BETTER = {
    f"surely_better_{norm}": Column(
        f"surely_better_{norm}",
        f"surely better than {NORM_TEXT[norm]} {{{norm}:g}}",
        1,
        0,
        on_page=False,
        meaning="Rows whose robust accuracy is below the certified accuracy of this one: it is better, whatever attacks"
        " have missed. Differences with p < 0.05 count, one-sided, after Holm's correction over all ordered pairs.",
    )
    for norm in NORMS
}
PARETO = tuple(
    Column(
        f"pareto_{against}",
        f"on the front, {against.replace('_', ' ')}",
        ascending=True,
        on_page=False,
        meaning=f"Columns in which no row is at least as good {words} and better in one of the two.",
    )
    for against, words in (
        ("passes", "at no more passes"),
        ("cost", "in no more time"),
        ("clean_accuracy", "with no less clean accuracy"),
    )
)
TEXTS = (
    Column("doubts", "doubts", ascending=True, meaning="Reasons to distrust the row, and in how many of its runs."),
    Column("error", "error", ascending=True, on_page=False),
)


def of_probes(records: Iterable[Record]) -> tuple[Column, ...]:
    """The columns that the records bring, each once."""
    always = {column.name for column in (*FACTS, *measured(), *TEXTS)}
    ordered = sorted(records, key=lambda record: (record.suite.name, record.identity.suite, record.id))
    found = {column.name: column for record in ordered for column in record.columns}
    return tuple(_arranged(column for column in found.values() if column.name not in always))


def measured(probes: Iterable[Column] = ()) -> tuple[Column, ...]:
    """All columns that are means over runs, in the order of csv and json."""
    return (*ACCURACIES, *UNKNOWN, *MARGINS, *UNATTACKED.values(), *OTHERS, *probes, *COSTS)


def numbers(probes: Iterable[Column] = ()) -> tuple[Column, ...]:
    """All columns of numbers: means over runs, and counts of rows."""
    return (*measured(probes), *SURELY_BETTER.values())


def all_columns(probes: Iterable[Column] = ()) -> tuple[Column, ...]:
    """The columns of csv and json, without what follows the measured ones, see `STANDING`."""
    return (*FACTS, *numbers(probes), *PARETO, *TEXTS)


def names(probes: Iterable[Column] = ()) -> list[str]:
    """The names in csv and json."""
    return [name for column in all_columns(probes) for name in _with_interval(column, probes)]


def taken() -> set[str]:
    """Names in csv and json, and headers of pages, that no probe's column may have."""
    standing = (f"{column.name}_{end}" for column in numbers() for end in STANDING)
    headers = (column.header for column in (*all_columns(), *SCORES.values()))
    return {*names(), *SCORES, *standing, *headers, RANK, TO_BASELINE}


def ordering(probes: Iterable[Column] = ()) -> list[str]:
    """The names by which rows can be ordered: numbers, their intervals, and facts that differ within a suite."""
    facts = [fact for fact in FACTS if not fact.name.startswith("suite")]
    return [name for column in (*facts, *numbers(probes)) for name in _with_interval(column, probes)]


def _with_interval(column: Column, probes: Iterable[Column]) -> Iterator[str]:
    yield column.name
    if column in measured(probes):
        yield column.name + INTERVAL


def is_share(column: Column) -> bool:
    """Whether it is a share of test points, of validation or training images; a gap between two is none."""
    return column.factor == 100 and column.name != "generalisation_gap"


def stem(name: str) -> str:
    """The column that a name in csv and json belongs to, as an interval to its mean."""
    return name.removesuffix(INTERVAL)


def stems(names: Iterable[str]) -> list[str]:
    """The columns that the names belong to, each once: what a hint lists."""
    return list(dict.fromkeys(map(stem, names)))


def paged(probes: Iterable[Column] = ()) -> list[Column]:
    """The measured columns of a page, the cost last."""
    on_page = (*_arranged(ACCURACIES, True), *_arranged(probes, True), *MARGINS, COST)
    return [column for column in on_page if column.on_page]


def norm_of(name: str) -> str:
    """The norm at the end of a column's name, or nothing."""
    end = name.rpartition("_")[2]
    return end if end in NORMS else ""


def _arranged(columns: Iterable[Column], page: bool = False) -> list[Column]:
    """The norms of one metric side by side, L2 first; on pages, shares are with L∞ first."""
    columns = list(columns)
    stems = list(dict.fromkeys(column.name.removesuffix(norm_of(column.name)) for column in columns))

    def place(column: Column) -> tuple[int, int]:
        norm = norm_of(column.name)
        order = list(NORMS).index(norm) if norm in NORMS else 0
        shown_first = page and column.factor != 1
        return stems.index(column.name.removesuffix(norm)), -order if shown_first else order

    return sorted(columns, key=place)
