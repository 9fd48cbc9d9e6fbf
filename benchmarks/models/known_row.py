"""A row of the table that is known: a model whose numbers follow from arithmetic, from the file of images to the cell.

With levels t of 255 by which half of the pixels leave a grey image, in directions s, the network computes

    z_0 = 0,  z_1 = GAIN / 255 sum_a s_a (255 x_a - GREY) = GAIN A t / 255,  A = 72 pixels,

so that an image t has the margins t / 255 in L-infinity and sqrt(A) t / 255 in L2. It does so by way of u = s_a x_a +
s_b x_b and v = s_a x_a - s_b x_b, pixel b being of no effect: intervals of u and v, which know nothing of each other,
certify a half of the margin in L-infinity, and 1 / sqrt(2 A) of it in L2. No two numbers of the row are equal.
"""

import csv
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import nn

from marginbench.benchmarks.certificates.scan import install_advice
from marginbench.benchmarks.evaluation.doctor import Result
from marginbench.benchmarks.evaluation.evidence import is_users
from marginbench.benchmarks.models.evaluate import evaluate_model
from marginbench.benchmarks.models.known_numbers import examine_numbers, known
from marginbench.methods import NORMS, Norm

HEIGHT, WIDTH, CHANNELS = 6, 8, 3
PIXELS = HEIGHT * WIDTH * CHANNELS
ACTIVE = PIXELS // 2  # A
GREY = 128
GAIN = 3.0
LEVELS = np.arange(5, 105, 5)  # t of the test images
WRONG = (2, 7, 9, 14, 18)  # test images that bear the other label
HELD_OUT = 54  # t of all training images
EPSILON: dict[Norm, float] = {"linf": 26 / 255, "l2": 6.5 * math.sqrt(ACTIVE) / 255}  # between two levels
MEAN, STD = [0.3, 0.4, 0.5], [0.2, 0.25, 0.4]  # of the normalisation, by channel
RADIUS: dict[Norm, float] = {"linf": 0.2, "l2": 1.5}  # of CLEVER: some margins are longer
SIGMA, N0, N, ALPHA = 0.5, 101, 1000, 0.001  # of smoothing; N0 is odd: no ties
BIAS = 20.0  # keeps the ReLUs on, with noise too
SUITE = f"""
name = "known"
title = "a row that is known"
seeds = 1
data = {{ name = "known.npz", validation = 10 }}
network = {{ name = "linear" }}
training = {{ epochs = 1, batch_size = 10, learning_rate = 1e-3 }}

[evaluation]
points = {len(LEVELS)}
epsilon = {{ linf = {EPSILON["linf"]!r}, l2 = {EPSILON["l2"]!r} }}
attacks = "quick"
certificates = {{ ibp = {{}} }}
rejection = {{ tpr = 0.95, steps = 10 }}
smoothing = {{ sigma = {SIGMA}, n0 = {N0}, n = {N}, alpha = {ALPHA} }}

[evaluation.clever]
radius = {{ linf = {RADIUS["linf"]}, l2 = {RADIUS["l2"]} }}
points = {len(LEVELS)}
batches = 4
samples = 8
rivals = 1
"""
Known = tuple[float, float]  # what a cell holds at least, and at most


