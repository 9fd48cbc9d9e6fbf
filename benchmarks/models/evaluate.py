"""Models that were not trained here: loaded from a file, checked, and put into the same tables as the methods.

Such a model gets the estimators, columns and doubts of a suite. It has one row, of repetition 0 and without a cost of
training. Its row is right only if it has not seen the test images of the data.
"""

import copy
import hashlib
import importlib
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.evaluation.doubts import are_probabilities
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.machine.files import digest, ensure_writable
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.benchmarks.models.adapter import Copied, adapt
from marginbench.benchmarks.records.record import SCHEMA, Record, read_arrays, read_record, record_paths
from marginbench.benchmarks.runs.execute import measure, record_run
from marginbench.benchmarks.suites.schema import Data, Suite, load_suite
from marginbench.benchmarks.tables.files import write_tables
from marginbench.methods import MarginbenchError, Net, Norm, Normalise, NotApplicable, rows
from marginbench.methods.errors import one_line
from marginbench.methods.userfile import load_function, source_digest, user_code

PROBE = 64  # images on which a model is checked before it is evaluated
NESTED = ("state_dict", "model_state_dict", "model")  # where checkpoints keep the state dict


@dataclass(frozen=True)
class Outcome:
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
    data: str | None = None,
    suite: str = "digits",
    name: str | None = None,
    out: str | Path = "results/local",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str = "auto",
    fresh: bool = False,
    data_dir: str | Path | None = None,
) -> Outcome:
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
    chosen = _with_data(load_suite(suite), data)
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
    identity = {
        "schema": SCHEMA,
        "suite": chosen.fingerprint,
        "data": images.fingerprint,
        "method": row,
        "fields": {"mean": _floats(mean), "std": _floats(std)},
        "revision": 1,
        "source": source[:16],
        "weights": fingerprint(nn.Sequential(normalise, module)),
        "repetition": 0,
    }
    folder = Path(out) / chosen.name
    runs = folder / "runs"
    ensure_writable(runs)
    records = {record.id: record for record in map(read_record, record_paths([runs]))}
    known = records.get(digest(identity))
    resumed = known is not None and known.status == "done" and not fresh
    if not resumed:
        known = record_run(
            lambda: measure(net, _certify, images, chosen, row, 0), identity, row, 0, chosen, images, runs
        )
        records[known.id] = known
    assert known is not None
    path = runs / f"{known.id}.json"
    current = [record for record in records.values() if record.identity["suite"] == chosen.fingerprint]
    table, files = write_tables(current, folder)
    arrays = read_arrays(path) if known.status == "done" else {}
    return Outcome(known, arrays, table, current, files, path, resumed)


def parse_numbers(option: str, text: str | None) -> list[float] | None:
    """`0.5,0.4` as numbers.

    Raises:
        MarginbenchError: something else, naming the option.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise MarginbenchError(f"{option} {text!r}: write one number per channel, as in 0.49,0.48,0.45") from None


def load_model(spec: str) -> tuple[nn.Module, str]:
    """Call the factory that `FILE.py:FACTORY` names. Returns the module, and the SHA-256 of the file.

    The file may import modules of its own folder; they do not enter the hash. Weights drawn by the factory are the
    same in each call: torch's global generators are seeded meanwhile.

    Raises:
        MarginbenchError: file or factory missing, one of them raises, or what comes back is no module.
    """
    make, path = load_function(spec, "model")
    with user_code(path, "model"), seeded(torch.device("cpu"), "factory"):
        model = make()
    if not isinstance(model, nn.Module):
        name = spec.rpartition(":")[2]
        raise MarginbenchError(f"model {path}: {name}() returns {type(model).__name__}, not a torch.nn.Module")
    return model, source_digest(path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict into the model; nothing but tensors is ever unpickled.

    Raises:
        MarginbenchError: no such file, not a state dict, code in the pickle, or a state dict of another network.
    """
    state = _read_state(path)
    try:
        report = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # names shapes that differ, below a headline
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise MarginbenchError(f"weights {path}: do not fit the model: {lines[-1]}") from None
    kinds = (("no key", report.missing_keys), ("unexpected key", report.unexpected_keys))
    wrong = [f"{kind} {keys[0]!r} (the first of {len(keys)})" for kind, keys in kinds if keys]
    if wrong:
        raise MarginbenchError(f"weights {path}: do not fit the model: {', '.join(wrong)}")


