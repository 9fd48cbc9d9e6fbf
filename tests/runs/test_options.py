"""The options of run-all: the same for the command line and for Python, declared once."""

import hashlib
import inspect
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from processes import SAFETY
from support import Run

from marginbench.benchmarks import RunOptions, run_all
from marginbench.benchmarks.contract.new_method import write_template
from marginbench.benchmarks.plugins import load_plugin
from marginbench.benchmarks.runs import forks
from marginbench.benchmarks.runs.choice import split_settings
from marginbench.benchmarks.runs.options import options
from marginbench.benchmarks.runs.work import prepare
from marginbench.methods import Batch, Context, Info, Loss, MarginbenchError, Method, Net, cross_entropy
from marginbench.methods.errors import ParameterError

GIVEN: dict[str, tuple[tuple[str, ...], Any]] = {
    "compile": (("--compile",), True),
    "suite": (("--suite", "mnist"), "mnist"),
    "methods": (("--methods", "ce,arcface(s=8,m=0.1)"), ["ce", "arcface(s=8,m=0.1)"]),
    "seeds": (("--seeds", "2"), 2),
    "device": (("--device", "cpu"), "cpu"),
    "out": (("--out", "there"), Path("there")),
    "set": (("--set", "arcface.m=0.1", "--set", "arcface.s=8"), ["arcface.m=0.1", "arcface.s=8"]),
    "redo": (("--retry",), "failed"),
    "jobs": (("--jobs", "3"), 3),
    "memory": (("--memory", "4GB"), "4GB"),
    "only": (("--only", "train"), "train"),
    "evaluation": (("--evaluation", "exhaustive"), "exhaustive"),
    "discard": (("--discard",), True),
    "curve_every": (("--curve-every", "2"), 2),
    "data_dir": (("--data-dir", "sets"), Path("sets")),
    "shard": (("--shard", "1/2"), "1/2"),
    "scheduler": (("--scheduler", "tcp://host:1"), "tcp://host:1"),
    "deadline": (("--deadline", "1.5"), 1.5),
    "stop_after": (("--stop-after", "1h30m"), "1h30m"),
    "checkpoint_every": (("--checkpoint-every", "7"), 7.0),
    "eager": (("--eager",), True),
    "report": (("--report",), True),
    "tensorboard": (("--tensorboard", "events"), Path("events")),
    "tuned": (("--tuned", "events"), Path("events")),
    "plugin": (("--plugin", "a.py", "--plugin", "b.py"), [Path("a.py"), Path("b.py")]),
    "progress": (("--no-progress",), False),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command line asks `run_all` for, which then refuses."""
    seen: dict[str, Any] = {}

    def refuse(**given: Any) -> None:
        seen.update(given)
        raise MarginbenchError("enough")

    monkeypatch.setattr("marginbench.benchmarks.runs.run_all.run_all", refuse)
    monkeypatch.setattr(forks, "load_early", lambda: None)
    return seen


@pytest.mark.parametrize("name", options())
def test_every_option_reaches_run_all_under_its_own_name(run: Run, asked: dict[str, Any], name: str) -> None:
    words, value = GIVEN[name]
    assert run("run-all", *words)[0] == 2
    assert asked.pop(name) == value
    usual = vars(RunOptions(jobs=None, data_dir=asked.get("data_dir")))
    assert asked == {key: usual[key] for key in asked}, "the others keep their defaults"


def test_fresh_repeats_everything(run: Run, asked: dict[str, Any]) -> None:
    run("run-all", "--fresh")
    assert asked["redo"] == "everything"


def test_help_on_both_sides_is_that_of_the_fields(run: Run) -> None:
    text = " ".join(run("run-all", "--help")[1].split())
    for function in (run_all, prepare):
        assert list(inspect.signature(function).parameters) == list(options())
        for name, option in options().items():
            assert f"    {name}: {option.help}" in (function.__doc__ or "")
            for flag, wanted in (option.flags or {name: ("", option.help)}).items():
                assert f"--{flag.replace('_', '-')} " in text and wanted[1] in text


WRONG = [
    ({"methods": "ce"}, "methods='ce': must be a list, as in ['ce', 'arcface(m=0.4)']"),
    ({"methods": Path("a.py")}, "must be a list"),
    ({"methods": []}, "methods=[]: names no method"),
    ({"methods": [3]}, "methods=3: write spec strings"),
    ({"set": "arcface.m=0.4"}, "set='arcface.m=0.4': must be a list"),
    ({"set": ["arcface.m"]}, "set='arcface.m': write METHOD.FIELD=VALUE"),
    ({"set": ["arcface.m=0.1", "arcface.m=0.2"]}, "'arcface.m' is given twice"),
    ({"set": ["arcface.m="]}, "set='arcface.m=': write METHOD.FIELD=VALUE"),
    ({"set": ["=0.4"]}, "set='=0.4': write METHOD.FIELD=VALUE"),
    ({"set": {"m": 0.4}}, "set='m=0.4': write METHOD.FIELD=VALUE"),
    ({"plugin": "a.py"}, "plugin='a.py': must be a list"),
    ({"seeds": 0}, "seeds=0: must be at least 1"),
    ({"jobs": 0}, "jobs=0: must be at least 1"),
    ({"seeds": "3"}, "seeds='3': must be a whole number"),
    ({"seeds": 2.5}, "seeds=2.5: must be a whole number"),
    ({"jobs": True}, "jobs=True: must be a whole number"),
    ({"checkpoint_every": None}, "checkpoint_every=None: must be a number"),
    ({"shard": 2}, "shard=2: must be a text"),
    ({"out": 3}, "out=3: must be a text or a path"),
    ({"methods": {"ce": 1}}, "methods={'ce': 1}: must be a list"),
    ({"plugin": {"a.py": 1}}, "must be a list"),
    ({"deadline": -1.0}, "deadline=-1.0: must be above 0"),
    ({"stop_after": "soon"}, "stop_after='soon': must be a time such as 30s, 9m, 2h or 1h30m"),
    ({"stop_after": "9m", "redo": "everything"}, "stop_after='9m': does not go with repeating everything"),
    ({"stop_after": 0}, "stop_after=0: must be above 0; leave it out for no limit"),
    ({"deadline": 0}, "deadline=0: must be above 0; leave it out for no limit"),
    ({"deadline": float("nan")}, "deadline=nan: must be above 0"),
    ({"checkpoint_every": -1.0}, "checkpoint_every=-1.0: must be at least 0"),
    ({"device": "gpu"}, "device='gpu': must be one of auto, cpu, cuda"),
    ({"only": "test"}, "only='test': must be one of None, train, evaluate"),
    ({"curve_every": 0}, "curve_every=0: must be at least 1"),
    ({"redo": "all"}, "redo='all': must be one of nothing, failed, everything"),
    ({"shard": "3/2"}, "shard='3/2': write I/N"),
    ({"out": "/dev/null/x"}, "out='/dev/null/x/tiny/runs': cannot be made"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_wrong_arguments_are_named_as_python_names_them(tiny: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        run_all(**{"suite": str(tiny), **wrong})
    assert message in str(caught.value) and "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seeds", "0"), "error: --seeds 0: must be at least 1"),
        (("--jobs", "0"), "error: --jobs 0: must be at least 1"),
        (("--shard", "3/2"), "error: --shard 3/2: write I/N with I from 1 to N, as in 2/4"),
        (("--set", "arcfac.m=1"), "error: --set arcfac.m=1: method 'arcfac' is not among those to run"),
        (("--checkpoint-every", "-1"), "error: --checkpoint-every -1: must be at least 0"),
    ],
)
def test_the_command_line_names_them_as_its_options(run: Run, tiny: Path, words: tuple[str, ...], message: str) -> None:
    code, out, err = run("run-all", "--suite", tiny, *words)
    assert code == 2 and out == "" and err.startswith(message)


class Twice(Method):
    """Twice the cross-entropy of logits [B, K] and labels [B]."""

    info: ClassVar[Info] = Info(
        key="twice", title="Twice", family="baselines", paper="-", section="-", year=2026, neutral="it is never ce"
    )

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        return Loss(2 * cross_entropy(net(batch.x), batch))


def test_methods_may_be_objects_classes_specs_and_files(tiny: Path, tmp_path: Path) -> None:
    plugin = write_template("my_margin", tmp_path)
    text = write_template("other_margin", tmp_path)
    outcome = run_all(str(tiny), [Twice(), "ce", plugin, str(text)], 1, "cpu", tmp_path / "out")
    assert outcome.failed == 0
    assert set(outcome.table["method"]) == {"twice", "ce", "my_margin", "other_margin"}
    again = run_all(str(tiny), [Twice], 1, "cpu", tmp_path / "out")
    assert again.repeated == 0 and again.resumed == 1


def test_a_method_of_a_notebook_runs_in_this_process(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # without a file
    monkeypatch.setattr(Twice, "__module__", "__main__")
    assert run_all(str(tiny), [Twice()], 1, "cpu", tmp_path, jobs=1).repeated == 1
    assert run_all(str(tiny), [Twice()], 1, "cpu", tmp_path, jobs=1).resumed == 1
    monkeypatch.setattr(Twice, "loss", lambda self, net, batch, ctx: Loss(3 * cross_entropy(net(batch.x), batch)))
    edited = run_all(str(tiny), [Twice()], 1, "cpu", tmp_path, jobs=1)
    assert (edited.resumed, edited.repeated) == (0, 1), "an edited cell is another method"
    with pytest.raises(ParameterError, match=r"defined in this session.*jobs=1"):
        run_all(str(tiny), [Twice()], 3, "cpu", tmp_path, jobs=2)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_a_file_that_is_edited_after_it_was_loaded_counts_as_what_was_loaded(tiny: Path, tmp_path: Path) -> None:
    plugin = write_template("my_margin", tmp_path)
    (method,) = load_plugin(plugin)

    def source(given: Any) -> str | None:
        (cell,) = prepare(str(tiny), [given], 1, "cpu", tmp_path).cells
        return cell.identity.source

    loaded = source(method)
    assert loaded == digest_of(plugin)
    plugin.write_text(plugin.read_text() + "# edited")
    assert source(method) == loaded
    assert source(plugin) == digest_of(plugin) != loaded


def test_settings_are_a_mapping_or_texts() -> None:
    given = {"arcface.m": 0.3, "training.epochs": 5}
    assert split_settings(given) == ({"training.epochs": 5}, {"arcface.m": 0.3})
    texts = [f"{key}={value}" for key, value in given.items()]
    assert split_settings(texts) == ({"training.epochs": "5"}, {"arcface.m": "0.3"})


@pytest.mark.parametrize("given", [{"arcface.m": 0.3}, ["arcface.m=0.3"]])
def test_a_setting_reaches_the_method(tiny: Path, tmp_path: Path, given: Any) -> None:
    work = prepare(str(tiny), ["arcface(s=8)"], 1, "cpu", tmp_path, given)
    assert list(work.job.options.methods or ()) == ["arcface(s=8,m=0.3)"]


@pytest.mark.parametrize("given", [{"training.epochs": 1, "arcface.m": 0.2}, ["training.epochs=1", "arcface.m=0.2"]])
def test_settings_of_the_suite_make_another_suite(tiny: Path, tmp_path: Path, given: Any) -> None:
    outcome = run_all(str(tiny), ["arcface"], 1, "cpu", tmp_path, given)
    assert outcome.runs == tmp_path / "tiny+training.epochs=1" / "runs"
    (record,) = outcome.records
    assert record.status == "done" and record.method == "arcface(m=0.2)"


def test_progress_goes_to_stderr_and_nowhere_twice(
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("marginbench.benchmarks.runs.progress.SILENCE", SAFETY)  # however slow the machine is
    run_all(str(tiny), ["ce"], 1, "cpu", tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "suite tiny: 1 method x 1 seed = 1 run" and lines[1].startswith(
        "1 run to do with 1 worker; no estimate"
    )
    assert lines[2].startswith("[1/1] ce") and lines[3] == "1 of 1 run done"

    run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, redo="everything", progress=False)
    assert capsys.readouterr().err == ""

    with caplog.at_level(logging.INFO, "marginbench"):  # logging is set up by the caller
        run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, redo="everything")
    assert capsys.readouterr().err == "" and any("[1/1] ce" in message for message in caplog.messages)


def test_what_is_said_before_the_first_run(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_all(str(tiny), ["ce"], 1, "cpu", tmp_path)
    run_all(str(tiny), ["ce"], 2, "cpu", tmp_path)
    assert "1 run to do with 1 worker, 1 have a record already; about " in capsys.readouterr().err
    run_all("smoke", ["ce"], 1, "cpu", tmp_path, shard="1/1", deadline=1e-9)
    text = capsys.readouterr().err
    assert (
        "of which this is the share 1/1" in text
        and "the suite's 6 runs: about a minute on 2 cores; of these, on this machine, the ETA after the" in text
    )


def test_cross_entropy_comes_first_in_every_repetition(tiny: Path, tmp_path: Path) -> None:
    work = prepare(str(tiny), ["svm", "ce", "mixup"], 2, "cpu", tmp_path)
    order = [(cell.method.info.key, cell.repetition) for cell in work.cells]
    assert order == [(key, repetition) for repetition in (0, 1) for key in ("ce", "svm", "mixup")]


def test_workers_are_no_forks_where_a_gpu_is_shared() -> None:
    assert forks.workers_context("cuda").get_start_method() == "spawn"
    if forks.forking():
        assert forks.workers_context("cpu").get_start_method() == "forkserver"


def test_all_methods_and_plugins_that_are_wrong_are_told_at_once(run: Run, tiny: Path, tmp_path: Path) -> None:
    words = ("run-all", "--suite", tiny, "--out", tmp_path / "out")
    code, _, err = run(*words, "--methods", "ce,arcfac,arcface(m=-1),gone.py")
    head, *lines = err.splitlines()
    assert code == 2 and head == "error: 3 problems:" and [line[:2] for line in lines] == ["- "] * 3
    assert "arcfac'" in lines[0] and "arcface.m=-1" in lines[1] and "gone.py" in lines[2]
    for name, code_text in (("a", "import nothing_there"), ("b", "x = ("), ("c", "")):
        (tmp_path / f"{name}.py").write_text(code_text)
    plugins = [word for name in "abcd" for word in ("--plugin", tmp_path / f"{name}.py")]
    for command in (words, ("methods",), ("suites",), ("check", "ce")):
        code, _, err = run(*command, *plugins)
        head, *lines = err.splitlines()
        assert code == 2 and head == "error: 4 problems:"
        for name, line in zip("abcd", lines, strict=True):
            assert line.startswith("- plug-in ") and f"{name}.py" in line


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--fresh", "--retry"), "--retry: does not go with --fresh"),
        (("--only", "evaluate", "--curve-every", "2"), "--curve-every 2: is for trainings"),
        (("--only", "evaluate", "--checkpoint-every", "7"), "--checkpoint-every 7: is for trainings"),
        (("--only", "evaluate", "--eager"), "--eager: is for trainings"),
        (("--only", "evaluate", "--tensorboard", "events"), "--tensorboard events: is for trainings"),
        (("--only", "train", "--report"), "--report: needs an evaluation"),
        (("--scheduler", "tcp://host:1", "--jobs", "2"), "--jobs 2: does nothing on a cluster"),
    ],
)
def test_options_that_would_do_nothing_are_refused(run: Run, words: tuple[str, ...], problem: str) -> None:
    code, _, err = run("run-all", *words)
    assert code == 2 and err.startswith(f"error: {problem}") and len(err.splitlines()) == 1
