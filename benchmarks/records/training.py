"""What is kept of a training: `<id>.safetensors`, the network, and `<id>.json`, which is the commit mark.

They lie in the folder `networks` of an output folder, beside its suites: evaluations of several suites may share them.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from marginbench.benchmarks.machine.files import digest, write_atomically
from marginbench.benchmarks.records.reader import check_seal, json_object
from marginbench.benchmarks.records.record import CurvePoint, Environment
from marginbench.benchmarks.records.typed import WrongValueError, build
from marginbench.methods import MarginbenchError, Norm

SCHEMA = 1  # of the file, and part of every id: raise it when the same settings give another network than before
SEAL = "record_sha256"  # last key of the file: the digest of all others
NETWORKS = "networks"  # name of the folder
AGAIN = "delete it, or run `run-all --retry`"


@dataclass(frozen=True)
class TrainingIdentity:
    """What a trained network depends on. Its id is the SHA-256 of these values."""

    recipe: dict[str, Any]  # see `Suite.recipe`
    data: str  # fingerprint
    method: str  # key
    fields: dict[str, Any]  # hyper-parameters
    revision: int
    source: str | None  # hash of a plug-in's file
    epsilon: dict[Norm, float] | None  # radii by norm, of a method that needs them
    repetition: int
    schema: int = SCHEMA

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return digest(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: what it depends on, what came out, and where."""

    id: str
    identity: TrainingIdentity
    suite: str  # by whose name it was asked for, without what was changed
    method: str  # canonical spec
    repetition: int
    status: Literal["done", "failed"]
    error: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)  # of the suite, as far as they change the training
    sha256: str | None = None  # of the file of the network; None where there never was one
    size: int = 0  # bytes of that file
    discarded: bool = False  # the file was removed after its evaluation
    input_shape: list[int] = field(default_factory=list)  # channels, height, width
    class_counts: list[int] = field(default_factory=list)  # training images of each class
    cost: dict[str, float | None] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)  # mean training loss of each epoch
    parts: dict[str, list[float | None]] = field(default_factory=dict)  # the same; null: none or not finite
    curve: list[CurvePoint] = field(default_factory=list)
    environment: Environment
    finished: str  # UTC, ISO 8601

    @property
    def total_seconds(self) -> float:
        return self.cost.get("seconds") or 0.0

    @property
    def kept(self) -> bool:
        """There is a network, as far as the record knows."""
        return self.status == "done" and not self.discarded


class NetworkFileError(MarginbenchError):
    """The file of a network is not what its record says."""


def network_path(folder: Path, training_id: str) -> Path:
    """The file of a network."""
    return folder / f"{training_id}.safetensors"


def write_training(folder: Path, training: Training, network: bytes | None = None) -> Training:
    """Write the network, if there is one, then the record; returns the record as written.

    Raises:
        UnwritableError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if network is not None:
        training = replace(training, sha256=hashlib.sha256(network).hexdigest(), size=len(network))
        write_atomically(network_path(folder, training.id), network)
    content = asdict(training)
    text = json.dumps({**content, SEAL: digest(content)}, indent=1, allow_nan=False) + "\n"
    write_atomically(folder / f"{training.id}.json", text.encode())
    return training


def read_training(path: Path) -> Training:
    """Read one record. Its network is checked when it is loaded.

    Raises:
        MarginbenchError: there is no such file; it is cut, changed, renamed, or written by a newer marginbench.
    """
    values = json_object(path)
    seal, content = values.pop(SEAL, None), values
    try:
        training = build(Training, values)
        if training.identity.schema > SCHEMA:
            raise WrongValueError("identity.schema", f"is newer than {SCHEMA}: upgrade marginbench")
        if not path.stem == training.id == training.identity.id:
            raise WrongValueError("id", "should be the name of the file and the digest of the identity")
        check_seal(SEAL, seal, content)
    except (WrongValueError, ValueError) as error:
        raise MarginbenchError(f"training {path}: {error}: {AGAIN}") from None
    return training


def damaged(folder: Path, training: Training) -> bool:
    """Whether the network is not the one that was written. It reads the whole file."""
    try:
        network_bytes(folder, training)
    except NetworkFileError:
        return True
    return False


def find_training(folder: Path, training_id: str) -> Training | None:
    """The record of a training, if there is one that can be read."""
    path = folder / f"{training_id}.json"
    try:
        return read_training(path) if path.exists() else None
    except MarginbenchError:
        return None


def network_bytes(folder: Path, training: Training, name: str | None = None) -> bytes:
    """The content of the file of a network.

    Args:
        name: of the file, without its suffix. Default: the id.

    Raises:
        NetworkFileError: it failed, was discarded, is missing, or is not the file that was written.
    """
    path = network_path(folder, name or training.id)
    what = f"network {path}"
    if training.status == "failed":
        raise NetworkFileError(f"{what}: there is none, its training failed: {training.error}")
    if training.discarded:
        raise NetworkFileError(f"{what}: was discarded after its evaluation; `run-all --only train` trains it again")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NetworkFileError(f"{what}: {error.strerror}; `run-all --only train` trains it again") from None
    if hashlib.sha256(content).hexdigest() != training.sha256:
        raise NetworkFileError(
            f"{what}: is not the file that was written: copy it again, or let `--retry` train it again"
        )
    return content