def _read_state(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise MarginbenchError(f"weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            state: Any = importlib.import_module("safetensors.torch").load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise MarginbenchError(
            f"weights {path}: needs a package: pip install safetensors; or save the state dict with torch.save"
        ) from None
    except pickle.UnpicklingError as error:
        found = re.search(r"Unsupported \w+:? .*?(?= was not|\. | by default|$)", str(error), re.MULTILINE)
        reason = found[0] if found else "not a state dict saved with torch.save"
        raise MarginbenchError(
            f"weights {path}: refused, it is more than tensors ({reason}) and unpickling runs code:"
            " save model.state_dict() with torch.save"
        ) from None
    except Exception as error:  # damaged files fail in many ways
        raise MarginbenchError(f"weights {path}: not a readable file of weights ({one_line(error)})") from None
    if isinstance(state, Mapping):
        state = next((state[key] for key in NESTED if isinstance(state.get(key), Mapping)), state)
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise MarginbenchError(f"weights {path}: holds no tensors by name: save model.state_dict() with torch.save")
    return state


def check_model(model: nn.Module, data: Dataset, where: str) -> None:
    """Try the model on a few test images.

    Raises:
        MarginbenchError: it fails on them, or what it returns is not one row of logits per image, of which attacks
            can take gradients. Probabilities are refused too: their gradients vanish where the network is sure, so
            that attacks fail and the margins look larger than they are.
    """
    few = data.test.images(slice(PROBE))
    for x in (few[:1], few):
        shape = list(x.shape)
        with torch.enable_grad():
            try:
                logits = model(x.clone().requires_grad_())
            except Exception as error:
                raise MarginbenchError(f"{where}: fails on images {shape}: {one_line(error)}") from error
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            kind = str(logits.dtype) if isinstance(logits, Tensor) else type(logits).__name__
            raise MarginbenchError(f"{where}: returns {kind}; needed is one tensor of float logits [B, K]")
        if logits.ndim != 2 or len(logits) != len(x):
            raise MarginbenchError(
                f"{where}: images {shape} give {list(logits.shape)}; needed are logits [{len(x)}, {data.num_classes}]"
            )
        if logits.shape[1] != data.num_classes:
            raise MarginbenchError(f"{where}: gives {logits.shape[1]} logits; the data have {data.num_classes} classes")
        if not logits.requires_grad:
            raise MarginbenchError(f"{where}: its logits have no gradient in the image, which the attacks need")
    if are_probabilities(logits.detach()):
        raise MarginbenchError(
            f"{where}: returns probabilities (rows sum to 1), whose gradients vanish: return the logits before softmax"
        )


def fingerprint(net: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: names, types, shapes, bytes."""
    tensors = {**dict(net.named_buffers()), **net.state_dict()}
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _certify(net: Net, x: Tensor, norm: Norm) -> NotApplicable:
    return NotApplicable("a model from outside has no certificate of its own")


def _row(name: str) -> str:
    if re.fullmatch(r"[\w.+-]+", name) is None:
        raise MarginbenchError(f"--name {name!r}: write letters, digits and . _ + - only")
    if name in rows():
        raise MarginbenchError(f"--name {name}: a method is called so; choose another --name")
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
        raise MarginbenchError("--mean and --std: give both or neither")
    for option, values in (("--mean", mean), ("--std", std)):
        if len(values) != data.shape[0] or not np.isfinite(values).all():
            text = ",".join(f"{value:g}" for value in values)
            raise MarginbenchError(f"{option} {text}: the images have {data.shape[0]} channels, give a number for each")
    if min(std) <= 0:
        raise MarginbenchError(f"--std {min(std):g}: must be above 0")
    return Normalise(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32))


def _floats(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]
