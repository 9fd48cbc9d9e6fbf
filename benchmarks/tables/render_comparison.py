"""The comparison of two rows as Markdown."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.statistics.paired import LEVEL
from marginbench.benchmarks.statistics.pairwise import MIN_SEEDS
from marginbench.benchmarks.tables.cells import MEASURED_NOTHING, Side, p_text
from marginbench.benchmarks.tables.compare import COMPARED, FEW
from marginbench.benchmarks.tables.notes import asked_once
from marginbench.benchmarks.tables.text import pipe
from marginbench.methods import NORMS

if TYPE_CHECKING:
    import pandas as pd

SIDES: tuple[Side, ...] = ("left", "right", "right", "right", "right", "right", "left")
Line = Mapping[str, Any]  # of the table of `compare_rows`

_COLUMNS = {column.name: column for column in COMPARED}


def render_comparison(table: "pd.DataFrame") -> str:
    """Markdown: a table for each suite, and how to read it."""
    lines: list[Any] = table.to_dict("records")
    suites: dict[str, list[Line]] = {}
    for line in lines:
        suites.setdefault(line["suite_fingerprint"], []).append(line)
    return "\n".join(map(_page, suites.values()))


def _page(lines: Sequence[Line]) -> str:
    first = lines[0]
    header = ("column", first["a"], first["b"], "difference", "p (Holm)", "images", "verdict")
    text = pipe(header, [_cells(line) for line in lines], SIDES)
    notes = "\n".join(f"- {note}" for note in _notes(lines))
    return f"## {first['suite']}: {first['title']}\n\n{text}\n\n{notes}\n"


def _cells(line: Line) -> tuple[str, ...]:
    column = _column(line)
    means = (column.text(line[name]) for name in ("mean_a", "mean_b"))
    difference = column.signed(line["difference"]) + column.between(line["low"], line["high"])
    return _heading(line), *means, difference, p_text(line["p_holm"]), _images(line), line["verdict"]


def _column(line: Line) -> Column:
    return _COLUMNS[line["column"]]


def _heading(line: Line) -> str:
    return _column(line).heading({norm: line[f"epsilon_{norm}"] for norm in NORMS})


def _images(line: Line) -> str:
    """`+12 -3`, of all pairs of networks."""
    above, below = (sum(map(int, line[side].split())) for side in ("above", "below"))
    return f"+{above} -{below}" if line["above"] else MEASURED_NOTHING


def _notes(lines: Sequence[Line]) -> Iterator[str]:
    first = lines[0]
    seeds = first["seeds"].split()
    tested = sum(not math.isnan(line["p"]) for line in lines)
    yield (
        f"difference = {first['a']} minus {first['b']} [95 % interval], over networks (seeds) and the"
        f" {first['points']} test images; the same as in the leaderboard. Shares in per cent, margins in pixels of"
        " [0, 1]."
    )
    if tested:
        yield (
            f"p: of the difference, after Holm's correction over the {tested} columns tested. differs: p < {LEVEL:g}."
        )
    if any(line["verdict"] == FEW for line in lines):
        yield f"{FEW}: below {MIN_SEEDS} networks of a row nothing is said about what other seeds would give."
    if not seeds:
        yield "images: none are counted, since no network of one row has the seed of one of the other."
    else:
        yield (
            f"images: those on which {first['a']} is above (+) and below (-) {first['b']}, over"
            f" {'the pair' if len(seeds) == 1 else 'all pairs'} of networks of one seed ({', '.join(seeds)})."
        )
        each = "; ".join(
            f"{_heading(line)}: {', '.join(p_text(float(p)) for p in line['p_images'].split())}"
            for line in lines
            if line["p_images"]
        )
        yield (
            "p of the exact sign test over images (McNemar's for shares), of each pair of networks, uncorrected, about"
            f" these networks alone: {each}."
        )
    if first["at_epsilon"]:
        yield asked_once(first["at_epsilon"].split())
    for line in lines:
        if line["infinite"]:
            yield (
                f"{_heading(line)}: no attack moved {line['infinite']} of the images, in some network of either row."
                " Their margin is not known, so that the means are not compared."
            )
