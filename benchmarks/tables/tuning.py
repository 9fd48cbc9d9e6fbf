"""What tuning has gained: of each row the paper's default and the tuned setting beside each other, and what it cost."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.reader import Reading
from marginbench.benchmarks.records.record import SuiteFacts
from marginbench.benchmarks.records.tuning import TUNED, Tuning, in_words
from marginbench.benchmarks.statistics.level import levels
from marginbench.benchmarks.statistics.paired import LEVEL, holm
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.cells import Side
from marginbench.benchmarks.tables.derived import BASELINE
from marginbench.benchmarks.tables.pairs import ColumnPairs, SuiteRuns, column_pairs, suite_runs
from marginbench.benchmarks.tables.text import pipe
from marginbench.methods.words import counted

FIELDS = ("default", "tuned", "gain", "gain_low", "gain_high", "p", "default_rank", "tuned_rank")


@dataclass(frozen=True)
class Gain:
    """Of one row in one column."""

    default: float  # means
    tuned: float
    difference: float
    low: float  # of its 95 % interval, uncorrected; NaN below three seeds
    high: float
    p: float  # after Holm's correction over the rows


@dataclass(frozen=True)
class Gains:
    """Of one suite, all rows that are there by default and tuned."""

    fingerprint: str
    suite: SuiteFacts
    tunings: Mapping[str, Tuning]  # by row
    gains: Mapping[str, Mapping[str, Gain]]  # by column, then row: tuned minus default
    ahead: Mapping[str, Sequence[int]]  # by column, how many rows beat the baseline: all by default, all tuned
    found: Sequence[Column]  # in which something is known


def gains(reading: Reading) -> list[Gains]:
    """What tuning has gained, suite by suite, by the records that count.

    A gain is the difference of the tuned row and its default, over seeds and test points, with its 95 % interval
    and p after Holm's correction over the rows: see `statistics.pairwise`. That of a row whose default was kept is 0.
    """
    return [_of_suite(name, suite) for name, suite in suite_runs(reading).items() if _tunings(suite)]


def _tunings(suite: SuiteRuns) -> dict[str, Tuning]:
    """By row, of those whose default is there too."""
    tunings = [records[0].tuning for records in suite.runs.values()]
    return {tuning.row: tuning for tuning in tunings if tuning is not None and tuning.row in suite.runs}


def _of_suite(fingerprint: str, suite: SuiteRuns) -> Gains:
    tunings = _tunings(suite)
    found, by_column, ahead = [], {}, {}
    for column in columns.paged():
        if column not in columns.ACCURACIES:
            continue
        between = column_pairs(suite, column)
        of_rows = {row: _gain_of(between, tuning) for row, tuning in tunings.items()}
        of_rows = {row: gain for row, gain in of_rows.items() if not math.isnan(gain.difference)}
        if of_rows:
            found.append(column)
            by_column[column.name] = _corrected(of_rows)
            ahead[column.name] = [_beat(between, tunings, end) for end in ("", TUNED)]
    return Gains(fingerprint, next(iter(suite.runs.values()))[0].suite, tunings, by_column, ahead, found)


def _gain_of(between: ColumnPairs, tuning: Tuning) -> Gain:
    default, tuned = (between.suite.mean(row, between.column.name) for row in (tuning.row, tuning.name))
    if tuning.keeps_default:  # the same networks
        return Gain(default, default, default - default, 0.0, 0.0, 1.0)
    of = between.difference(tuning.name, tuning.row)
    return Gain(default, tuned, of.value, of.low, of.high, of.p)


def _corrected(of_rows: Mapping[str, Gain]) -> dict[str, Gain]:
    """With Holm's correction over the rows that have a test."""
    adjusted = holm([gain.p for gain in of_rows.values()])
    return {row: replace(gain, p=p) for (row, gain), p in zip(of_rows.items(), adjusted, strict=True)}


def _beat(between: ColumnPairs, rows: Iterable[str], end: str) -> int:
    """How many rows are better than the baseline, all of them tuned or none, after Holm's correction over the rows."""
    found = [between.difference(f"{row}{end}", f"{BASELINE}{end}") for row in rows if row != BASELINE]
    return sum(of.value > 0 and p < LEVEL for of, p in zip(found, holm([of.p for of in found]), strict=True))


def tuning_files(reading: Reading) -> dict[str, str]:
    """Name to content: tuning.md and tuning.csv; nothing where no row is tuned."""
    if not any(record.tuning for record in reading.records.values()):
        return {}
    made = gains(reading)
    return {"tuning.md": "\n".join(map(_page, made)), "tuning.csv": _csv(made)} if made else {}


def _page(of: Gains) -> str:
    suite = of.suite
    rows = sorted(of.tunings, key=lambda row: (row != BASELINE, row))
    headings = [column.heading(suite.epsilon) for column in of.found]
    header = ("row", *headings, "trials", "failed", "passes", "time", "chosen setting")
    middle: list[Side] = ["right"] * (len(of.found) + 4)
    sides: list[Side] = ["left", *middle, "left"]
    cells = [_cells(of, row) for row in rows]
    notes = "\n".join(f"- {note}" for note in _notes(of))
    return f"## {suite.name}: what tuning has gained\n\n{pipe(header, cells, sides)}\n\n{notes}\n"


