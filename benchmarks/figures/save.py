"""A figure as a file. Nothing is fetched from a network, and no browser is needed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marginbench.benchmarks.machine.files import write_atomically
from marginbench.methods.errors import ParameterError

PRINT_DPI = 300
CSS_DPI = 96
POINTS = 72 / CSS_DPI  # of a PDF in a pixel of CSS


def save(chart: Any, path: str | Path) -> None:
    """Write a chart as .svg, .pdf, .png (300 dpi), .html (with its scripts inside) or .json (the specification).

    Raises:
        ParameterError: the name ends otherwise.
        UnwritableError: the file cannot be written.
    """
    path = Path(path).expanduser()
    write_atomically(path, writer(path)(chart))


def writer(path: str | Path) -> "Callable[[Any], bytes]":
    """What makes the content of a file of this name.

    Raises:
        ParameterError: the name ends in something else.
    """
    form = Path(path).suffix.lower()
    if form not in FORMS:
        raise ParameterError("output", str(path), f"should end in {', '.join(FORMS)}")
    return FORMS[form]


def svg(chart: Any) -> str:
    """The text of the SVG."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(chart.to_dict()))


def _svg(chart: Any) -> bytes:
    return svg(chart).encode()


def _pdf(chart: Any) -> bytes:
    import vl_convert

    return bytes(vl_convert.svg_to_pdf(_in_points(svg(chart))))


def _in_points(text: str) -> str:
    """An SVG whose size is that in points: a PDF takes pixels for points."""

    def scaled(size: re.Match[str]) -> str:
        return f'{size[1]}="{POINTS * float(size[2]):g}"'

    head, end, rest = text.partition(">")
    return re.sub(r'\b(width|height)="([\d.]+)"', scaled, head) + end + rest


def _png(chart: Any) -> bytes:
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(chart.to_dict(), scale=POINTS, ppi=PRINT_DPI))


def _html(chart: Any) -> bytes:
    return str(chart.to_html(inline=True)).encode()


def _json(chart: Any) -> bytes:
    return (json.dumps(chart.to_dict(), ensure_ascii=False) + "\n").encode()


FORMS: dict[str, Callable[[Any], bytes]] = {".svg": _svg, ".pdf": _pdf, ".png": _png, ".html": _html, ".json": _json}
