"""Every option of `run-all`, once: the arguments of `run_all` and the options of the command are made of these fields.

Imports nothing heavy, so that `marginbench run-all --help` answers at once.
"""
# ruff: noqa: RUF009 (`_field` is a `dataclasses.field`)

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, get_args

from marginbench.benchmarks.machine.budget import parse_size
from marginbench.benchmarks.machine.deadline import parse_duration
from marginbench.benchmarks.records.reader import RESULTS
from marginbench.methods.errors import ParameterError

if TYPE_CHECKING:
    from marginbench.methods import Method

Device = Literal["auto", "cpu", "cuda"]
Redo = Literal["nothing", "failed", "everything"]
Stage = Literal["train", "evaluate"]
P = ParamSpec("P")
T = TypeVar("T")

SUITE = "digits"
VERIFIED = 5  # runs that `verify` does again
PLUGINS = "Python file that adds a method, an attack, a probe, ..."
SETS = "Folder of data sets: NAME.npz, or torchvision's files, which are downloaded into it. Default: the user's cache."
MEMORY = "Memory to plan evaluations with, as in 4GB, shared by the workers. Default: what is available."
_LISTS = {"methods": "['ce', 'arcface(m=0.4)']", "set": "['arcface.m=0.4']", "plugin": "['my_margin.py']"}
_TRAINS = "is for trainings, of which there are none in this stage"
_UNUSED: Mapping[Stage, Mapping[str, str]] = {  # by stage, options that it has no use for
    "train": {
        "discard": "needs an evaluation, after which the network is removed",
        "report": "needs an evaluation, whose record it shows",
    },
    "evaluate": dict.fromkeys(("curve_every", "checkpoint_every", "eager", "tensorboard"), _TRAINS),
}
_KINDS: Mapping[str, tuple[Any, str]] = {
    "suite": (str | Path | None, "a text or a path"),
    "out": (str | Path, "a text or a path"),
    "data_dir": (str | Path | None, "a text or a path"),
    "tensorboard": (str | Path | None, "a text or a path"),
    "tuned": (str | Path | None, "a text or a path"),
    "seeds": (Integral | None, "a whole number"),
    "curve_every": (Integral | None, "a whole number"),
    "jobs": (Integral | None, "a whole number"),
    "deadline": (Real | None, "a number of seconds"),
    "stop_after": (str | Real | None, "a time such as 9m, or a number of seconds"),
    "checkpoint_every": (Real, "a number of seconds"),
    "shard": (str | None, "a text"),
    "scheduler": (str | None, "a text"),
    "memory": (str | Integral | None, "a size such as 4GB, or a number of bytes"),
}


@dataclass(frozen=True)
class Option:
    """How a field appears on the command line, under its own name."""

    help: str
    type: Any  # what the command line reads
    metavar: str | None = None
    parse: Callable[[Any], Any] | None = None  # turns that into the field, where they differ
    flags: Mapping[str, tuple[str, str]] | None = None  # name of each flag, the field's value that it means, its help
    envvar: str | None = None
    command_default: Any = ...  # where the command line has another one


def _field(default: Any, help: str, type: Any, **how: Any) -> Any:
    return dataclasses.field(default=default, metadata={"option": Option(help, type, **how)})


def _specs(text: str | None) -> list[str] | None:
    from marginbench.methods.spec import split_specs

    return None if text is None else split_specs(text)


