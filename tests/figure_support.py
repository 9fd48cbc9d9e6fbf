"""Records to draw, with numbers that are known, and what an SVG shows."""

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from made import EPSILON, a_record, a_suite

from marginbench.benchmarks.figures.save import svg
from marginbench.benchmarks.records.metrics import summarise
from marginbench.benchmarks.records.record import CurvePoint, write_record
from marginbench.benchmarks.records.tuning import Tuning

POINTS = 40
STRENGTH = {"ce": 0.5, "mma": 1.0, "pgd_at": 0.9, "mixup": 0.6, "arcface(m=0.3)": 0.4}  # of the margins of a row


def some_arrays(strength: float, seed: int, certified: bool = True) -> dict[str, np.ndarray]:
    """Margins that grow with the strength; every tenth image is misclassified."""
    draw = np.random.default_rng(seed)
    label = np.arange(POINTS) % 10
    prediction = np.where(np.arange(POINTS) % 10 == seed % 10, (label + 1) % 10, label)
    correct = prediction == label
    arrays = {"index": np.arange(POINTS), "label": label, "prediction": prediction}
    for norm, epsilon in EPSILON.items():
        upper = np.where(correct, draw.uniform(0, 3 * strength * epsilon, POINTS), 0).astype(np.float32)
        arrays[f"upper_{norm}"], arrays[f"lower_{norm}"] = upper, (0.5 * upper if certified else 0 * upper)
        if certified:
            arrays[f"lower_{norm}_crown"] = arrays[f"lower_{norm}"]
    gap = np.where(correct, 1, -1) * draw.uniform(0, strength, POINTS)
    return {**arrays, "output_margin": gap, "feature_margin": (0.1 * gap).astype(np.float32)}


def write_row(
    folder: Path,
    row: str,
    strength: float,
    seeds: int = 3,
    suite: Mapping[str, Any] | None = None,
    certified: bool = True,
    first: int = 0,
    epochs: tuple[int, ...] = (1, 2, 4),
    identity: Mapping[str, Any] | None = None,
    tuning: Tuning | None = None,
) -> None:
    """The runs of a row, from the repetition `first` up to `seeds`, with arrays, learning curves and costs."""
    facts = a_suite() if suite is None else type(a_suite()).of(suite)
    for seed in range(first, seeds):
        arrays = some_arrays(strength, seed, certified)
        curve = [CurvePoint(epoch, 1 - 0.2 / epoch, 0.1, 0.9 - 0.2 / epoch + 0.01 * seed, 0.3) for epoch in epochs]
        metrics = {**summarise(arrays, EPSILON), "validation_accuracy": 0.85, "train_accuracy": 0.95}
        cost = {"seconds": 10 * strength, "forward": 1.0 + 10 * strength, "backward": 1.0, "steps": 100}
        more: dict[str, Any] = {"metrics": metrics, "cost": cost, "curve": curve, "losses": [2.0, 1.0], "suite": facts}
        of = {"fields": {}, "tuning": tuning and tuning.id, **(identity or {})}
        record = a_record(row, seed, identity=of, tuning=tuning, **more)
        write_record(folder / facts.name / "runs", record, arrays)


def a_board(folder: Path) -> Path:
    """Five rows with three seeds, one of them without certificates, and one with two seeds."""
    for row, strength in STRENGTH.items():
        write_row(folder, row, strength, certified=row != "arcface(m=0.3)")
    write_row(folder, "cutout", 0.55, seeds=2)
    return folder


def specification(chart: Any) -> dict[str, Any]:
    """What a page gets."""
    return dict(json.loads(json.dumps(chart.to_dict())))


def data_of(chart: Any, key: str) -> list[dict[str, Any]]:
    """The values of the first data set whose rows have the key."""
    spec = specification(chart)
    sets = [spec.get("data", {}), *(layer.get("data", {}) for layer in spec.get("layer", ()))]
    sets += [{"values": values} for values in spec.get("datasets", {}).values()]
    return next(one["values"] for one in sets if one.get("values") and key in one["values"][0])


def marks(chart: Any) -> Counter[str]:
    """How many marks of each kind the SVG has: by what a screen reader calls them."""
    roles = (element.get("aria-roledescription", "") for element in drawing(chart).iter())
    return Counter(role for role in roles if role)


def texts(chart: Any) -> list[str]:
    """What is written, the lines of one text together."""
    found = [" ".join(element.itertext()) for element in drawing(chart).iter() if element.tag.endswith("text")]
    return [text for text in found if text]


def drawing(chart: Any) -> ET.Element:
    return ET.fromstring(svg(chart))
