"""How figures look: light and dark, in colours that colour-blind readers can tell apart, at the width of a column.

Specifications name no colours of their own: these come from the configuration, so that a page may switch themes.
"""

from typing import Any

PIXELS_PER_MM = 96 / 25.4  # of CSS and SVG
COLUMN_MM = 84.0  # of a paper in two columns
FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"
# Okabe and Ito's colours (Color Universal Design, 2008) where they can be seen on the page, and others that differ from
# them and from each other under each kind of colour blindness
LIGHT = (
    "#0072b2", "#d55e00", "#009e73", "#a8437f", "#4f2d17", "#9806f9", "#03037c", "#d951fb", "#63033d", "#70757d"
)  # fmt: skip
DARK = (
    "#56b4e9", "#e8843c", "#2fc79a", "#dd91bd", "#f0e442", "#8a4dfa", "#227f70", "#affc9c", "#8383fc", "#c3c8ce"
)  # fmt: skip


def config(dark: bool = False) -> dict[str, Any]:
    """The configuration of Vega-Lite for one theme.

    Marks that stand for rows that nobody has picked have the style `other`, rulers `ruler`, texts `label`.
    """
    ink, soft, faint, grid, paper = (
        ("#e6e8eb", "#a9b0b8", "#596069", "#31363d", "#16191d")
        if dark
        else ("#1b1f24", "#4d5660", "#b3bac2", "#e6e9ec", "#ffffff")
    )
    text = {"font": FONT, "fontSize": 10.5}
    words = {
        "labelFont": FONT,
        "titleFont": FONT,
        "labelFontSize": 10,
        "titleFontSize": 10.5,
        "titleFontWeight": "normal",
    }
    return {
        "background": paper,
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            **words,
            "labelColor": soft,
            "titleColor": ink,
            "domainColor": faint,
            "tickColor": faint,
            "gridColor": grid,
            "tickCount": 5,
            "labelLimit": 130,
        },
        "legend": {
            **words,
            "labelColor": ink,
            "titleColor": ink,
            "orient": "top",
            "symbolStrokeWidth": 2,
            "symbolSize": 50,
            "labelLimit": 130,
            "columnPadding": 8,
            "rowPadding": 1,
            "offset": 4,
        },
        "title": {
            "font": FONT,
            "fontSize": 11.5,
            "fontWeight": "bold",
            "color": ink,
            "anchor": "start",
            "frame": "bounds",
            "subtitleFont": FONT,
            "subtitleFontSize": 10,
            "subtitleColor": soft,
            "offset": 6,
        },
        "range": {
            "category": list(DARK if dark else LIGHT),
            "diverging": ["#94420f", paper, "#185e8a"] if dark else ["#e58a4f", paper, "#4fa3d6"],
        },
        "text": text,
        "style": {
            "other": {"color": faint},
            "ruler": {"color": soft, "strokeDash": [2, 2], "strokeWidth": 1},
            "label": {**text, "color": ink},
            "soft_label": {**text, "fontSize": 10, "color": soft},
            "halo": {**text, "fontSize": 10, "color": paper, "stroke": paper, "strokeWidth": 3, "strokeJoin": "round"},
            "ink": {"color": ink},
            "soft": {"color": soft},
        },
    }
