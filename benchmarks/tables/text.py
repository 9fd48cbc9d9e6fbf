"""Tables as Markdown, LaTeX and HTML."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape

from marginbench.benchmarks.tables.cells import Cell, PageColumn, Side, Span, aligned, spaced

LONG = 35  # rows; those of more are set small, so that some sixty fit a page
WIDE, WIDE_SMALL = 65, 85  # characters; LaTeX scales a table of more to the width of the line

_SIGNS = {
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "≤": r"$\leq$",
    "—": "--",
    "–": "--",
    "×": r"$\times$",
    "ε": r"$\varepsilon$",
}
_ESCAPED = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "~": r"\textasciitilde ",
        "^": r"\textasciicircum ",
        "\\": r"\textbackslash ",
        "[": "{[}",  # after a line break, LaTeX would read it as an option
        "<": r"\textless ",
        ">": r"\textgreater ",
        "|": r"\textbar ",
    }
)
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap; }
th.left, td.left { text-align: left; }
thead th { border-bottom: 2px solid; vertical-align: bottom; white-space: normal; }
tbody tr { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
tbody td.left:last-child { white-space: normal; min-width: 12rem; }
"""


def escaped(cell: str) -> str:
    """A cell that does not end at a | of its own."""
    return cell.replace("|", r"\|")


def pipe(header: Sequence[str], rows: Sequence[Sequence[str]], sides: Sequence[Side]) -> str:
    """A Markdown table with columns of even width."""
    lines = [list(map(escaped, line)) for line in (header, *rows)]
    widths = [max(2 + len(cells[0]), *map(len, cells)) for cells in zip(*lines, strict=True)]
    align = [f"{{:{'<' if side == 'left' else '>'}{width}}}" for width, side in zip(widths, sides, strict=True)]
    rules = ["-" * (width + 1) for width in widths]
    rule = "|".join(f":{dashes}" if side == "left" else f"{dashes}:" for dashes, side in zip(rules, sides, strict=True))
    form = f"| {' | '.join(align)} |".format
    head, *body = (form(*line) for line in lines)
    return "\n".join([head, f"|{rule}|", *body])


def markdown(table: Sequence[PageColumn]) -> str:
    """A board as a Markdown table, what is best in bold, letters below each other."""
    bold = [replace(column, cells=aligned([tuple(map(_bold, cell)) for cell in column.cells])) for column in table]
    return pipe(*_lines(bold, spaced))


def _bold(span: Span) -> Span:
    return Span(f"**{span.text}**") if span.role == "best" else span


def latex(table: Sequence[PageColumn], caption: str, label: str, comments: Sequence[str]) -> str:
    r"""A board as a LaTeX table, with the rules of the package booktabs; letters are superscripts.

    Args:
        comments: for whoever edits the file; nothing of them is printed.
    """
    header, rows, sides = _lines(table, _latex_span)
    head, *body = (" & ".join(line) + r" \\" for line in ([_latex(name) for name in header], *rows))
    tabular = "\n".join(
        [
            rf"\begin{{tabular}}{{{''.join(side[0] for side in sides)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )
    long = len(body) > LONG
    wide = sum(map(_latex_width, table)) > (WIDE_SMALL if long else WIDE)
    packages = "booktabs,graphicx" if wide else "booktabs"
    lines = [
        *(f"% {' '.join(comment.split())}" for comment in (rf"\usepackage{{{packages}}}", *comments)),
        r"\begin{table}",
        r"\centering",
        *([r"\scriptsize\renewcommand{\arraystretch}{0.9}"] if long else []),
        rf"\caption{{{_latex(caption.replace('`', ''))}}}",
        rf"\label{{tab:{label}}}",
        rf"\resizebox{{\linewidth}}{{!}}{{{tabular}}}" if wide else tabular,
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def html_page(title: str, sections: Sequence[str]) -> str:
    """One file, without scripts, that loads nothing."""
    body = "\n".join(sections)
    head = (
        f'<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>'
    )
    return f'<!doctype html>\n<html lang="en">\n{head}\n<style>{_STYLE}</style>\n<body>\n{body}\n</body>\n</html>\n'


def html_table(title: str, table: Sequence[PageColumn], notes: Sequence[str]) -> str:
    """A board as a section of a page: heading, table, notes."""
    header, rows, sides = _lines(table, _html_span)

    def line(tag: str, cells: Sequence[str]) -> str:
        left = (f'<{tag} class="left">' if side == "left" else f"<{tag}>" for side in sides)
        return "<tr>" + "".join(f"{start}{cell}</{tag}>" for start, cell in zip(left, cells, strict=True)) + "</tr>"

    head = line("th", list(map(escape, header))).replace("<th", '<th scope="col"')
    body = "\n".join(line("td", row) for row in rows)
    listed = "\n".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        f'<h2>{escape(title)}</h2>\n<div class="wide" tabindex="0">\n<table>\n<thead>{head}</thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>\n</div>\n<ul>\n{listed}\n</ul>"
    )


def _lines(
    table: Sequence[PageColumn], write: Callable[[Span], str]
) -> tuple[list[str], list[tuple[str, ...]], list[Side]]:
    """Header, rows and sides."""

    def joined(cell: Cell) -> str:
        return "".join(map(write, cell))

    rows = zip(*(map(joined, column.cells) for column in table), strict=True)
    return [column.header for column in table], list(rows), [column.side for column in table]


def _latex(text: str) -> str:
    text = text.translate(_ESCAPED)
    for sign, command in _SIGNS.items():
        text = text.replace(sign, command)
    return text


def _latex_width(column: PageColumn) -> int:
    """In characters, with the space beside it."""
    cells = (sum(len(span.text) for span in cell if span.role not in ("error", "letters")) for cell in column.cells)
    return max(len(column.header), *cells) + 2


def _latex_span(span: Span) -> str:
    if span.role == "error":  # too long for a table of LaTeX; it stands in the comments
        return ""
    form = {"best": r"\textbf{{{}}}", "letters": r"\textsuperscript{{{}}}"}.get(span.role, "{}")
    return form.format(_latex(span.text))


def _html_span(span: Span) -> str:
    form = {"best": "<strong>{}</strong>", "letters": " <sup>{}</sup>"}.get(span.role, "{}")
    return form.format(escape(span.text))
