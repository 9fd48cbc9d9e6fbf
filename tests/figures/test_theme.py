"""Colours: they can be seen on their page, and told apart by colour-blind readers."""

import itertools

import numpy as np
import pytest

from marginbench.benchmarks.figures.theme import DARK, LIGHT, config

FIRST = 8  # colours that lines of a figure have; ten are for classes, which are named as well
# of linear sRGB, severity 1.0: Machado, Oliveira and Fernandes, IEEE Trans. Vis. Comput. Graph. 15(6), 2009, table 1
BLINDNESS = {
    "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    levels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear sRGB."""
    ratio = XYZ @ rgb / XYZ.sum(1)
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(a: str, b: str) -> float:
    """As WCAG has it."""
    dark, light = sorted(float(XYZ[1] @ linear(colour)) for colour in (a, b))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_seen_on_their_page(dark: bool) -> None:
    theme = config(dark)
    paper = theme["background"]
    assert all(contrast(colour, paper) >= 3 for colour in theme["range"]["category"])
    texts = [theme["axis"]["labelColor"], theme["axis"]["titleColor"], theme["title"]["subtitleColor"]]
    texts += [theme["style"][name]["color"] for name in ("label", "soft_label")]
    assert all(contrast(colour, paper) >= 4.5 for colour in texts)
    assert all(contrast(colour, theme["style"]["label"]["color"]) >= 4.5 for colour in theme["range"]["diverging"])


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_lines_are_told_apart_by_colour_blind_readers(palette: tuple[str, ...], blindness: str) -> None:
    seen = [lab(np.clip(np.array(BLINDNESS[blindness]) @ linear(colour), 0, 1)) for colour in palette[:FIRST]]
    nearest = min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))
    assert nearest > 10  # 2.3 can just be noticed
