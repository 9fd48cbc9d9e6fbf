"""A training as TOML beside its weights: what others need to build the network again."""

import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from marginbench.benchmarks.records.training import Training
from marginbench.benchmarks.records.typed import WrongValueError, build
from marginbench.methods import MarginbenchError
from marginbench.methods.registry import recreate

OF_IDENTITY = ("recipe", "data", "revision", "source", "epsilon", "schema")
LEFT_OUT = ("identity", "curve", "losses", "parts", "cost", "error", "changes", "discarded", "status")


def to_toml(training: Training) -> str:
    """The hyper-parameters are those of the spec, and stand nowhere else."""
    values = {key: value for key, value in asdict(training).items() if key not in LEFT_OUT}
    identity = asdict(training.identity)
    return tomli_w.dumps(_without_none({**values, **{key: identity[key] for key in OF_IDENTITY}}))


def from_toml(path: Path) -> Training:
    """The training that a bundle describes.

    Raises:
        MarginbenchError: no such file, or no bundle; or its method is not registered.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MarginbenchError(f"network {path}: {error.strerror}") from None
    except ValueError as error:
        raise MarginbenchError(f"network {path}: not valid TOML: {error}") from None
    of_identity: dict[str, Any] = {"source": None, "epsilon": None}
    of_identity |= {key: values.pop(key) for key in OF_IDENTITY if key in values}
    try:
        method = recreate(str(values.get("method")), of_identity["source"])
        facts = {"method": method.info.key, "fields": method.model_dump(mode="json")}
        of_identity |= {**facts, "repetition": values.get("repetition")}
        values["environment"] = {"commit": None, **values.get("environment", {})}
        return build(Training, {"status": "done", **values, "identity": of_identity})
    except WrongValueError as error:
        raise MarginbenchError(f"network {path}: {error}") from None


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
