"""Maps of penultimate features: how a method arranges the classes, beside the baseline."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marginbench.benchmarks.figures.figure import figure
from marginbench.benchmarks.figures.kept import Kept, common_seed
from marginbench.benchmarks.figures.layers import inline, layered, titled
from marginbench.benchmarks.figures.rows import rows_of
from marginbench.benchmarks.records.column import NORM_TEXT
from marginbench.methods import Norm

POINTS = 500  # of a map
CLASSES = 10  # of a map; where there are more, as many as in the paper
OF_MANY = 5
GAP = 0.08  # between maps, whose sides are 1
SIDE, FRAME_HEIGHT = 150, 38  # pixels: of a map in a column, of title and subtitle


@figure("networks")
def feature_map(
    source: Any,
    *,
    suite: str | None = None,
    picked: Sequence[str] | None = None,
    norm: Norm = "l2",
    data_dir: str | Path | None = None,
) -> Any:
    """Penultimate features in two dimensions (t-SNE), rows side by side; larger points have a larger margin.

    As figures 2 and 3 of Weinstein et al. (PMM): a map for each row, colours are classes, five of them where there are
    more than ten. The area of a point grows with the distance of its nearest adversarial example; crosses are
    misclassified. Scale and distances between clusters mean nothing in such maps. The networks are those of the first
    seed that all rows have; t-SNE starts from the first two principal components with a fixed seed, on at most
    500 of the evaluated images.

    Args:
        source: see `rows_of`.
        suite: see `rows_of`.
        picked: the rows. Default: the baseline, and the best by robust accuracy.
        norm: of the margins, l2 or linf.
        data_dir: folder of data sets. Default: see `data.dataset.data_folder`.

    Raises:
        MarginbenchError: a network was not kept; the message says how to get it.
    """
    rows = rows_of(source, suite)
    kept = Kept(rows, data_dir)
    names = rows.picked(picked, f"robust_accuracy_{norm}")
    records = common_seed(rows, names)
    nets = {name: kept.net(record) for name, record in records.items()}  # before any work: they may be missing
    shown = _places(rows.arrays(next(iter(records.values())))["label"])
    values, texts = [], []
    for i, (name, record) in enumerate(records.items()):
        x, y = _corner(i, len(names))
        xy = embed(_features(nets[name], kept, record, shown)) + np.array([x, y])
        arrays = rows.arrays(record)
        label, prediction = (arrays[key][shown] for key in ("label", "prediction"))
        wrong = prediction != label
        points = {"x": xy[:, 0], "y": xy[:, 1], "class": label, "wrong": wrong.astype(int)}
        values.append({"row": name, **points, "margin": np.where(wrong, 0, _finite(arrays[f"upper_{norm}"])[shown])})
        texts.append({"text": name, "x": x, "y": y + 1})
        middles = {int(one): np.median(xy[label == one], 0) for one in np.unique(label)}
        texts += [{"class": one, "x": float(at[0]), "y": float(at[1])} for one, at in middles.items()]
    chart = _chart(values, texts, NORM_TEXT[norm])
    across, down = _shape(len(names))
    height = round(SIDE * down * 2 / across) + FRAME_HEIGHT
    subtitle = f"Size: distance of the nearest adversarial example, {NORM_TEXT[norm]}. Crosses: misclassified."
    return titled(chart, f"{rows.suite}: penultimate features, t-SNE", subtitle, height=height)


def embed(features: np.ndarray) -> np.ndarray:
    """t-SNE of features [n, d] to [n, 2], in a square of side 1."""
    from sklearn.manifold import TSNE

    n = len(features)
    centred = features - features.mean(0)
    largest = float(np.abs(centred).max())
    if largest == 0 or min(centred.shape) < 2:
        return np.full((n, 2), 0.5)
    found = TSNE(2, perplexity=min(30.0, (n - 1) / 3), init="pca", random_state=0).fit_transform(centred / largest)
    low, high = found.min(0), found.max(0)
    return np.asarray((found - low) / np.maximum(high - low, 1e-9))


def _places(label: np.ndarray) -> np.ndarray:
    """Which evaluated images are shown: of ten classes or fewer, else of five, drawn with a fixed seed."""
    classes = np.unique(label)
    if len(classes) > CLASSES:
        classes = np.random.default_rng(0).choice(classes, OF_MANY, replace=False)
    found = np.flatnonzero(np.isin(label, classes))
    step = max(math.ceil(len(found) / POINTS), 1)
    return np.asarray(found[::step])


def _features(net: Any, kept: Kept, record: Any, places: np.ndarray) -> np.ndarray:
    import torch

    images, _ = kept.images(record, list(places))
    with torch.no_grad():
        parts = [net.features(part) for part in images.split(100)]
    return np.asarray(torch.cat(parts).flatten(1).double().cpu().numpy())


def _finite(distances: np.ndarray) -> np.ndarray:
    """Points that no attack has moved are drawn as large as the largest of the others."""
    finite = distances[np.isfinite(distances)]
    return np.asarray(np.minimum(distances, finite.max(initial=0.0)))


def _shape(maps: int) -> tuple[int, int]:
    """How many maps across and down."""
    across = min(maps, 2)
    return across, math.ceil(maps / across)


def _corner(i: int, maps: int) -> tuple[float, float]:
    across, down = _shape(maps)
    return (i % across) * (1 + GAP), (down - 1 - i // across) * (1 + 2 * GAP)


def _chart(values: Sequence[dict[str, Any]], texts: Sequence[dict[str, Any]], norm: str) -> Any:
    import altair as alt

    points = alt.Chart(inline(values)).transform_flatten(["x", "y", "margin", "class", "wrong"])
    words = alt.Chart(inline(texts))
    right, top = (max(one[axis] for one in texts if "text" in one) for axis in "xy")
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.02, right + 1.02]))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.02, top + 0.12]))
    classes = sorted({one["class"] for one in texts if "class" in one})
    colour = alt.Color("class:N", scale=alt.Scale(domain=classes), legend=None)
    tooltip = [
        alt.Tooltip("row:N"),
        alt.Tooltip("class:N"),
        alt.Tooltip("margin:Q", title=f"distance, {norm}", format=".3~g"),
    ]
    size = alt.Size("margin:Q", scale=alt.Scale(range=[3, 60]), legend=None)
    at: dict[str, Any] = {"x": x, "y": y}
    right_ones = points.transform_filter("datum.wrong == 0").mark_point(filled=True, opacity=0.65, stroke=None)
    cross: dict[str, Any] = {"shape": "cross", "filled": True, "angle": 45, "size": 36, "opacity": 1}
    names = words.transform_filter("isValid(datum['class'])").encode(**at, text=alt.Text("class:N"))
    heads = words.transform_filter("isValid(datum.text)").encode(**at, text=alt.Text("text:N"))
    return layered(
        [
            right_ones.encode(**at, color=colour, size=size, tooltip=tooltip),
            points.transform_filter("datum.wrong == 1").mark_point(**cross).encode(**at, color=colour, tooltip=tooltip),
            names.mark_text(style="halo", fontWeight="bold"),
            names.mark_text(style="label", fontWeight="bold"),
            heads.mark_text(style="label", align="left", baseline="bottom", dy=-4),
        ]
    )