def _cells(of: Gains, row: str) -> list[str]:
    tuning = of.tunings[row]
    cost = _passes(tuning.passes), f"{tuning.seconds / 60:.1f} min"
    trials = f"{tuning.trials} ({tuning.distinct})"
    setting = "the default" if tuning.keeps_default else in_words(tuning.method, tuning.recipe)
    known = [(of.gains[column.name].get(row), column) for column in of.found]
    measured = [_mean(gain, column) if tuning.keeps_default else _gain(gain, column) for gain, column in known]
    return [row, *measured, trials, str(tuning.failed), *cost, setting]


def _mean(of: Gain | None, column: Column) -> str:
    return "—" if of is None else column.text(of.default)


def _gain(of: Gain | None, column: Column) -> str:
    if of is None:
        return "—"
    text = f"{column.text(of.default)} → {column.text(of.tuned)}: {column.signed(of.difference)}"
    if math.isnan(of.p):
        return text
    return f"{text} [{column.signed(of.low)}, {column.signed(of.high)}]{'*' * (of.p < LEVEL)}"


def _passes(count: float) -> str:
    return f"{count / 1000:.0f}k" if count >= 10_000 else f"{count:.0f}"


def _notes(of: Gains) -> Iterator[str]:
    yield (
        f"Paper's default → tuned: gain [95 % interval], paired over seeds and test images; * p < {LEVEL:g} after"
        " Holm's correction over the rows. One number: tuning has kept the default. Default and tuned row have the same"
        " seeds, which tuning has not seen."
    )
    date = max(tuning.date for tuning in of.tunings.values()).partition("T")[0]
    yield f"Tuned on the validation images alone, {date}; {_ways(of.tunings)}."
    yield (
        "trials: in brackets, distinct settings among them, each trained once; failed: trials that diverged or were"
        " refused, and count; passes: forward and backward, each over a batch, of all trainings, but for bounds that"
        " are propagated through the layers; time: of these and their evaluations."
    )
    if BASELINE in of.tunings and len(of.tunings) > 1:
        yield (
            f"ahead of {BASELINE}: p < {LEVEL:g} after Holm's correction over the rows of one kind. The leaderboard"
            " pools the luck of seeds over default and tuned rows, and corrects over all: it may count fewer."
        )
    for column in of.found:
        heading, known = column.heading(of.suite.epsilon), of.gains[column.name]
        up = sum(g.difference > 0 and g.p < LEVEL for g in known.values())
        down = sum(g.difference < 0 and g.p < LEVEL for g in known.values())
        text = f"{heading}: tuning made {up} of {counted(len(known), 'row')} better and {down} worse"
        if BASELINE in known and len(known) > 1:
            before, after = of.ahead[column.name]
            text += f"; ahead of {BASELINE}: {counted(before, 'row')} by default, {after} with {BASELINE} tuned alike"
        tau = _agreement(known)
        yield f"{text}{'' if math.isnan(tau) else f'; Kendall tau of the two rankings {tau:.2f}'}."


def _ways(tunings: Mapping[str, Tuning]) -> str:
    """How rows were tuned, once for those that were tuned alike."""
    rows: dict[str, list[str]] = defaultdict(list)
    for row, tuning in tunings.items():
        rows[tuning.way].append(row)
    if len(rows) == 1:
        return f"every row with {next(iter(rows))}"
    found = "; ".join(f"{', '.join(of_way)} with {way}" for way, of_way in rows.items())
    return f"**not alike**, so that gains of different rows are not to be compared: {found}"


def _agreement(known: Mapping[str, Gain]) -> float:
    """Kendall's tau-b of the rankings of the rows by default and tuned; NaN for one row, or where all are tied."""
    import numpy as np

    from marginbench.benchmarks.statistics.association import kendall

    if len(known) < 2:
        return math.nan
    default, tuned = (np.array([getattr(of, name) for of in known.values()]) for name in ("default", "tuned"))
    return float(kendall(default, tuned))


def _csv(made: Sequence[Gains]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    how = ("objective", "drawn", "seed", "rule", "floor")
    of_tuning = (*how, "trials", "distinct", "failed", "chosen", "passes", "seconds", "date")
    writer.writerow(["suite", "suite_fingerprint", "row", "column", *FIELDS, *of_tuning, "setting"])
    for of in made:
        for column in of.found:
            known = of.gains[column.name]
            ranks = [_ranks({row: getattr(gain, side) for row, gain in known.items()}) for side in ("default", "tuned")]
            for row, gain in known.items():
                tuning = of.tunings[row]
                numbers = gain.default, gain.tuned, gain.difference, gain.low, gain.high, gain.p
                shown = [f"{number:.6g}" for number in numbers]
                facts = [getattr(tuning, name) for name in of_tuning]
                place = of.suite.name, of.fingerprint, row, column.name
                setting = in_words(tuning.method, tuning.recipe)
                writer.writerow([*place, *shown, ranks[0][row], ranks[1][row], *facts, setting])
    return text.getvalue()


def _ranks(means: Mapping[str, float]) -> dict[str, int]:
    """1 is the best; equal means, as those that differ by rounding alone, share the better rank."""
    values = levels(means.values())
    return {row: 1 + sum(other > mean for other in values) for row, mean in zip(means, values, strict=True)}
