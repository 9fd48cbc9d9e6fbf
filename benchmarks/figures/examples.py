"""Adversarial examples next to their originals, with the difference magnified."""

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marginbench.benchmarks.figures.figure import figure
from marginbench.benchmarks.figures.kept import Kept, common_seed
from marginbench.benchmarks.figures.layers import LINE, inline, layered, titled
from marginbench.benchmarks.figures.rows import rows_of
from marginbench.benchmarks.records.column import NORM_TEXT
from marginbench.benchmarks.records.record import Record
from marginbench.methods import MarginbenchError, Norm
from marginbench.methods.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

PIXELS = 64  # of a picture at least: enlarged by whole numbers, so that pixels stay sharp
ATTACK = "fmn"  # where a suite has no attack that looks for the shortest distance
PICTURE_GAP, FRAME_HEIGHT = 6, 30  # pixels: between pictures, of the title

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One image, the nearest adversarial example that was found now, and their difference."""

    place: int  # in the arrays of the record
    label: int
    predicted: int  # class of the adversarial example
    distance: float  # pixels of [0, 1]; infinite where none was found
    magnified: float  # factor by which the difference is shown; grey means none
    original: str  # this and the next: PNG as a data URI
    adversarial: str
    difference: str


def examples(kept: Kept, record: Record, norm: Norm = "linf", places: Sequence[int] | None = None) -> list[Example]:
    """Adversarial examples of a network, by the minimum-norm attacks of its suite.

    Args:
        places: in the arrays of the record. Default: four, see `typical`.

    Raises:
        MarginbenchError: the network was not kept, or the data are missing.
    """
    places = typical(kept, [record], norm) if places is None else list(places)
    net = kept.net(record)
    x, y = kept.images(record, places)
    found, distance = _nearest(kept, net, x, y, norm)
    predicted = _predicted(net, found)
    out = []
    for i, place in enumerate(places):
        delta = (found[i] - x[i]).numpy()
        factor = float(f"{0.5 / max(float(np.abs(delta).max()), 1e-9):.2g}")
        out.append(
            Example(
                place,
                int(y[i]),
                int(predicted[i]),
                float(distance[i]),
                factor,
                png(x[i].numpy()),
                png(found[i].numpy()),
                png(0.5 + factor * delta),
            )
        )
    return out


def typical(kept: Kept, records: Sequence[Record], norm: Norm, points: int = 4) -> list[int]:
    """Places of images that all these networks classify correctly, from small to large margins of the first one."""
    arrays = [kept.rows.arrays(record) for record in records]
    correct = np.all([own["prediction"] == own["label"] for own in arrays], axis=0)
    places = np.flatnonzero(correct & np.isfinite(arrays[0][f"upper_{norm}"]))
    ordered = places[np.argsort(arrays[0][f"upper_{norm}"][places], kind="stable")]
    if not len(ordered):
        raise MarginbenchError(f"suite {kept.rows.suite}: no image that all of these rows classify correctly")
    chosen = np.unique(np.linspace(0.1, 0.9, points) * (len(ordered) - 1) // 1).astype(int)
    return [int(place) for place in ordered[chosen]]


@figure("networks")
def adversarial_examples(
    source: Any,
    *,
    suite: str | None = None,
    picked: Sequence[str] | None = None,
    norm: Norm = "linf",
    points: int = 4,
    data_dir: str | Path | None = None,
) -> Any:
    """Adversarial examples next to their originals, with their distances and the difference magnified.

    A line for each image, which all rows classify correctly; of each row the nearest adversarial example that the
    minimum-norm attacks of the suite find now, and what it changes: grey is no change. Networks are those of the first
    seed that all rows have.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: the rows. Default: the baseline, and the best by robust accuracy.
        norm: of the distance, l2 or linf.
        points: images, 1 to 12, from small to large margins of the first row.
        data_dir: folder of data sets. Default: see `data.dataset.data_folder`.

    Raises:
        ParameterError: another number of points.
        MarginbenchError: a network was not kept; the message says how to get it.
    """
    if not 1 <= points <= 12:
        raise ParameterError("points", points, "should be 1 to 12")
    rows = rows_of(source, suite)
    kept = Kept(rows, data_dir)
    records = common_seed(rows, rows.picked(picked, f"robust_accuracy_{norm}"))
    places = typical(kept, list(records.values()), norm, points)
    found = {name: examples(kept, record, norm, places) for name, record in records.items()}
    columns = 1 + 2 * len(found)
    side = 317 / columns - PICTURE_GAP
    title = f"{rows.suite}: nearest adversarial examples in {NORM_TEXT[norm]}"
    height = round(len(places) * (side + PICTURE_GAP + LINE) + LINE + FRAME_HEIGHT)
    subtitle = "Below each: class, and distance in pixels of [0, 1]."
    return titled(_chart(found, norm), title, subtitle, height=height)


def _chart(found: dict[str, list[Example]], norm: Norm) -> Any:
    import altair as alt

    pictures, heads = [], [{"x": 0, "text": "original"}]
    lines = len(next(iter(found.values())))
    for column, (row, own) in enumerate(found.items()):
        heads += [{"x": 2 * column + 1, "text": row}, {"x": 2 * column + 2, "text": "difference"}]
        for line, one in enumerate(own):
            at = {"row": row, "y": lines - line, "class": one.label, "distance": one.distance}
            if column == 0:
                pictures.append({"x": 0, **at, "url": one.original, "text": f"{one.label}"})
            found_text = f"{one.predicted}, {one.distance:.3g}" if np.isfinite(one.distance) else "none found"
            pictures.append({"x": 2 * column + 1, **at, "url": one.adversarial, "text": found_text})
            pictures.append({"x": 2 * column + 2, **at, "url": one.difference, "text": f"× {one.magnified:g}"})
    columns = 1 + 2 * len(found)
    data = alt.Chart(inline(pictures))
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.5, columns - 0.5], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[0.4, lines + 0.75], nice=False))
    side = alt.ExprRef(f"0.94 * min(width / {columns}, height / {lines + 0.35} - {LINE})")
    under = alt.ExprRef(f"0.47 * min(width / {columns}, height / {lines + 0.35} - {LINE}) + 2")
    tooltip = [
        alt.Tooltip("row:N"),
        alt.Tooltip("class:N"),
        alt.Tooltip("distance:Q", title=f"distance, {NORM_TEXT[norm]}", format=".3~g"),
    ]
    return layered(
        [
            data.mark_image(width=side, height=side).encode(x=x, y=y, url=alt.Url("url:N"), tooltip=tooltip),
            data.mark_text(style="soft_label", baseline="top", dy=under, fontSize=9).encode(
                x=x, y=y, text=alt.Text("text:N")
            ),
            alt.Chart(inline(heads)).mark_text(style="label", baseline="top", y=0).encode(x=x, text=alt.Text("text:N")),
        ]
    )


def _nearest(kept: Kept, net: Any, x: "Tensor", y: "Tensor", norm: Norm) -> "tuple[Tensor, Tensor]":
    """The nearest adversarial examples [n, C, H, W] of the suite's minimum-norm attacks, and their distances [n]."""
    import torch

    from marginbench.benchmarks.attacks.ray import tighten
    from marginbench.benchmarks.attacks.scan import configured_attacks
    from marginbench.benchmarks.estimator import Query

    settings = kept.suite.evaluation
    attacks = {name: attack for name, attack in configured_attacks(settings.attacks).items() if attack.minimum_norm}
    best, distance = x.clone(), torch.full((len(x),), torch.inf)
    net.requires_grad_(False)
    for attack in (attacks or configured_attacks({ATTACK: {}})).values():
        stream = torch.Generator().manual_seed(0)
        reference = kept.data.train.images(slice(2000))
        q = Query(net, x, y, norm, settings.epsilon[norm], reference, stream)
        candidate, length = tighten(net, x, attack.propose(q), y, norm)
        closer = length < distance
        best[closer], distance[closer] = candidate[closer], length[closer]
    return best, distance


def _predicted(net: Any, x: "Tensor") -> "Tensor":
    import torch

    from marginbench.methods import predicted_class

    with torch.no_grad():
        return predicted_class(net(x))


def png(image: np.ndarray) -> str:
    """An image [C, H, W] in [0, 1] as a data URI, at least 64 pixels wide; of other than three channels the mean."""
    from PIL import Image

    image = image if len(image) == 3 else image.mean(0, keepdims=True)
    levels = np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
    times = max(-(-PIXELS // levels.shape[2]), 1)
    large = levels.repeat(times, 1).repeat(times, 2)
    buffer = io.BytesIO()
    picture = Image.fromarray(large[0] if len(large) == 1 else large.transpose(1, 2, 0))
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
