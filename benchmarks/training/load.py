"""A trained network from its files: by path, or by the beginning of its id."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from marginbench.benchmarks.data.checkpoint import find_checkpoint
from marginbench.benchmarks.data.dataset import data_folder
from marginbench.benchmarks.nets.scan import NETWORKS
from marginbench.benchmarks.records.reader import RESULTS
from marginbench.benchmarks.records.training import NETWORKS as FOLDER
from marginbench.benchmarks.records.training import Training, network_bytes, read_training
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.training.bundle import from_toml
from marginbench.benchmarks.training.kept import blueprint_of, unpack
from marginbench.methods import MarginbenchError, Method, Net
from marginbench.methods.code import source_of
from marginbench.methods.errors import ParameterError
from marginbench.methods.registry import recreate

log = logging.getLogger(__name__)


def load_network(
    what: str | Path,
    folder: str | Path = RESULTS,
    *,
    network: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> tuple[Net, Training]:
    """A network that `run_all` has trained, and the record of its training.

    Args:
        what: path of its .safetensors or .json file, or of the .toml file of a bundle; or its id, of which the first
            digits are enough.
        folder: where an id is looked for: an output folder of `run_all`.
        network: FILE.py:FUNCTION, where the network came from a user's file.

    Returns:
        An `nn.Module` in eval mode, images [B, C, H, W] float32 in [0, 1] to logits [B, K], and the facts. Its logits
        are to the bit those of the network that was trained, on the same machine.

    Raises:
        MarginbenchError: no such network, its file was changed, or what builds it is missing: a plug-in that was not
            loaded, or a file.
    """
    path = training_path(what, folder)
    training = from_toml(path) if path.suffix == ".toml" else read_training(path)
    content = network_bytes(path.parent, training, path.stem)
    section = _section(training.identity.recipe["network"], network)
    checkpoint = None if section.checkpoint is None else find_checkpoint(section.checkpoint, [data_folder()])
    blueprint = blueprint_of(training, method_of(training), section, checkpoint)
    try:
        return unpack(content, blueprint, torch.device(device)), training
    except MarginbenchError as error:
        raise MarginbenchError(f"network {path.with_suffix('.safetensors')}: {error}") from None


def training_path(what: str | Path, folder: str | Path = RESULTS) -> Path:
    """The record of a training, by the path of one of its files or the beginning of its id.

    Raises:
        MarginbenchError: there is none, or several ids begin so.
    """
    path = Path(what).expanduser()
    if path.suffix == ".toml":
        return path
    if path.suffix in (".safetensors", ".json"):
        record, bundle = path.with_suffix(".json"), path.with_suffix(".toml")
        return record if record.is_file() or not bundle.is_file() else bundle
    found = [path for path in training_paths(folder) if path.stem.startswith(str(what))]
    if len(found) != 1:
        many = (
            f"{len(found)} ids begin so: give more digits" if found else "no such id; `marginbench networks` lists them"
        )
        raise MarginbenchError(f"network {what}: {many} (looked in {folder})")
    return found[0]


def training_paths(folder: str | Path) -> list[Path]:
    """The records of all trainings below a folder, sorted."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise MarginbenchError(f"{folder}: no such folder")
    homes = [folder] if folder.name == FOLDER else folder.rglob(FOLDER)
    return sorted(path for home in homes for path in home.glob("*.json") if not path.name.startswith("."))


def method_of(training: Training) -> Method:
    """The method of a training, with its hyper-parameters.

    Raises:
        MarginbenchError: it is not registered: its plug-in has to be loaded.
    """
    known = training.identity
    method = recreate(training.method, known.source)
    if (method.info.revision, source_of(type(method))) != (known.revision, known.source):
        log.warning(
            "%s has changed since training %s: its layers may compute something else", training.method, known.id[:12]
        )
    return method


def _section(values: Mapping[str, Any], file: str | Path | None) -> Network:
    """The section `network` of the suite that a training was done with."""
    if "file" not in values:
        known = {key: values.get(key) for key in ("width", "checkpoint")}
        section = Network(name=values["name"], **known)
        if values.get("source") != NETWORKS.source(values["name"]):
            log.warning("network %s: the plug-in that builds it has changed since the training", values["name"])
        return section
    if file is None:
        problem = f"give the path of {values['file']}, from which it was built"
        raise ParameterError("network", None, problem)
    section = Network(file=str(Path(str(file)).expanduser().absolute()), width=values.get("width"))
    if section.model_dump()["sha256"] != values["sha256"]:
        raise ParameterError("network", str(file), "is another version of the file than the one that was trained with")
    return section
