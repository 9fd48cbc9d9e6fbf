"""Records: per run one .npz with per-point arrays, then one .json, which is the commit mark."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from marginbench.benchmarks.machine.files import write_atomically
from marginbench.methods import MarginbenchError, Norm

SCHEMA = 1


class Record(BaseModel):
    """One run. `identity` is what its id is the SHA-256 of; the rest is what came out, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int
    id: str
    identity: dict[str, Any]
    method: str  # canonical spec
    repetition: int
    status: Literal["done", "failed"]
    error: str | None = None
    metrics: dict[str, float | None] = {}  # None stands for infinity, which JSON does not know
    cost: dict[str, float | None] = {}
    losses: list[float] = []  # mean training loss of each epoch
    estimators: dict[str, dict[str, Any]] = {}
    doubts: dict[str, str] = {}
    suite: dict[str, Any]
    environment: dict[str, Any]
    finished: str  # UTC, ISO 8601
    arrays_sha256: str | None = None

    @property
    def epsilon(self) -> dict[Norm, float]:
        epsilon: dict[Norm, float] = self.suite["evaluation"]["epsilon"]
        return epsilon

    @property
    def total_seconds(self) -> float:
        """Of training and evaluation, as far as they are known."""
        return sum(self.cost.get(part) or 0.0 for part in ("seconds", "evaluation_seconds"))


def write_record(folder: Path, record: Record, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write `<id>.npz`, then `<id>.json`, each to a temporary file that is renamed. Returns the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    if arrays:
        record = record.model_copy(update={"arrays_sha256": hashlib.sha256(buffer.getvalue()).hexdigest()})
        write_atomically(folder / f"{record.id}.npz", buffer.getvalue())
    path = folder / f"{record.id}.json"
    write_atomically(path, (json.dumps(record.model_dump(), indent=1, allow_nan=False) + "\n").encode())
    return path


def read_record(path: Path) -> Record:
    """Read one record and check it against its arrays.

    Raises:
        MarginbenchError: the file is cut, changed, or written by a newer marginbench.
    """
    again = "delete it and run run-all again to repeat this run"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        schema = values.get("schema_version")
    except (OSError, ValueError, AttributeError) as error:
        raise MarginbenchError(f"record {path}: not a whole JSON object ({error}): {again}") from None
    if isinstance(schema, int) and schema > SCHEMA:
        raise MarginbenchError(
            f"record {path}: schema_version {schema} is newer than {SCHEMA}, the newest that this"
            " marginbench reads: upgrade marginbench"
        )
    try:
        record = Record(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise MarginbenchError(f"record {path}: key {key!r}: {first['msg'].lower()}: {again}") from None
    if record.arrays_sha256 is not None:
        arrays = path.with_suffix(".npz")
        try:
            found = hashlib.sha256(arrays.read_bytes()).hexdigest()
        except OSError as error:
            raise MarginbenchError(f"record {path}: {arrays.name}: {error.strerror}: {again}") from None
        if found != record.arrays_sha256:
            raise MarginbenchError(f"record {path}: {arrays.name} is not the file that was written: {again}")
    return record


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The per-point arrays that belong to a record's JSON."""
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
        return dict(file)


def record_paths(folders: Iterable[Path]) -> list[Path]:
    """All record files below the folders, sorted; a folder may be an output folder, a suite's or `runs` itself.

    Raises:
        MarginbenchError: no such folder.
    """
    found: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise MarginbenchError(f"{folder}: no such folder")
        runs = [folder] if folder.name == "runs" else folder.rglob("runs")
        found.update(path for run in runs for path in run.glob("*.json") if not path.name.startswith("."))
    return sorted(found)
