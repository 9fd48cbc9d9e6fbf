"""A suite says what is compared: data, network, budget, radii, estimators. One TOML file each."""

import itertools
import math
import tomllib
from collections.abc import Mapping, Set
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from marginbench.benchmarks.data.dataset import Dataset, load_data
from marginbench.benchmarks.data.sentence_sets import is_text
from marginbench.benchmarks.machine.files import digest
from marginbench.benchmarks.plugins import load_installed_plugins
from marginbench.benchmarks.probes.scan import PROBES
from marginbench.benchmarks.section import Count, Section
from marginbench.benchmarks.suites.evaluation import OF_IMAGES, RADII, Evaluation, check_estimators, in_pixels
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.suites.training import Training
from marginbench.methods import NORMS, MarginbenchError, Norm, rows
from marginbench.methods.errors import Problems, suggest

MOST_SEEDS = 10_000  # of one method: more are a slip
INTERNAL = ("folder", "base", "changes")  # fields that are no keys of a file
WHICH = {"methods", "without", "seeds"}  # keys that say which runs there are, and not what they are


class Data(Section):
    """The keys are the arguments of `load_data`."""

    name: str
    validation: Count
    train_size: Count | None = None  # images to train on; default: all that are left
    imbalance: float | None = Field(default=None, ge=1)  # first class to last, in images: a long-tailed training split
    size: Count | None = None  # height and width to which the images of a folder are scaled
    max_length: Count | None = None  # tokens of a sentence or pair, of sets with a tokenizer; default: 128
    evaluate: Literal["validation"] | None = None  # for choices: on these, and without doubts; default: the test split


class Suite(Section):
    """A whole file. All of it but `title`, `methods`, `without` and `seeds` enters the hash of a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    title: str
    methods: tuple[str, ...] | None = Field(default=None, min_length=1)  # default: all registered
    without: tuple[str, ...] | None = Field(default=None, min_length=1)  # rows of all registered that are left out
    seeds: int = Field(gt=0, le=MOST_SEEDS)
    data: Data
    network: Network
    training: Training
    evaluation: Evaluation
    folder: Path = Field(exclude=True)  # of the file; what the file names is relative to it
    base: "Suite | None" = Field(default=None, exclude=True)  # what it was derived from, and by which changes
    changes: dict[str, Any] = Field(default_factory=dict, exclude=True)

    @property
    def rows(self) -> tuple[str, ...]:
        """Specs of what is compared unless a call names methods.

        Raises:
            MarginbenchError: there is no such row to leave out.
        """
        if self.methods is not None:
            return self.methods
        every, without = rows(), self.without or ()
        if unknown := [name for name in without if name not in every]:
            raise MarginbenchError(f"suite {self.name}: without: no row {unknown[0]!r}: {suggest(unknown[0], every)}")
        return tuple(name for name in every if name not in without)

    @model_validator(mode="after")
    def _one_list(self) -> "Suite":
        if self.methods is not None and self.without is not None:
            raise ValueError("without: leaves rows out of all there are; with methods = [...] leave them out there")
        return self

    @property
    def stream_name(self) -> str:
        """Seeds the random streams: a derived suite shares initial weights and draws with its base, paired with it."""
        return self.name if self.base is None else self.base.name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what a run depends on."""
        values = self.model_dump(mode="json", exclude={"title", *WHICH}, exclude_none=True)
        sources = self.evaluation.sources()
        return digest({**values, "sources": sources} if sources else values)

    @property
    def recipe(self) -> dict[str, Any]:
        """The sections that a training depends on, with the names that its draws are seeded from."""
        sections = self.model_dump(mode="json", include={"data", "network", "training"}, exclude_none=True)
        sections["training"].pop("epsilon", None)  # of the methods that need it: see `trained_for`
        sections["data"].pop("evaluate", None)  # of the evaluation
        return {**sections, "stream": self.stream_name}

    @property
    def trained_for(self) -> dict[Norm, float]:
        """The radii that methods train for, in pixels of [0, 1].

        Those of `training.epsilon`, or else of the evaluation: that of the suite which this one was derived from, so
        that an evaluation at other radii trains nothing.
        """
        return {**(self.base or self).evaluation.epsilon, **(self.training.epsilon or {})}

    def load_data(self, data_dir: str | Path | None = None) -> Dataset:
        """The data set, from a folder of data sets. Default: see `data_folder`.

        Raises:
            MarginbenchError: as `load_data`, a missing package that the network needs, or a radius that reaches every
                image.
        """
        network = self.network.architecture()
        if network.text != is_text(self.data.name):
            reads, are = ("sentences", "images")[:: 1 if network.text else -1]
            raise MarginbenchError(
                f"network {self.network.label!r} reads {reads}, and the data {self.data.name!r} are {are}"
            )
        problems, keys = Problems(), self.data.model_dump()
        if network.needs is not None:
            with problems.collected():
                network.needs.check(f"network {self.network.label!r}")
        with problems.collected():
            data = load_data(**keys, folder=self.folder, data_dir=data_dir, checkpoint=self.network.checkpoint)
        problems.report()
        if data.text is not None:
            return data
        radius, widest = self.evaluation.epsilon["l2"], math.sqrt(math.prod(data.shape))
        if radius >= widest:
            raise MarginbenchError(
                f"evaluation.epsilon: l2={radius:g} reaches every image, since pixels are in [0, 1]: no two are further"
                f" than {widest:.4g} apart{in_pixels(radius)}"
            )
        return data


