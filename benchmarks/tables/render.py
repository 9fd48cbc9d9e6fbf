"""The leaderboard as Markdown, CSV, LaTeX or JSON. CSV and JSON hold every column, the others what fits a page."""

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import pandas as pd

from marginbench.benchmarks.evaluation.doubts import explanation
from marginbench.benchmarks.probes.smoothing import radius_ceiling
from marginbench.benchmarks.records.metrics import NORM_TEXT
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.tables.leaderboard import newest_versions
from marginbench.methods import NORMS, MarginbenchError, Norm
from marginbench.methods.errors import suggest

Format = Literal["md", "csv", "tex", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)


def render(table: pd.DataFrame, records: Sequence[Record], form: str) -> str:
    """Render a leaderboard of the records.

    Raises:
        MarginbenchError: unknown format.
    """
    if form == "csv":
        return table.to_csv(index=False)
    if form == "json":
        return table.to_json(orient="records", indent=1, force_ascii=False, double_precision=10) + "\n"
    if form not in FORMATS:
        raise MarginbenchError(f"--format {form!r}: {suggest(form, FORMATS)}")
    page = _markdown if form == "md" else _latex
    return "\n".join(page(rows, own) for rows, own in _by_suite(table, records))


def show(table: pd.DataFrame, records: Sequence[Record]) -> None:
    """Print the leaderboard: folded to the width of a terminal, as Markdown elsewhere."""
    if not sys.stdout.isatty():
        print(render(table, records, "md"))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for rows, own in _by_suite(table, records):
        page = _page(rows, own[0].epsilon)
        grid = Table(title=f"{own[0].suite['name']}: {own[0].suite['title']}", show_lines=True)
        for column, side in zip(page.columns, _align(page), strict=True):
            grid.add_column(column, justify="left" if side == "left" else "right", overflow="fold")
        for row in page.itertuples(index=False):
            grid.add_row(*(cell.replace(", ", ",\n") for cell in row))
        console.print(grid)
        for line in _notes(rows, own):
            console.print(f"- {line}", markup=False)


def _by_suite(table: pd.DataFrame, records: Sequence[Record]) -> Iterator[tuple[pd.DataFrame, list[Record]]]:
    for fingerprint, rows in table.groupby("suite_fingerprint", sort=False):
        yield rows, [record for record in records if record.identity["suite"] == fingerprint]


def _markdown(rows: pd.DataFrame, records: Sequence[Record]) -> str:
    table = _page(rows, records[0].epsilon)
    table = table.map(lambda cell: cell.replace("|", r"\|"))
    text = table.to_markdown(index=False, disable_numparse=True, colalign=_align(table))
    title = f"## {records[0].suite['name']}: {records[0].suite['title']}"
    notes = "\n".join(f"- {line}" for line in _notes(rows, records))
    return f"{title}\n\n{text}\n\n{notes}\n"


def _latex(rows: pd.DataFrame, records: Sequence[Record]) -> str:
    table = _page(rows, records[0].epsilon)
    styler = table.style.hide(axis="index").format(escape="latex")
    styler = styler.format_index(escape="latex", axis="columns")
    caption = " ".join(_notes(rows, records)).replace("`", "")
    for sign in "%_#":
        caption = caption.replace(sign, f"\\{sign}")
    text: str = styler.to_latex(hrules=True, caption=caption, column_format="l" + "r" * (table.shape[1] - 2) + "l")
    for sign, command in (
        ("±", r"$\pm$"),
        ("∞", r"$\infty$"),
        ("≤", r"$\leq$"),
        ("—", "--"),
        ("×", r"$\times$"),
    ):
        text = text.replace(sign, command)
    return text


def _page(rows: pd.DataFrame, epsilon: dict[Norm, float]) -> pd.DataFrame:
    """The columns of a page, as text."""
    page = pd.DataFrame({"method": rows["method"], "n": rows["n"].astype(str), "points": rows["points"].astype(str)})
    page["clean %"] = _cells(rows, "clean_accuracy", 100, 1)
    for kind in ("robust", "certified"):
        for norm in reversed(NORMS):
            header = f"{kind} % {NORM_TEXT[norm]} {epsilon[norm]:g}"
            page[header] = _cells(rows, f"{kind}_accuracy_{norm}", 100, 1)
    if rows["rejection_rate"].notna().any():
        for norm in reversed(NORMS):
            page[f"rejecting % {NORM_TEXT[norm]} {epsilon[norm]:g}"] = _cells(
                rows, f"rejection_robust_accuracy_{norm}", 100, 1
            )
    if rows["smoothed_radius_l2"].notna().any():
        page["smoothed %"] = _cells(rows, "smoothed_accuracy", 100, 1)
        page[f"smoothed certified % L2 {epsilon['l2']:g}"] = _cells(rows, "smoothed_certified_accuracy_l2", 100, 1)
        page["smoothed radius L2"] = _cells(rows, "smoothed_radius_l2", 1, 3)
    if rows["clever_l2"].notna().any():
        for norm in NORMS:
            page[f"CLEVER {NORM_TEXT[norm]}"] = _cells(rows, f"clever_{norm}", 1, 3)
    for norm in NORMS:
        lower, upper = (_cells(rows, f"margin_{end}_{norm}", 1, 3) for end in ("lower", "upper"))
        page[f"margin {NORM_TEXT[norm]}"] = [f"[{a}, {b}]" for a, b in zip(lower, upper, strict=True)]
    page["cost"] = _cells(rows, "cost", 1, 2)
    failed = [f"FAILED {n}x: {e}" if n else "" for n, e in zip(rows["failed"], rows["error"], strict=True)]
    page["doubts"] = ["; ".join(filter(None, pair)) or "none" for pair in zip(rows["doubts"], failed, strict=True)]
    page.loc[rows["n"] == 0, [c for c in page.columns if c not in ("method", "n", "points", "doubts")]] = "—"
    return page


