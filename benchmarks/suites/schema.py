"""A suite says what is compared: data, network, budget, radii, estimators. One TOML file each."""

import copy
import inspect
import itertools
import re
import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator

from marginbench.benchmarks.attacks.from_file import check_factory, versioned
from marginbench.benchmarks.attacks.presets import ATTACKS, PRESETS
from marginbench.benchmarks.certificates.listed import CERTIFICATES
from marginbench.benchmarks.data.augment import Augment
from marginbench.benchmarks.data.dataset import Dataset, load_data
from marginbench.benchmarks.machine.files import digest
from marginbench.benchmarks.nets.networks import NETWORKS
from marginbench.methods import NORMS, MarginbenchError, Norm, Task
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


class Rejection(_Section):
    tpr: float = Field(gt=0, le=1)  # share of the correct held-out images that must be accepted
    steps: Positive  # of each start of the attack
    restarts: Annotated[int, Field(ge=0)] = 1


class Smoothing(_Section):
    sigma: float = Field(gt=0)  # of the noise, in pixels of [0, 1]
    n0: Positive = 100  # noisy copies that select the class
    n: Positive  # noisy copies that estimate its probability
    alpha: float = Field(default=0.001, gt=0, lt=1)  # probability that a radius is wrong, at most
    share: Positive = 1  # consecutive images that get the same noise


class Clever(_Section):
    radius: dict[Norm, Annotated[float, Field(gt=0)]]  # of the balls that are sampled, in pixels of [0, 1]
    points: Positive = 100  # the first of the test set
    batches: Positive = 50  # the paper: 500
    samples: Positive = 128  # the paper: 1024
    rivals: Positive = 3


class Evaluation(_Section):
    epsilon: dict[Norm, Annotated[float, Field(gt=0)]]
    points: Positive  # the first of the test set
    attacks: dict[str, Settings]  # name to settings; the name of a preset stands for its table
    certificates: dict[str, Settings]
    rejection: Rejection | None = None  # default: no columns for it
    smoothing: Smoothing | None = None  # likewise
    clever: Clever | None = None  # likewise

    @field_validator("epsilon")
    @classmethod
    def _both_norms(cls, epsilon: dict[Norm, float]) -> dict[Norm, float]:
        if set(epsilon) != set(NORMS):
            raise ValueError("give one radius for each norm, as in { linf = 0.1, l2 = 0.5 }")
        return epsilon

    @field_validator("attacks", mode="before")
    @classmethod
    def _preset(cls, attacks: Any) -> Any:
        if not isinstance(attacks, str):
            return attacks
        if attacks not in PRESETS:
            raise ValueError(f"unknown preset: {suggest(attacks, PRESETS)}; or give a table of attacks")
        return copy.deepcopy(PRESETS[attacks])

    @field_serializer("attacks")
    def _versioned(self, attacks: dict[str, Settings]) -> dict[str, Settings]:
        return {name: versioned(settings) for name, settings in attacks.items()}


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
        return digest(self.model_dump(mode="json", exclude={"title", "methods", "seeds"}, exclude_none=True))

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
    _check_estimators(path, suite)
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
            annotation = section.model_fields[part].annotation
            section = next((kind for kind in get_args(annotation) if kind is not NoneType), annotation)
        known = [name for name in section.model_fields if name != "folder"]
        return f"unknown key {where!r}: {suggest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"key {where!r} is missing"
    return f"{where}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _check_estimators(path: Path, suite: Suite) -> None:
    for kind, table in (("attacks", ATTACKS), ("certificates", CERTIFICATES)):
        for name, settings in getattr(suite.evaluation, kind).items():
            where = f"suite {path}: evaluation.{kind}.{name}"
            if kind == "attacks" and "file" in settings:
                _check_foreign(where, name, settings)
                continue
            if name not in table:
                raise MarginbenchError(f"{where}: unknown: {suggest(name, table)}")
            known = _defaults(table[name])
            for key, value in settings.items():
                if key not in known:
                    raise MarginbenchError(f"{where}.{key}: unknown setting: {suggest(key, known)}")
                wanted = type(known[key])
                if type(value) is not wanted and not (wanted is float and type(value) is int):
                    raise MarginbenchError(f"{where}.{key}={value!r}: should be like {known[key]!r}")


def _check_foreign(where: str, name: str, settings: Settings) -> None:
    if name in ATTACKS or not re.fullmatch("[A-Za-z0-9_]+", name):
        raise MarginbenchError(f"{where}: choose another name: letters, digits and _, and none of {', '.join(ATTACKS)}")
    try:
        check_factory(str(settings["file"]), {key: value for key, value in settings.items() if key != "file"})
    except MarginbenchError as error:
        raise MarginbenchError(f"{where}: {error}") from None


def _defaults(estimator: Callable[..., Any]) -> dict[str, Any]:
    """The settings of an estimator: its keyword arguments with a default."""
    parameters = inspect.signature(estimator).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