def examine_row(device: torch.device) -> Iterator[Result]:
    """Evaluate the model in a temporary folder and compare the cells of the leaderboard, as csv and as a page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        signs = _write_data(folder)
        (folder / "known.toml").write_text(SUITE)
        model = _model(signs)
        suite, out = folder / "known.toml", folder / "out"
        evaluate_model(
            model, suite=suite, name="known_row", out=out, mean=MEAN, std=STD, device=device.type, data_dir=folder
        )
        with (out / "known" / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
            (row,) = csv.DictReader(file)
        page = (out / "known" / "leaderboard.md").read_text(encoding="utf-8")
    wanted = expected()
    if install_advice(["ibp"]) is not None:  # nothing certifies here
        wanted = {name: cell for name, cell in wanted.items() if not name.startswith(("certified", "margin_lower"))}
    for cell, (least, most) in wanted.items():
        found = float(row[cell] or "nan")
        yield known(cell, f"{found:.5g}", least <= found <= most, f"{least:.5g} to {most:.5g}")
    doubts = ", ".join(seen for seen in row["doubts"].split(", ") if not is_users(seen.partition(" ")[0]))
    for cell, text in (("doubts", doubts), ("error", row["error"])):
        if text:
            yield known(cell, text, False, "nothing")
    yield from _page(page, wanted)
    yield from examine_numbers()


def expected() -> dict[str, Known]:
    """The cells by name of the column. Attacks may be 0.1 % too long, certified radii 2 % too short."""
    correct = ~np.isin(np.arange(len(LEVELS)), WRONG)
    signed = np.where(correct, LEVELS, -LEVELS) / 255
    pixel: dict[Norm, float] = {"linf": 1.0, "l2": math.sqrt(ACTIVE)}  # the margin for t = 255
    loose: dict[Norm, float] = {"linf": 1 / 2, "l2": 1 / math.sqrt(2 * ACTIVE)}  # of it, by intervals
    margin = {norm: np.where(correct, pixel[norm] * signed, 0.0) for norm in NORMS}
    out = {"n": 1.0, "failed": 0.0, "points": float(len(LEVELS)), "clean_accuracy": float(correct.mean())}
    out["output_margin"] = float(GAIN * ACTIVE * signed.mean())
    accepted = LEVELS > HELD_OUT
    out["rejection_rate"] = float(1 - accepted.mean())
    out["rejection_accuracy"] = float((correct & accepted).sum() / accepted.sum())
    for norm in NORMS:
        epsilon = EPSILON[norm] / pixel[norm]  # in levels of 255, as t
        out[f"robust_accuracy_{norm}"] = float((signed > epsilon).mean())
        out[f"certified_accuracy_{norm}"] = float((loose[norm] * signed > epsilon).mean())
        out[f"unattacked_{norm}"] = 0.0
        out[f"clever_{norm}"] = float(np.minimum(margin[norm], RADIUS[norm]).mean())
        fooled = epsilon - signed > HELD_OUT / 255  # confidence of the wrong class at the far end of the ball
        asked = accepted | fooled
        out[f"rejection_robust_accuracy_{norm}"] = float(1 - ((~correct & accepted) | fooled).sum() / asked.sum())
    cells: dict[str, Known] = {name: (v - 1e-4 * abs(v), v + 1e-4 * abs(v)) for name, v in out.items()}
    for norm in NORMS:
        mean = float(margin[norm].mean())
        cells[f"margin_upper_{norm}"] = mean * (1 - 1e-5), mean * 1.001
        cells[f"margin_lower_{norm}"] = loose[norm] * mean * 0.98, loose[norm] * mean * (1 + 1e-5)
    return cells | _smoothed(correct)


def _smoothed(correct: np.ndarray) -> dict[str, Known]:
    """Means over the noise, 5 standard deviations wide.

    A noisy copy of an image with the L2 margin m gets its class with probability Phi(m / SIGMA), so that the number of
    votes is binomial, and each number of votes has its radius (Cohen et al., ICML 2019, section 3.2.2).
    """
    votes = np.arange(N + 1)
    bound = np.concatenate([[0.0], stats.beta.ppf(ALPHA, votes[1:], N - votes[1:] + 1)])
    radius = SIGMA * stats.norm.ppf(np.maximum(bound, 0.5))  # [N + 1]
    chance = np.asarray(stats.norm.cdf(math.sqrt(ACTIVE) * LEVELS / 255 / SIGMA))  # [points]
    selected = np.asarray(stats.binom.sf(N0 // 2, N0, chance))
    numbers = stats.binom.pmf(votes, N, chance[:, None]) * selected[:, None]
    of_the_others = 1 - numbers.sum(1)  # a rare wrong class wins the first vote, and loses the second one
    values = {
        "smoothed_accuracy": (radius > 0) * 1.0,
        "smoothed_certified_accuracy_l2": (radius >= EPSILON["l2"]) * 1.0,
        "smoothed_radius_l2": radius,
        "smoothed_abstention": (radius == 0) * 1.0,
    }
    cells: dict[str, Known] = {}
    for name, value in values.items():
        abstention = name == "smoothed_abstention"
        mean, square = numbers @ value + abstention * of_the_others, numbers @ value**2 + abstention * of_the_others
        counted = np.ones_like(correct) if abstention else correct
        middle = float((counted * mean).mean())
        width = 5 * math.sqrt(float((counted * (square - mean**2)).sum())) / len(correct)
        cells[name] = middle - width - 1e-6, middle + width + 1e-6
    return cells


def _page(page: str, wanted: dict[str, Known]) -> Iterator[Result]:
    """The page shows the numbers of the csv, rounded, under the right heads, and margins as [lower, upper]."""
    lines = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in page.splitlines() if "|" in line]
    head = next((line for line in lines if "method" in line), [])
    body = next((line for line in lines if "known_row" in line), [])
    shown = dict(zip(head, body, strict=False))
    text: dict[Norm, str] = {"linf": "L∞", "l2": "L2"}
    heads: dict[str, tuple[str, ...]] = {"clean %": ("clean_accuracy",)}
    for norm in NORMS:
        for kind in ("robust", "certified"):
            heads[f"{kind} % {text[norm]} {EPSILON[norm]:g}"] = (f"{kind}_accuracy_{norm}",)
        heads[f"margin {text[norm]}"] = (f"margin_lower_{norm}", f"margin_upper_{norm}")
    for name, columns in heads.items():
        cells = [column for column in columns if column in wanted]
        if not cells:
            continue
        cell = shown.get(name, "no such column")
        numbers = re.findall(r"[\d.]+", cell)
        factor, rounding = (100, 0.051) if "%" in name else (1, 0.00051)
        ranges = [
            (factor * least - rounding, factor * most + rounding) for least, most in map(wanted.__getitem__, cells)
        ]
        right = len(numbers) == len(ranges) and all(
            least <= float(number) <= most for number, (least, most) in zip(numbers, ranges, strict=True)
        )
        yield known(f"page, {name}", cell, right, ", ".join(f"{least:.4g} to {most:.4g}" for least, most in ranges))


def _write_data(folder: Path) -> np.ndarray:
    """known.npz, with images N x H x W x C; returns s in that order, flat, with 0 where a pixel has no effect."""
    stream = np.random.default_rng(0)
    signs = np.where(stream.permutation(PIXELS) < ACTIVE, stream.choice([-1, 1], PIXELS), 0)

    def images(levels: np.ndarray) -> np.ndarray:
        moved = GREY + levels[:, None] * signs
        x = np.where(signs == 0, stream.integers(60, 196, moved.shape), moved)
        return x.reshape(-1, HEIGHT, WIDTH, CHANNELS).astype(np.uint8)

    classes = np.arange(len(LEVELS)) % 2
    held_out = np.arange(40) % 2
    np.savez(
        folder / "known.npz",
        x_train=images(HELD_OUT * (2 * held_out - 1)),
        y_train=held_out,
        x_test=images(LEVELS * (2 * classes - 1)),
        y_test=np.where(np.isin(np.arange(len(LEVELS)), WRONG), 1 - classes, classes),
    )
    return signs


def _model(signs: np.ndarray) -> nn.Sequential:
    """The network, for normalised images N x C x H x W."""
    ordered = torch.from_numpy(signs.reshape(HEIGHT, WIDTH, CHANNELS).transpose(2, 0, 1).reshape(-1)).double()
    mean, std = (torch.tensor(values).double().repeat_interleave(HEIGHT * WIDTH) for values in (MEAN, STD))
    active, idle = ordered.nonzero()[:, 0], (ordered == 0).nonzero()[:, 0]
    rows = torch.zeros(2, ACTIVE, PIXELS, dtype=torch.float64)
    rows[:, torch.arange(ACTIVE), active] = ordered[active]
    rows[:, torch.arange(ACTIVE), idle] = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    weight = rows.flatten(0, 1)
    first, head = nn.Linear(PIXELS, 2 * ACTIVE), nn.Linear(2 * ACTIVE, 2)
    with torch.no_grad():
        first.weight.copy_(weight * std)
        first.bias.copy_(weight @ mean + BIAS)
        head.weight.copy_(torch.tensor([[0.0], [GAIN / 2]]).expand(2, 2 * ACTIVE))
        at_grey = GREY / 255 * float(ordered.sum()) + 2 * ACTIVE * BIAS / 2
        head.bias.copy_(torch.tensor([0.0, -GAIN * at_grey]))
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), head)
