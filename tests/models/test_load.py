"""Weights are read from safetensors too."""

import io
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from marginbench.benchmarks.models.load import fingerprint, load_model
from marginbench.benchmarks.models.weights import load_weights


def test_safetensors_are_read_where_the_package_is(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is optional: a stand-in of its one function that is called."""
    path = tmp_path / "net.safetensors"
    path.write_bytes((trained / "net.pt").read_bytes())
    package, stand_in = ModuleType("safetensors"), ModuleType("safetensors.torch")
    package.torch = stand_in  # type: ignore[attr-defined]
    stand_in.load_file = lambda file: torch.load(io.BytesIO(file.read_bytes()))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "safetensors", package)
    monkeypatch.setitem(sys.modules, "safetensors.torch", stand_in)
    models = [load_model(f"{trained / 'models.py'}:mlp")[0] for _ in range(3)]
    assert fingerprint(models[0]) == fingerprint(models[2]), "a factory draws the same weights each time"
    load_weights(models[0], path)
    load_weights(models[1], trained / "net.pt")
    assert fingerprint(models[0]) == fingerprint(models[1]) != fingerprint(models[2])
