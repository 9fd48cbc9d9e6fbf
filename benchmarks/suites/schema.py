"""A suite says what is compared: data, network, budget, radii, estimators. One TOML file each."""

import itertools
import tomllib
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from marginbench.benchmarks.data.augment import Augment
from marginbench.benchmarks.data.dataset import Dataset, load_data
from marginbench.benchmarks.machine.files import digest
from marginbench.benchmarks.nets.networks import NETWORKS
from marginbench.benchmarks.plugins import load_installed_plugins
from marginbench.benchmarks.probes.listed import PROBES
from marginbench.benchmarks.suites.evaluation import Evaluation, check_estimators
from marginbench.methods import MarginbenchError, Task
from marginbench.methods.errors import suggest

Settings = dict[str, Any]
Positive = Annotated[int, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Data(_Section):
    """The keys are the arguments of `load_data`."""

    name: str
    validation: Positive
    train_size: Positive | None = None  # images to train on; default: all that are left
    imbalance: float | None = Field(default=None, ge=1)  # of the first class to the last: a long-tailed training split
    size: Positive | None = None  # height and width of the images of a folder


class Network(_Section):
    name: Literal[tuple(NETWORKS)]  # type: ignore[valid-type]
    width: Positive = 1  # never this: without one it is the network's own

    @model_validator(mode="before")
    @classmethod
    def _own_width(cls, values: Any) -> Any:
        network = NETWORKS.get(str(values.get("name"))) if isinstance(values, dict) else None
        return values if network is None else {"width": network.width, **values}


class Training(_Section):
    epochs: Positive
    batch_size: Positive
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    optimiser: Literal["adam", "sgd"] = "adam"
    schedule: Literal["one_cycle", "constant", "drops"] = "one_cycle"
    drops: list[list[float]] | None = None  # [epoch, factor on the learning rate from then on], in order
    warm_up: float | None = Field(default=None, gt=0)  # epochs in which the rate rises linearly; one_cycle has its own
    nesterov: bool | None = None  # of sgd; default: yes
    precision: Literal["float32", "bf16"] = "float32"
    augment: Augment | None = None  # default: the images as they are

    @model_validator(mode="after")
    def _drops_fit(self) -> "Training":
        if (self.drops is not None) != (self.schedule == "drops"):
            raise ValueError('schedule = "drops" and drops = [[EPOCH, FACTOR], ...] go together')
        epochs = [drop[0] for drop in self.drops or ()]
        if any(len(drop) != 2 for drop in self.drops or ()) or epochs != sorted(epochs):
            raise ValueError("drops: write [[EPOCH, FACTOR], ...] with growing epochs, as in [[100, 0.1], [150, 0.01]]")
        if self.warm_up is not None and self.schedule == "one_cycle":
            raise ValueError("warm_up: one_cycle has its own")
        return self


class Suite(_Section):
    """The whole file. Everything but `title`, `methods` and `seeds` enters the hash of a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    title: str
    methods: tuple[str, ...] | None = None  # default: all registered
    seeds: Positive
    data: Data
    network: Network
    training: Training
    evaluation: Evaluation
    folder: Path = Field(exclude=True)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what a run depends on."""
        values = self.model_dump(mode="json", exclude={"title", "methods", "seeds"}, exclude_none=True)
        sources = self.evaluation.sources()
        return digest({**values, "sources": sources} if sources else values)

    def load_data(self, data_dir: str | Path | None = None) -> Dataset:
        """The data set, from a folder of data sets. Default: see `data_folder`."""
        return load_data(**self.data.model_dump(), folder=self.folder, data_dir=data_dir)

    def task(self, input_shape: tuple[int, int, int], class_counts: tuple[int, ...]) -> Task:
        return Task(input_shape, class_counts, self.evaluation.epsilon)


def suite_names() -> list[str]:
    """The suites that come with marginbench."""
    folder = resources.files("marginbench.benchmarks.suites")
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def comment(suite_name: str) -> str:
    """What the file of a built-in suite says about itself: the comment at its beginning, without its #."""
    lines = _built_in(suite_name).read_text(encoding="utf-8").splitlines()
    head = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in head)


def _built_in(name: str) -> Path:
    return Path(str(resources.files("marginbench.benchmarks.suites"))) / f"{name}.toml"


def load_suite(name: str) -> Suite:
    """Load a built-in suite by name or a suite file by path.

    Raises:
        MarginbenchError: unknown suite, missing file, or a key that is wrong, each named with its path.
    """
    load_installed_plugins()  # a suite may name what they add
    if name.endswith(".toml") or "/" in name:
        path = Path(name)
    elif name in suite_names():
        path = _built_in(name)
    else:
        raise MarginbenchError(f"unknown suite {name!r}: {suggest(name, suite_names())}; or give a FILE.toml")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MarginbenchError(f"suite {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MarginbenchError(f"suite {path}: not valid TOML: {error}") from None
    if isinstance(values.get("methods"), list):  # TOML knows no tuples
        values["methods"] = tuple(values["methods"])
    try:
        suite = Suite(**_with_folder(values, path.parent), folder=path.parent)
    except ValidationError as error:
        raise MarginbenchError(f"suite {path}: " + "; ".join(map(_explain, error.errors()))) from None
    try:
        check_estimators(suite.evaluation)
    except MarginbenchError as error:
        raise MarginbenchError(f"suite {path}: {error}") from None
    return suite


def _with_folder(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The files of attacks are relative to the suite's folder."""
    evaluation = values.get("evaluation")
    attacks = evaluation.get("attacks") if isinstance(evaluation, dict) else None
    for settings in attacks.values() if isinstance(attacks, dict) else ():
        if isinstance(settings, dict) and isinstance(settings.get("file"), str):
            settings["file"] = str((folder / settings["file"]).resolve())
    return values


def _explain(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        section: Any = Suite
        for part in error["loc"][:-1]:
            annotation = PROBES[part] if section is Evaluation else section.model_fields[part].annotation
            section = next((kind for kind in get_args(annotation) if kind is not NoneType), annotation)
        known = [name for name in section.model_fields if name != "folder"]
        known += PROBES if section is Evaluation else ()
        return f"unknown key {where!r}: {suggest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"key {where!r} is missing"
    return f"{where}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
