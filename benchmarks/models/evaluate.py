"""Models that were not trained here: loaded from a file, checked, and put into the same tables as the methods.

Such a model gets the estimators, columns and doubts of a suite. It has one row, of repetition 0 and without a cost of
training. Its row is right only if it has not seen the test images of the data.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.machine.files import digest, ensure_writable
from marginbench.benchmarks.models.adapter import Copied, adapt
from marginbench.benchmarks.models.check import check_model
from marginbench.benchmarks.models.load import fingerprint, load_model, load_weights
from marginbench.benchmarks.records.reader import read_arrays, read_folders
from marginbench.benchmarks.records.record import About, Identity, Record
from marginbench.benchmarks.runs.execute import Entry, measure, record_run
from marginbench.benchmarks.suites.schema import Data, Suite, load_suite
from marginbench.benchmarks.tables.files import write_tables
from marginbench.methods import Net, Norm, Normalise, NotApplicable, rows
from marginbench.methods.errors import ParameterError


@dataclass(frozen=True)
class ModelOutcome:
    """What a call of `evaluate_model` did."""

    record: Record
    arrays: dict[str, np.ndarray]  # per point
    table: pd.DataFrame  # leaderboard of all records of this suite in the folder
    records: list[Record]  # what it is made of
    files: list[Path]  # leaderboard.{md,csv,tex,json} and claims.md
    path: Path  # of the record
    resumed: bool  # it had a record already


def evaluate_model(
    model: str | nn.Module,
    weights: str | Path | None = None,
    data: str | Path | None = None,
    suite: str | Path = "digits",
    name: str | None = None,
    out: str | Path = "results/local",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str = "auto",
    fresh: bool = False,
    data_dir: str | Path | None = None,
) -> ModelOutcome:
    """Enclose the margins of any classifier, write its record, and write the leaderboard again.

    Args:
        model: `FILE.py:FACTORY`, a callable without arguments that returns the module; or a module, which stays as it
            is: a copy is evaluated. It maps images [B, C, H, W] in [0, 1], or normalised by `mean` and `std`, to
            logits [B, K]. It is put into eval mode and float32.
        weights: a state dict saved with `torch.save`, or a .safetensors file.
        data: name, .npz file or image folder as `load_data` takes it. Default: the suite's. With other data the suite
            is another one, called SUITE-DATA.
        suite: radii, attacks, certificates and number of points: name of a built-in suite, or path of a TOML file.
        name: the model's row. Default: the name of the factory, or of the module's class.
        out: folder for records and tables.
        mean, std: per channel; the model is then given (x - mean) / std, and radii stay in pixels of [0, 1].
        device: auto, cpu or cuda.
        fresh: repeat a finished run.
        data_dir: folder of data sets. Default: $MARGINBENCH_DATA, else marginbench in the user's cache folder.

    Raises:
        MarginbenchError: wrong input, found before the evaluation starts.
    """
    chosen = _with_data(load_suite(str(suite)), None if data is None else str(data))
    target = resolve_device(device)
    row = _row(name or (model.rpartition(":")[2] if isinstance(model, str) else type(model).__name__))
    images = chosen.load_data(data_dir).to(target)
    if isinstance(model, str):
        module, source = load_model(model)
        where = f"model {model}"
    else:
        module, source = copy.deepcopy(model), digest(repr(model))
        where = f"model {row}"
    if weights is not None:
        load_weights(module, Path(weights))
    module = module.float().to(target).eval().requires_grad_(False)
    normalise = _normalisation(mean, std, images).to(target)
    check_model(nn.Sequential(normalise, Copied(), module), images, where)
    net = adapt(module, normalise, images.test.images(slice(5)))
    identity = Identity(
        suite=chosen.fingerprint,
        data=images.fingerprint,
        method=row,
        fields={"mean": _floats(mean), "std": _floats(std)},
        revision=1,
        source=source[:16],
        weights=fingerprint(nn.Sequential(normalise, module)),
        repetition=0,
    )
    folder = Path(out) / chosen.name
    runs = folder / "runs"
    ensure_writable(runs)
    reading = read_folders([runs], check_arrays=True)
    reading.warn()
    records = {record.id: record for record in reading.records.values()}
    known = records.get(identity.id)
    resumed = known is not None and known.status == "done" and not fresh
    if not resumed:
        entry = Entry(identity, row, About())
        known = record_run(lambda: measure(net, _certify, images, chosen, row, 0), entry, chosen, images, runs)
        records[known.id] = known
    assert known is not None
    path = runs / f"{known.id}.json"
    current = [record for record in records.values() if record.identity.suite == chosen.fingerprint]
    table, files = write_tables(current, folder)
    arrays = read_arrays(path)
    return ModelOutcome(known, arrays, table, current, files, path, resumed)


def _certify(net: Net, x: Tensor, norm: Norm) -> NotApplicable:
    return NotApplicable("a model from outside has no certificate of its own")


def _row(name: str) -> str:
    if re.fullmatch(r"[\w.+-]+", name) is None:
        raise ParameterError("name", name, "write letters, digits and . _ + - only")
    if name in rows():
        raise ParameterError("name", name, "is the name of a method; choose another one")
    return name


def _with_data(suite: Suite, data: str | None) -> Suite:
    """The suite on other data: under another name, since its rows cannot be compared with the others."""
    if data is None or data == suite.data.name:
        return suite
    path = Path(data)
    if data.endswith(".npz") and path.resolve() == (suite.folder / suite.data.name).resolve():
        return suite
    changes = {
        "name": f"{suite.name}-{re.sub(r'[^A-Za-z0-9_-]', '_', path.stem)}",
        "title": f"{path.name}, with radii and estimators of the suite {suite.name}",
        "data": Data(name=path.name, validation=suite.data.validation),
        "folder": path.parent,
    }
    return suite.model_copy(update=changes)


def _normalisation(mean: Sequence[float] | None, std: Sequence[float] | None, data: Dataset) -> nn.Module:
    if mean is None and std is None:
        return nn.Identity()
    if mean is None or std is None:
        raise ParameterError(*(("std", std) if mean is None else ("mean", mean)), "give mean and std, or neither")
    for parameter, values in (("mean", mean), ("std", std)):
        if len(values) != data.shape[0] or not np.isfinite(values).all():
            problem = f"the images have {data.shape[0]} channels, give a number for each"
            raise ParameterError(parameter, list(values), problem)
    if min(std) <= 0:
        raise ParameterError("std", list(std), "must be above 0")
    return Normalise(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32))


def _floats(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]