@dataclass(frozen=True)
class RunOptions:
    """What `run_all` is asked to do.

    Raises:
        ParameterError: a value that is wrong whatever the suite.
    """

    suite: str | Path | None = _field(
        None, "Built-in suite such as digits, the default, or a FILE.toml of your own.", str | None
    )
    methods: Sequence[str | Path | Method | type[Method]] | None = _field(
        None,
        "As in 'ce,arcface(m=0.4)'; a FILE.py stands for the methods in it. Default: the suite's list, or all.",
        str | None,
        metavar="SPEC[,SPEC...]",
        parse=_specs,
    )
    seeds: int | None = _field(None, "Seeds per method. Default: the suite's.", int | None, metavar="N")
    device: Device = _field("auto", "Where to train and evaluate.", Device)
    out: str | Path = _field(RESULTS, "Folder for records and tables.", Path, metavar="DIR")
    set: Mapping[str, Any] | Sequence[str] = _field(
        (),
        "Change a hyper-parameter of a method or a setting of the suite, as in arcface.m=0.4 or training.epochs=5.",
        list[str] | None,
        metavar="KEY=VALUE",
    )
    redo: Redo = _field(
        "nothing",
        "Finished runs that are repeated: nothing, those that failed, or everything.",
        bool,
        flags={
            "fresh": ("everything", "Repeat runs that have a record already."),
            "retry": ("failed", "Repeat runs that failed."),
        },
    )
    only: Stage | None = _field(
        None, "Do one of the two stages. Networks are kept between them, and others may do the other.", Stage | None
    )
    evaluation: str | Path | None = _field(
        None,
        "Evaluate with other attacks, quick or exhaustive, or as another suite does. Nothing is trained again.",
        str | None,
        metavar="PRESET|SUITE|FILE.toml",
    )
    discard: bool = _field(False, "Remove each network after its evaluation.", bool)
    curve_every: int | None = _field(
        None,
        "Epochs between two points of the learning curve. Default: as few as take 2 % of the training.",
        int | None,
        metavar="N",
    )
    jobs: int | None = _field(
        1,
        "Runs at once: processes that share the cores; on a GPU, trainings of one process. Default of the command: as"
        " many as are worth it.",
        int | None,
        metavar="N",
        command_default=None,
    )
    memory: str | int | None = _field(None, MEMORY, str | None, metavar="SIZE")
    data_dir: str | Path | None = _field(None, SETS, Path | None, metavar="DIR", envvar="MARGINBENCH_DATA")
    shard: str | None = _field(
        None, "Do every N-th run from the I-th on: one share of N machines.", str | None, metavar="I/N"
    )
    scheduler: str | None = _field(None, "Use the workers of this Dask cluster.", str | None, metavar="ADDRESS|FILE")
    deadline: float | None = _field(
        None,
        "A run that takes longer counts as failed; one that hangs is killed, though not on a cluster.",
        float | None,
        metavar="SECONDS",
    )
    stop_after: str | float | None = _field(
        None,
        "Stop in order after this time, as in 9m, 2h or 1h30m: begin nothing that will not be done by then, and keep"
        " what is under way. The same call goes on.",
        str | None,
        metavar="TIME",
    )
    checkpoint_every: float = _field(
        300.0, "Time between checkpoints, from which an interrupted run resumes.", float, metavar="SECONDS"
    )
    eager: bool = _field(False, "On CUDA, do every training step instead of replaying a recorded one.", bool)
    compile: bool = _field(
        False, "On CUDA, let torch.compile make networks faster where it pays. Numbers differ by rounding.", bool
    )
    tuned: str | Path | None = _field(
        None,
        "Beside each row its tuned one, with the settings that `marginbench tune` has put below this folder. Their"
        " suite is the default.",
        Path | None,
        metavar="DIR",
    )
    report: bool = _field(
        False, "Keep SUITE/report.html up to date: after each seed that all rows have ended, and at the end.", bool
    )
    tensorboard: str | Path | None = _field(
        None,
        "Write loss, learning rate and accuracies of every training here, for TensorBoard, which is an extra.",
        Path | None,
        metavar="DIR",
    )
    plugin: Sequence[str | Path] = _field((), PLUGINS, list[Path] | None, metavar="FILE.py")
    progress: bool = _field(True, "Say what there is to do, and report every finished run.", bool)

    def __post_init__(self) -> None:
        for name, example in _LISTS.items():
            value = getattr(self, name)
            kinds = Sequence | Mapping | None if name == "set" else Sequence | None
            if isinstance(value, str) or not isinstance(value, kinds):
                raise ParameterError(name, value, f"must be a list, as in {example}")
        if self.methods is not None and not self.methods:
            raise ParameterError("methods", self.methods, "names no method; leave it out for all of them")
        for name, (kind, what) in _KINDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise ParameterError(name, value, f"must be {what}")
        for name, smallest in (("seeds", 1), ("jobs", 1), ("curve_every", 1), ("checkpoint_every", 0)):
            value = getattr(self, name)
            if value is not None and not value >= smallest:
                raise ParameterError(name, value, f"must be at least {smallest}")
        if self.memory is not None:
            parse_size(self.memory)
        _check_slot(self.stop_after, self.redo)
        if self.deadline is not None and not self.deadline > 0:
            raise ParameterError("deadline", self.deadline, "must be above 0; leave it out for no limit")
        choice = {"device": get_args(Device), "redo": get_args(Redo), "only": (None, *get_args(Stage))}
        for name, choices in choice.items():
            if getattr(self, name) not in choices:
                raise ParameterError(name, getattr(self, name), f"must be one of {', '.join(map(str, choices))}")
        _check_use(self)


def _check_use(options: RunOptions) -> None:
    """Complain of an option that would do nothing."""
    if options.scheduler is not None and options.jobs not in (None, 1):
        raise ParameterError("jobs", options.jobs, "does nothing on a cluster, whose workers do one run each")
    if options.only is None:
        return
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default and (why := _UNUSED[options.only].get(field.name)):
            raise ParameterError(field.name, value, why)


def _check_slot(stop_after: str | float | None, redo: Redo) -> None:
    if stop_after is None:
        return
    parse_duration(stop_after)
    if redo == "everything":
        problem = "does not go with repeating everything, which every call would begin anew: choose another folder"
        raise ParameterError("stop_after", stop_after, problem)


def options() -> dict[str, Option]:
    """How each field of `RunOptions` appears on the command line."""
    return {field.name: field.metadata["option"] for field in dataclasses.fields(RunOptions)}


def spelled_out(made_by: Callable[P, RunOptions]) -> Callable[[Callable[[RunOptions], T]], Callable[P, T]]:
    """A decorator: the function takes the fields of its `RunOptions` as arguments of its own.

    Args:
        made_by: `RunOptions` itself, from which type checkers and `help` know the arguments.
    """

    def decorate(function: Callable[[RunOptions], T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return function(made_by(*args, **kwargs))

        arguments = [f"    {name}: {option.help}" for name, option in options().items()]
        head, raises, tail = inspect.cleandoc(function.__doc__ or "").partition("Raises:\n")
        call.__doc__ = "\n".join([f"{head}Args:", *arguments, "", f"{raises}{tail}"])
        signature = inspect.signature(made_by)
        returned = inspect.signature(function).return_annotation
        call.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
        return call

    return decorate
