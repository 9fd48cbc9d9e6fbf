"""Runs made by hand for reports: with arrays, and with the numbers that follow from them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from made import EPSILON, a_record, claiming

from marginbench.benchmarks.records.metrics import summarise
from marginbench.benchmarks.records.record import CurvePoint, Record, write_record

ROWS = ("ce", "mma", "arcface(m=0.3)", "<b>bold</b> & \"quoted\" 'row'", "mixup")
SHIFT = dict(zip(ROWS, (0.3, 0.6, 0.4, 0.35, 0.35), strict=True))


def write_rows(
    folder: Path, rows: tuple[str, ...] = ROWS, seeds: int = 3, identity: dict[str, Any] | None = None
) -> None:
    """Runs with arrays, whose numbers are those that follow from them."""
    for place, row in enumerate(rows):
        for seed in range(seeds):
            write_record(folder / "toy" / "runs", *_run(row, seed, SHIFT.get(row, 0.2 + 0.01 * place), identity or {}))


def _run(row: str, seed: int, scale: float, identity: dict[str, Any]) -> tuple[Record, dict[str, np.ndarray]]:
    stream = np.random.default_rng(100 * seed + len(row))
    label = np.arange(40) % 4
    prediction = np.where(stream.random(40) < 0.9, label, (label + 1) % 4)
    upper = np.where(prediction == label, stream.gamma(4.0, scale / 4, 40), 0.0).astype(np.float32)
    arrays: dict[str, np.ndarray] = {"label": label, "prediction": prediction, "output_margin": upper}
    arrays["feature_margin"] = upper - 0.1
    for norm, of in (("l2", 1.0), ("linf", 0.2)):
        arrays[f"upper_{norm}"] = arrays[f"upper_{norm}_fmn"] = (of * upper).astype(np.float32)
        arrays[f"lower_{norm}"] = arrays[f"lower_{norm}_crown"] = (0.5 * of * upper).astype(np.float32)
    curve = [CurvePoint(epoch, 0.5 + 0.1 * epoch, 1.0 / epoch, 0.4 + 0.1 * epoch, 1.2 / epoch) for epoch in (1, 2, 3)]
    record = a_record(row, seed, metrics=summarise(arrays, EPSILON), curve=curve, identity=identity)
    record = claiming(
        replace(record, losses=[1.0, 0.5, 0.3]), "toys" if len(row) > 3 else "basics", "A paper", "input_margin"
    )
    if row == "mma":
        doubt = {"weak_attack": "found in 2 points"}
        record = replace(record, doubts=doubt, explanations={"weak_attack": "A </script> attack is weak."})
    return record, arrays