def suite_names() -> list[str]:
    """The suites that come with marginbench."""
    folder = resources.files("marginbench.benchmarks.suites")
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def read_suite(name: str) -> tuple[Path, str]:
    """The file of a built-in suite, by name, or another file by its path; and its text.

    Raises:
        MarginbenchError: unknown suite, or a file that is missing or no UTF-8 text.
    """
    if name.endswith(".toml") or "/" in name:
        path = Path(name)
    elif name in suite_names():
        path = Path(str(resources.files("marginbench.benchmarks.suites"))) / f"{name}.toml"
    else:
        raise MarginbenchError(f"unknown suite {name!r}: {suggest(name, suite_names())}; or give a FILE.toml")
    try:
        return path, path.read_text(encoding="utf-8-sig")  # editors of Windows write a mark first
    except OSError as error:
        raise MarginbenchError(f"suite {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise MarginbenchError(f"suite {path}: not UTF-8 text ({error}): save it as UTF-8") from None


def comment(suite_name: str) -> str:
    """What a suite's file says about itself: the comment at its beginning, without its #."""
    head = itertools.takewhile(lambda line: line.startswith("#"), read_suite(suite_name)[1].splitlines())
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in head)


def load_suite(name: str) -> Suite:
    """Load a built-in suite by name or a suite file by path.

    Raises:
        MarginbenchError: unknown suite, missing file, or a key that is wrong, each named with its path.
    """
    load_installed_plugins()  # a suite may name what they add
    path, text = read_suite(name)
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:  # brackets in brackets in brackets ...
        raise MarginbenchError(f"suite {path}: not valid TOML: {error}") from None
    return make_suite(resolve_files(values, path.parent), path.parent, f"suite {path}")


def make_suite(values: dict[str, Any], folder: Path, where: str) -> Suite:
    """A suite from the content of a file, checked.

    Args:
        folder: of the file.
        where: begins the error messages, as in "suite mine.toml".

    Raises:
        MarginbenchError: a key is wrong, each is named with its path.
    """
    problems = Problems(where)
    for key in sorted(set(INTERNAL) & set(values)):
        problems.add(_unknown((key,)))
    values = {key: value for key, value in values.items() if key not in INTERNAL}
    for key in ("methods", "without"):
        if isinstance(values.get(key), list):  # TOML knows no tuples
            values = {**values, key: tuple(values[key])}
    for problem in _missing(values):
        problems.add(problem)
    suite = None
    try:
        suite = Suite(**values, folder=folder)
        estimators: Evaluation | None = suite.evaluation
    except ValidationError as error:
        told = [(one["type"], one["loc"], _explain(one)) for one in error.errors()]
        meant = [(at[:-1], text) for kind, at, text in told if kind == "extra_forbidden"]
        for kind, at, text in told:
            misspelt = any(section == at[:-1] and f"did you mean {at[-1]!r}?" in other for section, other in meant)
            if not (kind == "missing" and misspelt):
                problems.add(text)
        estimators = _estimators_of(values, {one["loc"][1] for one in error.errors() if len(one["loc"]) > 1})
    if estimators is not None:
        check_estimators(estimators, problems)
    problems.report()
    assert suite is not None
    return suite


def _missing(values: Mapping[str, Any]) -> list[str]:
    """What the evaluation of a suite of images lacks, in words."""
    data, evaluation = values.get("data"), values.get("evaluation")
    if not (isinstance(data, Mapping) and isinstance(evaluation, Mapping)) or is_text(str(data.get("name"))):
        return []
    empty = [f"evaluation.epsilon: {RADII}"] if evaluation.get("epsilon") == {} else []
    return [f"key 'evaluation.{key}' is missing" for key in OF_IMAGES if key not in evaluation] + empty


def _estimators_of(values: Mapping[str, Any], wrong: Set[Any]) -> Evaluation | None:
    """The attacks and certificates of a section [evaluation] in which other keys are wrong."""
    section = values.get("evaluation")
    if not isinstance(section, Mapping):
        return None
    tables = {key: {} if key in wrong else section.get(key, {}) for key in ("attacks", "certificates")}
    return Evaluation(epsilon=dict.fromkeys(NORMS, 0.1), points=1, **tables)


def resolve_files(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values, in which `file = "FILE.py:FUNCTION"` is an absolute path, at any depth."""

    def resolve(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return resolve_files(value, folder)
        return str((folder / value).resolve()) if key == "file" and isinstance(value, str) else value

    return {key: resolve(key, value) for key, value in values.items()}


def _explain(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return _unknown(error["loc"])
    if error["type"] == "missing":
        return f"key {where!r} is missing"
    text = error["msg"].removeprefix("Value error, ")
    text = f"{text[0].lower()}{text[1:]}"
    return f"{where}: {text}" if isinstance(error["input"], dict) else f"{where}={error['input']!r:.80}: {text}"


def _unknown(path: tuple[Any, ...]) -> str:
    section: Any = Suite
    for part in path[:-1]:
        if hasattr(section, "inside"):  # what it may hold is found by name
            section = section.inside(part)
            continue
        annotation = PROBES[part] if section is Evaluation else section.model_fields[part].annotation
        section = next((kind for kind in get_args(annotation) if kind is not NoneType), annotation)
    known = [name for name in section.model_fields if name not in INTERNAL]
    known += PROBES if section is Evaluation else ()
    return f"unknown key {'.'.join(map(str, path))!r}: {suggest(str(path[-1]), known)}"
