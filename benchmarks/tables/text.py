"""Tables of text as Markdown and LaTeX."""

from collections.abc import Sequence
from typing import Literal

Side = Literal["left", "right"]

_SIGNS = {"±": r"$\pm$", "∞": r"$\infty$", "≤": r"$\leq$", "—": "--", "×": r"$\times$"}
_ESCAPED = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "~": r"\textasciitilde ",
        "^": r"\textasciicircum ",
        "\\": r"\textbackslash ",
    }
)


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


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], sides: Sequence[Side], caption: str) -> str:
    """A LaTeX table with rules of the package booktabs."""
    head, *lines = (" & ".join(cell.translate(_ESCAPED) for cell in line) + r" \\" for line in (header, *rows))
    caption = caption.replace("`", "").translate(_ESCAPED)
    text = "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{{''.join(side[0] for side in sides)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
    for sign, command in _SIGNS.items():
        text = text.replace(sign, command)
    return text
