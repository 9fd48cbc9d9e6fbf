"""Records: per run one .npz with per-point arrays, then one .json, which is the commit mark."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from marginbench.benchmarks.machine.files import digest, write_atomically
from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.records.tuning import Tuning
from marginbench.benchmarks.records.typed import WrongValueError
from marginbench.methods import Claim, Norm

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 4  # of the file; see older.py for what came before
IDENTITY_SCHEMA = 2  # part of every id: raise it when the same settings give other numbers than before
SEAL = "sha256"  # last key of the file: the digest of all others
SHARES = (
    "clean_accuracy",
    "train_accuracy",
    "validation_accuracy",
    "robust_accuracy_",
    "certified_accuracy_",
    "unattacked_",
)
AMOUNTS = ("points", "margin_upper_", "margin_lower_")  # like these above, how the names of metrics begin
INAPPLICABLE = "not applicable"  # how the error of a method begins that is not for the data of the suite
SOME_HAVE = ("weights", "answers", "training", "recipe", "tuning")  # left out of the identities of those that have none


@dataclass(frozen=True)
class Identity:
    """What a run depends on. Its id is the SHA-256 of these values."""

    suite: str  # fingerprint
    data: str  # fingerprint
    method: str  # key
    fields: dict[str, Any]  # hyper-parameters
    revision: int
    source: str | None  # hash of a plug-in's file
    repetition: int
    weights: str | None = None  # fingerprint, of a model that was not trained here
    answers: str | None = None  # hash of what such a model answers on the evaluated images
    training: str | None = None  # id of the training whose network is evaluated
    recipe: dict[str, Any] | None = None  # by dotted key, what this row changes of the suite's recipe
    tuning: str | None = None  # id of the tuning that chose the setting
    schema: int = IDENTITY_SCHEMA

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return digest(self.pack())

    def pack(self) -> dict[str, Any]:
        """As JSON, and as it is hashed."""
        return {name: value for name, value in vars(self).items() if value is not None or name not in SOME_HAVE}

    @staticmethod
    def unpack(values: Mapping[str, Any], key: str) -> dict[str, Any]:
        schema = values.get("schema")
        if type(schema) is not int or not 1 <= schema <= IDENTITY_SCHEMA:
            raise WrongValueError(
                f"{key}.schema", f"should be a whole number from 1 to {IDENTITY_SCHEMA}, not {schema!r}"
            )
        return dict(values)


@dataclass(frozen=True)
class SuiteFacts:
    """What tables need of the suite, and all its settings but the methods and seeds, which are not of this run."""

    name: str
    title: str
    epsilon: dict[Norm, float]  # pixels of [0, 1]; empty for sentences
    settings: dict[str, Any]

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "SuiteFacts":
        """Of settings that are known to be right."""
        return cls(**cls.unpack(settings))

    def pack(self) -> dict[str, Any]:
        return self.settings

    @staticmethod
    def unpack(values: Mapping[str, Any], key: str = "suite") -> dict[str, Any]:
        evaluation = values.get("evaluation")
        epsilon = evaluation.get("epsilon") if isinstance(evaluation, Mapping) else None
        return {"name": values.get("name"), "title": values.get("title"), "epsilon": epsilon, "settings": dict(values)}


def is_inapplicable(error: str | None) -> bool:
    """Whether a run ended since its method is not for the data of the suite."""
    return (error or "").startswith(INAPPLICABLE)


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key, as `--set` takes them: training.epochs. Empty tables stay."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            out.update(dotted(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = value
    return out


@dataclass(frozen=True)
class Environment:
    """Where a run took place: recorded beside its results, never part of its id."""

    host: str  # a hash of its name
    device: str  # cpu, or the name of the GPU
    processor: str
    cores: int
    threads: int
    system: str
    python: str
    versions: dict[str, str | None]  # of packages; None: not installed
    commit: str | None  # followed by + and a digest of the changes where files differed
    processor_details: dict[str, str] = field(
        default_factory=dict
    )  # here and below, empty: not recorded before schema 4
    interop_threads: int | None = None
    variables: dict[str, str] = field(default_factory=dict)  # of the process: those that choose threads or kernels
    builds: dict[str, str] = field(default_factory=dict)  # of libraries, by name


@dataclass(frozen=True)
class CurvePoint:
    """How good a network is at the end of an epoch, on the validation images and on as many training images."""

    epoch: int  # epochs done
    train_accuracy: float
    train_loss: float | None  # mean cross-entropy of the logits; None where it is not finite
    validation_accuracy: float
    validation_loss: float | None


@dataclass(frozen=True)
class About:
    """What the tables say of a method, so that they need no registry. The key is that of the identity."""

    title: str = "-"
    family: str = "-"
    paper: str = "-"
    claims: tuple[Claim, ...] = ()
    place: int = 0  # among the rows of its method: 0, or 1, 2, ... for its presets in their order

    @property
    def known(self) -> bool:
        return self.family != "-"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run: what it depends on, what came out, where, and what tables need to show it."""

    schema_version: int = SCHEMA
    id: str
    identity: Identity
    method: str  # canonical spec, or the name of a model
    about: About = About()
    repetition: int
    tuning: Tuning | None = None  # how the setting was chosen, of a row that is tuned
    status: Literal["done", "failed"]
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)  # NaN and infinities have other names in JSON
    columns: list[Column] = field(default_factory=list)  # of the probes' metrics
    notes: list[str] = field(default_factory=list)  # sentences below a table, on its points and its probes
    cost: dict[str, float | None] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)  # mean training loss of each epoch
    parts: dict[str, list[float | None]] = field(default_factory=dict)  # the same; null: none or not finite
    curve: list[CurvePoint] = field(default_factory=list)
    trained: Environment | None = None  # where the network was trained, if here; it may be elsewhere than `environment`
    estimators: dict[str, dict[str, Any]] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)  # what was seen
    explanations: dict[str, str] = field(default_factory=dict)  # what each of these doubts means
    suite: SuiteFacts
    environment: Environment
    finished: str  # UTC, ISO 8601
    arrays_sha256: str | None = None

    @property
    def epsilon(self) -> dict[Norm, float]:
        return self.suite.epsilon

    @property
    def inapplicable(self) -> bool:
        """The method is not for these data: no failure of anything."""
        return is_inapplicable(self.error)

    @property
    def at_epsilon(self) -> list[str]:
        """Certificates that were asked at the suite's radii alone: they count as the radius of a point, or 0 does."""
        evaluation = self.suite.settings.get("evaluation") or {}
        tables: Mapping[str, Mapping[str, Any]] = evaluation.get("certificates") or {}
        return sorted(name for name, table in tables.items() if table.get("at") == "epsilon")

    @property
    def impossible(self) -> list[str]:
        """The metrics that no run can have: shares outside of [0, 1], distances and numbers of points below 0."""
        return [
            name
            for name, value in self.metrics.items()
            if (name.startswith(SHARES + AMOUNTS) and value < 0) or (name.startswith(SHARES) and value > 1)
        ]

    @property
    def total_seconds(self) -> float:
        """Of training and evaluation, as far as they are known."""
        return sum(self.cost.get(part) or 0.0 for part in ("seconds", "evaluation_seconds"))

    def pack(self) -> dict[str, Any]:
        """The record as its JSON object."""
        values = asdict(self)
        if self.tuning is None:
            del values["tuning"]
        return {
            **values,
            "metrics": {name: _IN_JSON.get(str(value), value) for name, value in self.metrics.items()},
            "identity": self.identity.pack(),
            "suite": self.suite.pack(),
            "columns": [_without_defaults(column) for column in self.columns],
        }

    @staticmethod
    def unpack(values: Mapping[str, Any], key: str) -> dict[str, Any]:
        """JSON to fields."""
        metrics = values.get("metrics")
        if not isinstance(metrics, Mapping):
            return dict(values)
        return {**values, "metrics": {name: _from_json(value) for name, value in metrics.items()}}


_IN_JSON = {"inf": None, "-inf": "-inf", "nan": "nan"}  # what JSON has no numbers for


def _from_json(value: Any) -> Any:
    return float(value or "inf") if value is None or value in ("nan", "-inf") else value


def _without_defaults(column: Column) -> dict[str, Any]:
    shown = [f.name for f in fields(column) if f.default is MISSING or getattr(column, f.name) != f.default]
    return {name: getattr(column, name) for name in shown}


def write_record(folder: Path, record: Record, arrays: "Mapping[str, np.ndarray]") -> Path:
    """Write `<id>.npz`, then `<id>.json`, each to a temporary file that is renamed. Returns the JSON's path.

    A hash of the arrays and one of the record itself show later whether they are what was written.
    """
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    if arrays:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
        record = replace(record, arrays_sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
        write_atomically(folder / f"{record.id}.npz", buffer.getvalue())
    path = folder / f"{record.id}.json"
    content = {**record.pack(), SEAL: digest(record.pack())}
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return path