def _cells(rows: pd.DataFrame, column: str, factor: float, digits: int) -> list[str]:
    return [
        _cell(mean * factor, None if pd.isna(half) else half * factor, digits)
        for mean, half in zip(rows[column], rows[f"{column}_ci95"], strict=True)
    ]


def _cell(mean: float, half: float | None, digits: int) -> str:
    if math.isnan(mean):
        return "—"
    if math.isinf(mean):
        return "∞"
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def _align(table: pd.DataFrame) -> list[str]:
    return ["left", *["right"] * (table.shape[1] - 2), "left"]


def _notes(rows: pd.DataFrame, records: Sequence[Record]) -> Iterable[str]:
    epsilon = records[0].epsilon
    first = records[0].environment
    radii = ", ".join(f"{epsilon[norm]:g} in {NORM_TEXT[norm]}" for norm in reversed(NORMS))
    yield (
        "n = networks (seeds), each measured on `points` test images; mean ± half of Student's 95 % interval"
        f" from n = 3 on. Radii in pixels of [0, 1]: {radii}."
    )
    yield (
        "margin = [mean certified radius, mean distance of the nearest adversarial example found] over all points,"
        " 0 for a misclassified one. cost = training time relative to the median of ce on the same machine."
    )
    if rows["rejection_rate"].notna().any():
        share = records[0].suite["evaluation"]["rejection"]["tpr"]
        yield (
            f"rejecting = robust % where images of low confidence may be refused (threshold: {share:.0%} of the correct"
            " held-out images pass), against an attack that seeks confidence in a wrong class."
        )
    if rows["clever_l2"].notna().any():
        yield (
            "CLEVER = mean estimate of the margin from sampled gradients, on the first"
            f" {records[0].suite['evaluation']['clever']['points']} points: no bound, from neither side."
        )
    if rows["smoothed_radius_l2"].notna().any():
        noise = records[0].suite["evaluation"]["smoothing"]
        ceiling = radius_ceiling(noise["sigma"], noise["n"], noise["alpha"])
        yield (
            "smoothed = of another classifier, the vote of the network over images with Gaussian noise (sigma"
            f" {noise['sigma']:g}): accuracy, certified accuracy and mean radius, each radius wrong with probability"
            f" {noise['alpha']:g} at most; {noise['n']} votes cannot certify beyond {ceiling:.3f}."
        )
    missing: dict[str, list[str]] = defaultdict(list)
    for record in records:
        for name, entry in record.estimators.items():
            if "not_applicable" in entry and not name.startswith("own_"):
                missing[f"{name}: {entry['not_applicable']}"].append(record.method)
    for reason, methods in sorted(missing.items()):
        yield f"Not applicable to {', '.join(dict.fromkeys(methods))}: {reason}."
    yield from _solved(rows, records)
    for norm in NORMS:
        column = rows[f"unattacked_{norm}"]
        if (column > 0).any():
            shares = ", ".join(f"{m} {s:.1%}" for m, s in zip(rows["method"], column, strict=True) if s > 0)
            yield f"Correct points that no {NORM_TEXT[norm]} attack could move: {shares}."
    for name in sorted({name for record in records for name in record.doubts}):
        yield f"{name}: {explanation(name)}"
    dates = sorted(record.finished[:10] for record in records)
    versions = ", ".join(f"{name} {number}" for name, number in first["versions"].items() if number)
    period = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    commits = ", ".join(sorted({str(record.environment["commit"]) for record in records}))
    yield f"{period}, {first['device']}, {first['processor']}, {first['cores']} cores; {versions}; commit {commits}."


def _solved(rows: pd.DataFrame, records: Sequence[Record]) -> Iterator[str]:
    """How many points the certificates that also look for adversarial images have solved."""
    counts: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for record in newest_versions(records):
        for name, entry in record.estimators.items():
            if "solved" in entry:
                solved, points = counts[name].get(record.method, (0, 0))
                counts[name][record.method] = solved + entry["solved"], points + entry["points"]
    for name, of in sorted(counts.items()):
        estimator, norm = name.rsplit("_", 1)
        shares = ", ".join("{} {} of {}".format(m, *of[m]) for m in dict.fromkeys(rows["method"]) if m in of)
        yield (
            f"Exact margins ({estimator}, {NORM_TEXT[norm]}), correct points solved: {shares}."
            " The others count with the interval that was left."
        )
