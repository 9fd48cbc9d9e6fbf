"""The notes below a board: a short legend, then what was not measured, what its doubts mean, and where it was made."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from marginbench.benchmarks.records.column import NORM_TEXT
from marginbench.benchmarks.records.current import MARKS, current, precedence
from marginbench.benchmarks.records.record import IDENTITY_SCHEMA, Environment, Record
from marginbench.benchmarks.statistics.paired import LEVEL, MIN_FOR_INTERVAL
from marginbench.benchmarks.tables import columns
from marginbench.benchmarks.tables.board import Board
from marginbench.benchmarks.tables.cells import shared
from marginbench.benchmarks.tables.columns import RANK, TO_BASELINE
from marginbench.benchmarks.tables.derived import BASELINE, OF_TUNED
from marginbench.benchmarks.tables.leaderboard import Row
from marginbench.benchmarks.tables.own_networks import Network, network, rows_once
from marginbench.benchmarks.tables.standing import Standing
from marginbench.methods.words import counted

COMPUTE = ("marginbench", "torch", "torchattacks", "auto-lirpa", "numpy")  # packages that a page names
ALIKE = 0.5  # trainings at once, on average, in which rows may differ without a word about their costs
INTERVAL_WORDS = f"± half of Student's 95 % interval over seeds, from {MIN_FOR_INTERVAL} on"


def legend(board: Board, headers: Sequence[str]) -> Iterator[str]:
    """How to read the columns that are shown, in few words."""
    yield _order(board, headers)
    n, points = (shared(board, name) for name in ("n", "points"))
    networks = "n networks (seeds)" if n is None else f"{n} network{'s (seeds)' if n != 1 else ' (seed)'}"
    radii = bool(board.records[0].epsilon)
    what = "test images" if radii else "test sentences"
    images = f"`points` {what}" if points is None else f"{points} {what}"
    interval = "" if n is not None and int(n) < MIN_FOR_INTERVAL else f" {INTERVAL_WORDS};"
    if interval and any(_is_skewed(board.of(row)) for row in board.rows):
        interval += (
            " in the column that orders the rows [low, high] where it is not symmetric, as of shares near 0 and 100 %"
            " (Clopper and Pearson's);"
        )
    bold = f"bold: best mean{'' if board.whole else ' of the rows shown'}"
    yield f"{networks} a row, {images};{interval} {bold}.{' Radii in pixels of [0, 1].' * radii}"
    if any(header.startswith("margin") for header in headers):
        yield (
            "margin: [mean certified radius, mean distance of the nearest adversarial example found] over all points,"
            " 0 for a misclassified one."
        )
    if columns.COST.header in headers:
        yield f"cost: training time relative to the median of {BASELINE} on the same machine."
    for column in columns.all_columns(board.probes):
        if column.name in board.choice.wanted and column.meaning and not column.on_page:
            yield f"{column.heading(board.records[0].epsilon)}: {column.meaning}"
    if board.below:
        by_mean = board.ordering is not None and board.ordering.name == board.by
        order = "their means" if by_mean else board.by
        below = counted(board.below, "row")
        yield f"Left out: {below}; asked for: the first {board.choice.top} by {order}, and {BASELINE}."


def _is_skewed(of: Standing | None) -> bool:
    return of is not None and not math.isnan(of.low) and not of.symmetric


def _order(board: Board, headers: Sequence[str]) -> str:
    if board.ordering is None:
        return f"Ordered by {board.by}."
    name = board.ordering.heading(board.records[0].epsilon)
    if board.by != board.ordering.name:
        return f"Ordered by the 95 % interval of {name}, the narrowest first."
    if RANK not in headers:
        return f"Ordered by {name}, the best first; which differences are real is not known."
    words = [
        f"Ordered by {name}: by groups, which are runs of rows in the order of their means of which no two differ, then"
        " by name. Rows that share a letter cannot be told apart: all pairs, Holm's correction."
    ]
    others = sum(not of.best_rank and not math.isnan(of.mean) for of in board.standing.values())
    anywhere = f"; {counted(others, 'row')} cannot be compared and may be better or worse" if others else ""
    words.append(f"rank: 95 % interval of the place among all rows{anywhere}.")
    if TO_BASELINE in headers:
        words.append(
            f"{TO_BASELINE}: paired difference, on pages [95 % interval], * if p < {LEVEL:g} after Holm's correction"
            " over the rows. These are fewer tests than all pairs: a row may differ and share a letter."
        )
    return " ".join(words)


def notes(rows: Sequence[Row], records: Sequence[Record], counted: Sequence[Record] | None = None) -> Iterator[str]:
    """All that is to be known of rows of one suite beside the legend.

    Args:
        records: that the rows are made of.
        counted: of these, those that count. Default: as if there were no others.
    """
    counted = current(records) if counted is None else counted
    if any(record.identity.schema < IDENTITY_SCHEMA for record in counted):
        yield "Measured by the rules of an older marginbench: the changelog says which numbers mean something else now."
    if names := sorted({name for record in counted for name in record.at_epsilon}):
        yield asked_once(names)
    if any(record.tuning for record in counted):
        yield OF_TUNED
    yield from _twins(counted)
    yield from _edited(counted)
    yield from dict.fromkeys(note for record in counted for note in record.notes)
    yield from _about_estimators(counted, "not_applicable", "Not applicable to {methods}: {what}.")
    yield from _about_estimators(counted, "unchecked", "Could not be checked in float64, of {methods}: {what}.")
    yield from _grouped(counted)
    yield from _solved(rows, counted)
    yield from _unattacked([row for row in rows if not row.mark])
    in_time = sorted(records, key=precedence)  # the newest words count
    explained = {name: text for record in in_time for name, text in record.explanations.items()}
    for name in sorted({name for record in records for name in record.doubts}):
        yield f"{name}: {explained.get(name, '...')}"
    for mark in sorted({row.mark for row in rows if row.mark}):
        yield f"{mark}: {MARKS[mark]}"
    yield _where(records)


def _twins(records: Sequence[Record]) -> Iterator[str]:
    """Rows of the same networks, as tuning makes where it keeps the default."""
    rows: dict[str, set[Network]] = defaultdict(set)
    for record in sorted(records, key=lambda record: (record.tuning is not None, record.method)):
        rows[record.method].add(network(record))
    counted = dict(zip(rows, rows_once(list(rows.values())), strict=True))
    owner = {one: row for row, own in rows.items() if counted[row] for one in own}
    same = {f"{row} with {owner[one]}" for row, own in rows.items() if not counted[row] for one in own if one in owner}
    if same:
        yield (
            f"Rows that share networks: {', '.join(sorted(same))}. They count once where tables estimate the"
            " luck of seeds, and how margins go with accuracies."
        )


def _edited(records: Sequence[Record]) -> Iterator[str]:
    """Rows that mix states of the code of which one was no commit: revisions tell built-in methods apart, if raised."""
    states: dict[str, set[str]] = defaultdict(set)
    for record in records:
        states[record.method] |= {str(of.commit) for of in (record.environment, record.trained) if of is not None}
    mixed = {row: of for row, of in states.items() if len(of) > 1 and any("+" in commit for commit in of)}
    if mixed:
        commits = sorted(set().union(*mixed.values()))
        yield (
            f"Made with code that was edited in between (commits {', '.join(commits)}): {', '.join(sorted(mixed))}."
            " Runs of a built-in method are one row as long as its `revision` is the same: raise that with every change"
            " of what it computes."
        )


def asked_once(certificates: Sequence[str]) -> str:
    """What mean certified radii say where certificates do not search for the radius."""
    return (
        f"{', '.join(certificates)}: asked at the suite's radii alone. A point certified there counts with that radius,"
        " any other with 0: the lower end of the margin is below the mean certified radius."
    )


def _about_estimators(records: Sequence[Record], key: str, sentence: str) -> Iterator[str]:
    """What is recorded under the key: ESTIMATOR: WORDS, and the methods of which it is true."""
    found: dict[str, list[str]] = defaultdict(list)
    for record in records:
        for name, entry in record.estimators.items():
            if key in entry and not (key == "not_applicable" and name.startswith("own_")):
                found[f"{name}: {entry[key]}"].append(record.method)
    for what, methods in sorted(found.items()):
        yield sentence.format(methods=", ".join(dict.fromkeys(methods)), what=what)


def _grouped(records: Sequence[Record]) -> Iterator[str]:
    """Where some trainings shared a device with more others than the rest did: their seconds mean something else."""
    sizes: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record.status == "done":
            sizes[record.method].append(record.cost.get("together") or 1.0)
    means = {method: fmean(found) for method, found in sizes.items()}
    if means and max(means.values()) - min(means.values()) > ALIKE:
        shares = ", ".join(f"{method} {mean:.3g}" for method, mean in means.items())
        yield (
            f"Trainings done at once on one device, of which each is charged for its share of the time: {shares}."
            " The more there are, the less each is charged for: compare costs of rows with about the same number."
        )


def _solved(rows: Sequence[Row], records: Sequence[Record]) -> Iterator[str]:
    """How many points the certificates that also look for adversarial images have solved."""
    counts: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for record in records:
        for name, entry in record.estimators.items():
            if "solved" in entry:
                solved, points = counts[name].get(record.method, (0, 0))
                counts[name][record.method] = solved + entry["solved"], points + entry["points"]
    methods = list(dict.fromkeys(str(row.facts["method"]) for row in rows))
    for name, of in sorted(counts.items()):
        estimator, norm = name.rsplit("_", 1)
        shares = ", ".join("{} {} of {}".format(m, *of[m]) for m in methods if m in of)
        yield (
            f"Exact margins ({estimator}, {NORM_TEXT[norm]}), correct points solved: {shares}."
            " For the others, the remaining interval counts."
        )


def _unattacked(rows: Sequence[Row]) -> Iterator[str]:
    for norm, column in columns.UNATTACKED.items():
        shares = [(row.facts["method"], row.mean(column.name)[0]) for row in rows]
        if any(share > 0 for _, share in shares):
            text = ", ".join(f"{method} {column.text(share)}%" for method, share in shares if share > 0)
            yield f"Correct points that no {NORM_TEXT[norm]} attack could move: {text}."


def _where(records: Sequence[Record]) -> str:
    """Dates, machines, versions and commits of all records, whatever their order."""
    dates = sorted(record.finished[:10] for record in records)
    period = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    places = [record.environment for record in sorted(records, key=lambda record: record.id)]
    machines = sorted({f"{place.device}, {place.processor}, {_cores(place)}" for place in places})
    commits = ", ".join(sorted({str(place.commit) for place in places}))
    return f"{period}, {' and '.join(machines)}; {', '.join(versions(places))}; commit {commits}."


def _cores(place: Environment) -> str:
    return counted(place.cores, "core")


def versions(places: Iterable[Environment]) -> Iterator[str]:
    """`numpy 2.4.6`, or `numpy 2.3.0 and 2.4.6`, of the packages that compute; records name all of them."""
    found: dict[str, set[str]] = defaultdict(set)
    for place in places:
        for name in COMPUTE:
            if number := place.versions.get(name):
                found[name].add(number)
    return (f"{name} {' and '.join(sorted(found[name]))}" for name in COMPUTE if name in found)
