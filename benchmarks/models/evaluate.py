"""Models that were not trained here: loaded from a file, checked, and put into the same tables as the methods.

Such a model gets the estimators, columns and doubts of a suite. It has one row, of repetition 0 and without a cost of
training. Its row is right only if it has not seen the test images of the data.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.evaluation.partial import Partial
from marginbench.benchmarks.machine.budget import limited, parse_size
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.machine.files import digest, ensure_writable
from marginbench.benchmarks.models import answers
from marginbench.benchmarks.models.adapter import Copied, adapt
from marginbench.benchmarks.models.check import (
    PROBE,
    UNFAITHFUL,
    answers_as,
    check_apart,
    check_model,
    check_unchanging,
)
from marginbench.benchmarks.models.load import fingerprint, load_model
from marginbench.benchmarks.models.plain import copied, ready, stripped
from marginbench.benchmarks.models.weights import load_weights
from marginbench.benchmarks.records.current import OTHER_DATA, STALE, marks
from marginbench.benchmarks.records.reader import RESULTS, read_arrays, read_folders
from marginbench.benchmarks.records.record import About, Identity, Record
from marginbench.benchmarks.runs.console import shown
from marginbench.benchmarks.runs.job import Job, finished
from marginbench.benchmarks.runs.measure import Entry, Results, measure, record_run
from marginbench.benchmarks.runs.options import SUITE, RunOptions
from marginbench.benchmarks.runs.progress import alive
from marginbench.benchmarks.suites.derive import derive, evaluated_by
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.tables.files import write_tables
from marginbench.methods import MarginbenchError, Net, Norm, Normalise, NotApplicable, rows
from marginbench.methods.errors import ParameterError
from marginbench.methods.held import duplicate

log = logging.getLogger(__name__)


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
    model: str | Path | nn.Module,
    weights: str | Path | None = None,
    data: str | Path | None = None,
    suite: str | Path = SUITE,
    name: str | None = None,
    out: str | Path = RESULTS,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str = "auto",
    fresh: bool = False,
    data_dir: str | Path | None = None,
    memory: str | int | None = None,
    attacks: str | Path | None = None,
    set: Mapping[str, Any] | Sequence[str] = (),
    progress: bool = True,
) -> ModelOutcome:
    """Enclose the margins of any classifier, write its record, and write the leaderboard again.

    A record is reused for a model of the same name, source and weights that answers the same, and not otherwise; what
    is reused is said before anything else. See `answers`.

    Args:
        model: `FILE.py:FACTORY`, a callable without arguments that returns the module; a file that `torch.jit.save` has
            written, or an .onnx file; or a module, which is left unchanged: a copy is evaluated. It maps images
            [B, C, H, W] in [0, 1], or normalised by `mean` and `std`, to logits [B, K]. It is put into eval mode and
            float32, or runs in its own types if it casts inside.
        weights: a state dict saved with `torch.save`, also inside a checkpoint, or a .safetensors file.
        data: name, .npz file or image folder as `load_data` takes it. Default: the suite's. With other data the suite
            is another one, called SUITE-DATA. Files of one name in different folders share it and
            its tables, in which the rows on the data of the newest record count alone: give the files different names.
        suite: radii, attacks, certificates and number of points: name of a built-in suite, or path of a TOML file.
        name: the model's row. Default: the name of the factory, or of the module's class.
        out: folder for records and tables.
        mean, std: per channel; the model is then given (x - mean) / std, and radii stay in pixels of [0, 1].
        device: auto, cpu or cuda.
        fresh: repeat a run that has a record, also one that failed, or whose record cannot be read. Nothing is repeated
            unasked.
        data_dir: folder of data sets. Default: $MARGINBENCH_DATA, else marginbench in the user's cache folder.
        memory: of the host to plan with, as in 4GB, or bytes. Default: what is available.
        attacks: a preset, quick or exhaustive, or a suite whose evaluation is taken. Default: the suite's.
        set: further changes of the suite, as in {"evaluation.epsilon.linf": 0.05}.
        progress: show on stderr what is logged to "marginbench" at level INFO, unless logging is set up to show that.

    Raises:
        MarginbenchError: wrong input, found before the evaluation starts.
    """
    with shown() if progress else nullcontext():
        budget = None if memory is None else parse_size(memory)
        model = str(model) if isinstance(model, Path) else model
        if not isinstance(model, str | nn.Module):
            raise ParameterError("model", type(model).__name__, "should be FILE.py:FACTORY or a torch.nn.Module")
        chosen = _with_data(derive(evaluated_by(load_suite(str(suite)), attacks), set), data)
        row = _row(name or _name(model))
        images = chosen.load_data(data_dir).to(resolve_device(device))
        means, deviations = _numbers("mean", mean), _numbers("std", std)
        prepared = _get_ready(model, weights, _normalisation(means, deviations, images), images, row)
        folder = Path(out).expanduser() / chosen.name
        runs = folder / "runs"
        ensure_writable(runs)
        answered = _answers(prepared.net, images, chosen)
        identity = _recorded(
            runs,
            Identity(
                suite=chosen.fingerprint,
                data=images.fingerprint,
                method=row,
                fields={"mean": means, "std": deviations},
                revision=1,
                source=prepared.source[:16],
                weights=prepared.weights,
                repetition=0,
            ),
            answered,
        )
        path = runs / f"{identity.id}.json"
        known = _known(path, Job(RunOptions(redo="everything" if fresh else "nothing"), chosen, runs, runs))
        if known is not None:
            log.info("%s has a record of %s, which is reused: `fresh` repeats the run", row, known.finished)
        partial = Partial(runs / f"{identity.id}.partial")

        def run() -> Results:
            with alive(row) as deadline:
                results, arrays = measure(prepared.net, _certify, images, chosen, row, 0, deadline, partial)
            return results, {**arrays, **(answered.arrays() if answered else {})}

        with limited(budget):
            record = known or record_run(run, Entry(identity, row, About()), chosen, images, runs)
        if record.status == "done":
            partial.remove()
        reading = read_folders([runs], check_arrays=True)
        reading.warn()
        _warn_if_stale(record, reading.records.values())
        current = reading.where(lambda found: found.identity.suite == chosen.fingerprint)
        table, files = write_tables(current, folder)
        of_suite = list(current.records.values())
        return ModelOutcome(record, read_arrays(path), table, of_suite, files, path, resumed=known is not None)


class _Ready(NamedTuple):
    """A model that was loaded and checked."""

    net: Net
    source: str  # SHA-256 of its file, or of what a module says of itself
    weights: str  # SHA-256


def _get_ready(
    model: str | nn.Module, weights: str | Path | None, normalise: nn.Module, images: Dataset, row: str
) -> _Ready:
    where = f"model {model if isinstance(model, str) else row}"
    given, source = load_model(model) if isinstance(model, str) else (model, digest(repr(model)))
    module = copied(given, where)
    device = images.test.device
    normalise = normalise.to(device)
    enter = nn.Sequential(normalise, Copied())
    faithful = answers_as(given, module, enter, images)
    if weights is not None:
        load_weights(module, weights)
    one = normalise(images.test.images(slice(1)))
    module = ready(module, one, where)
    check_apart(given, module, one, where)
    if not faithful:
        raise MarginbenchError(f"{where}: {UNFAITHFUL}")
    check_model(nn.Sequential(enter, duplicate(module)), images, where)
    check_unchanging(module, enter, images, where)
    net = adapt(module, normalise, images.test.images(images.test.sample(PROBE)))
    return _Ready(net, source, fingerprint(nn.Sequential(normalise, module)))


def _answers(net: Net, images: Dataset, suite: Suite) -> answers.Answers | None:
    """None where the network fails: the evaluation will fail too, and its record says how."""
    test = images.test.rows(images.test.sample(suite.evaluation.points))
    try:
        return answers.ask(net, test)
    except Exception:
        return None


def _recorded(runs: Path, identity: Identity, answered: answers.Answers | None) -> Identity:
    """The identity with the answers: those of a record whose model answered the same, if there is one."""
    if answered is None:
        return identity
    new = replace(identity, answers=answered.digest())
    if (runs / f"{new.id}.json").exists():
        return new
    earlier = [
        (path, record)
        for path, record in read_folders([runs]).records.items()
        if replace(record.identity, answers=None) == identity and record.status == "done" and record.identity.answers
    ]
    for path, record in sorted(earlier, key=lambda item: item[1].finished, reverse=True):
        try:
            same = answered.match(read_arrays(path))
        except MarginbenchError:  # the tables warn of it
            continue
        if same:
            return record.identity
        log.info("%s answers otherwise than in its record of %s: it is another model", record.method, record.finished)
    return new


def _warn_if_stale(record: Record, records: Iterable[Record]) -> None:
    """An older model of the row may have been asked for again, or older data."""
    mark = marks(records).get(record.id)
    if mark == STALE:
        problem = "the table calls this row stale: give another name, or repeat the run with `fresh`"
        log.warning("%s has a newer record, of another model; %s", record.method, problem)
    elif mark == OTHER_DATA:
        problem = "the table compares this row with nothing: give another folder, or repeat the run with `fresh`"
        log.warning("newer records are of other data than that of %s; %s", record.method, problem)


def _known(path: Path, job: Job) -> Record | None:
    try:
        record = finished(path, job)
    except MarginbenchError as error:
        raise ParameterError("fresh", False, f"a record that cannot be read is not replaced unasked: {error}") from None
    trusted = record is not None and (record.identity.answers is not None or record.status == "failed")
    return record if trusted else None


def _certify(net: Net, x: Tensor, norm: Norm) -> NotApplicable:
    return NotApplicable("a model from outside has no certificate of its own")


def _name(model: str | nn.Module) -> str:
    """Of the factory, the file or the class."""
    if isinstance(model, str):
        return model.rpartition(":")[2] if ".py:" in model else Path(model).stem
    return type(stripped(model)).__name__


def _row(name: str) -> str:
    if re.fullmatch(r"[\w.+-]+", name) is None:
        raise ParameterError("name", name, "write letters, digits and . _ + - only")
    if name in rows():
        raise ParameterError("name", name, "is the name of a method; choose another one")
    return name


def _with_data(suite: Suite, data: str | Path | None) -> Suite:
    """The suite on other data: under another name, since its rows cannot be compared with the others."""
    if data is None or str(data) == suite.data.name:
        return suite
    path = Path(data).expanduser()
    if path.suffix == ".npz" and path.resolve() == (suite.folder / suite.data.name).resolve():
        return suite
    changes = {
        "name": f"{suite.name}-{re.sub(r'[^A-Za-z0-9_-]', '_', path.stem)}",
        "title": f"{path.name}, with radii and estimators of the suite {suite.name}",
        "data": suite.data.model_copy(update={"name": path.name}),
        "folder": path.parent,
    }
    return suite.model_copy(update=changes)


def _numbers(parameter: str, values: Sequence[float] | None) -> list[float] | None:
    if values is None:
        return None
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        raise ParameterError(parameter, values, "give a list with a number for each channel, as in [0.5]") from None


def _normalisation(mean: list[float] | None, std: list[float] | None, data: Dataset) -> nn.Module:
    if mean is None and std is None:
        return nn.Identity()
    if mean is None or std is None:
        raise ParameterError(*(("std", std) if mean is None else ("mean", mean)), "give mean and std, or neither")
    for parameter, values in (("mean", mean), ("std", std)):
        if len(values) != data.shape[0] or not np.isfinite(values).all():
            problem = f"the images have {data.shape[0]} channels, give a number for each"
            raise ParameterError(parameter, values, problem)
    if min(std) <= 0:
        raise ParameterError("std", std, "must be above 0")
    for parameter, values in (("mean", mean), ("std", std)):
        if max(values) > 1:
            problem = (
                "is above 1, and the images are in [0, 1]: divide mean and std by 255; a model that wants another scale"
                " scales inside"
            )
            raise ParameterError(parameter, values, problem)
    return Normalise(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32))
