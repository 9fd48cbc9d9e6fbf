"""Tuning from end to end: equal budgets, the same trials however they were done, and no test image."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import MARGINBENCH, Start, wait_for
from support import Run

from marginbench.benchmarks.contract.new_method import write_template
from marginbench.benchmarks.data import dataset
from marginbench.benchmarks.data.sources import find
from marginbench.benchmarks.plugins import forget_plugins
from marginbench.benchmarks.records.choice import outcome as outcome_of
from marginbench.benchmarks.records.reader import read_record
from marginbench.benchmarks.records.settings import read_setting, setting_paths, write_setting
from marginbench.benchmarks.records.training import read_training
from marginbench.benchmarks.records.tuning import Tuning
from marginbench.benchmarks.runs.options import RunOptions
from marginbench.benchmarks.runs.run_all import run_all
from marginbench.benchmarks.runs.tuned import tuned_rows
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import MOST_SEEDS, load_suite
from marginbench.benchmarks.tuning.options import TuneOptions
from marginbench.benchmarks.tuning.tune import TuneOutcome, tune
from marginbench.methods import MarginbenchError, create
from marginbench.methods.errors import ParameterError

METHODS = ["ce", "arcface"]
ARCFACE: dict[str, Any] = {"trials": 3, "methods": ["arcface"]}


def tuned(suite: Path, out: Path, jobs: int = 1, run: dict[str, Any] | None = None, **options: Any) -> TuneOutcome:
    of_run = RunOptions(suite=str(suite), out=out, jobs=jobs, device="cpu", progress=False, **(run or {}))
    return tune(TuneOptions(**{"methods": METHODS, "trials": 3, "run": of_run, **options}))


def what(tuning: Tuning) -> Any:
    """All of a setting but times: what must be the same whoever did it."""
    history = [replace(trial, seconds=0.0, finished="") for trial in tuning.history]
    return replace(tuning, seconds=0.0, date="", history=history)


def test_every_row_has_exactly_its_trials_with_two_processes(tiny: Path, tmp_path: Path) -> None:
    alone, two = tuned(tiny, tmp_path / "a"), tuned(tiny, tmp_path / "b", jobs=2)
    assert alone.trials == two.trials == 6
    assert sorted(map(str, map(what, alone.settings))) == sorted(map(str, map(what, two.settings)))
    for tuning in two.settings:
        assert [trial.number for trial in tuning.history] == [0, 1, 2] and tuning.trials == 3
        assert tuning.history[0].method == tuning.row  # the published default
        assert tuning.history[tuning.chosen].value == max(trial.value or 0 for trial in tuning.history)
    ce = next(tuning for tuning in two.settings if tuning.row == "ce")
    assert (ce.distinct, ce.history[2].repeats, ce.history[2].seconds) == (1, 0, 0.0)  # nothing to search: trained once


def test_a_trial_is_a_training_with_its_record_and_a_seed_of_its_own(tiny: Path, tmp_path: Path) -> None:
    (tuning,) = tuned(tiny, tmp_path, seed=2, recipe=True, **ARCFACE).settings
    folder = tmp_path / "tiny" / "tuning"
    trainings = [read_training(path) for path in (folder / "networks").glob("*.json")]
    records = [read_record(path) for path in (folder / "validation_accuracy+recipe+seed=2" / "trials").glob("*.json")]
    assert len(trainings) == len(records) == tuning.distinct == 3
    assert {training.repetition for training in trainings} == {MOST_SEEDS + 2} == {tuning.repetition}
    assert {record.identity.training for record in records} == {training.id for training in trainings}
    rates = {training.identity.recipe["training"]["learning_rate"] for training in trainings}
    of_trials = {trial.recipe.get("training.learning_rate", 1e-2) for trial in tuning.history}
    assert rates == of_trials and len(rates) == 3  # the recipe is part of what a training is
    accuracies = sorted(record.metrics["clean_accuracy"] for record in records)
    assert accuracies == sorted(trial.clean_accuracy or 0.0 for trial in tuning.history)
    for record in records:
        assert record.metrics["clean_accuracy"] == pytest.approx(record.metrics["validation_accuracy"])


@pytest.mark.parametrize("objective", ["validation_accuracy", "robust_accuracy"])
def test_no_test_image_is_touched(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str) -> None:
    before = tuned(tiny, tmp_path / "a", objective=objective, **ARCFACE)

    class Untouchable(np.ndarray):
        """Whatever is done with it."""

        def _refuse(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("a test image is looked at")

        __array_ufunc__ = __array_function__ = __getitem__ = tobytes = _refuse

    def without_test(*arguments: Any) -> Any:
        found = find(*arguments)
        return replace(found, x_test=found.x_test.view(Untouchable), y_test=found.y_test.view(Untouchable))

    monkeypatch.setattr(dataset, "find", without_test)
    after = tuned(tiny, tmp_path / "b", objective=objective, **ARCFACE)
    assert [what(tuning) for tuning in after.settings] == [what(tuning) for tuning in before.settings]
    with pytest.raises(AssertionError, match="a test image is looked at"):
        dataset.load_data("digits", 200, tmp_path)  # the stand-in does complain


def test_one_that_was_killed_goes_on(tiny: Path, tmp_path: Path, start: Start) -> None:
    words = ["tune", "--suite", tiny, "--methods", "arcface", "--trials", "6", "--jobs", "2"]
    process = start(MARGINBENCH, *words, "--out", tmp_path / "a")
    trials = tmp_path / "a" / "tiny" / "tuning" / "validation_accuracy" / "trials"
    wait_for(lambda: len(list(trials.glob("*.json"))) >= 2, process)
    process.kill_group()
    done = {path.name: path.read_bytes() for path in trials.glob("*.json")}
    rest = tuned(tiny, tmp_path / "a", trials=6, methods=["arcface"])
    assert all((trials / name).read_bytes() == content for name, content in done.items())  # no trial twice
    whole = tuned(tiny, tmp_path / "b", trials=6, methods=["arcface"])
    assert whole.trials == 6 and rest.trials < 6
    assert what(rest.settings[0]) == what(whole.settings[0])
    more = tuned(tiny, tmp_path / "a", trials=7, methods=["arcface"])
    assert more.trials == 1 and more.settings[0].history[:6] == rest.settings[0].history
    fewer = tuned(tiny, tmp_path / "a", trials=6, methods=["arcface"])  # of a longer study the first ones count
    assert (fewer.trials, fewer.settings) == (0, rest.settings)


def test_a_trial_that_diverges_counts(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "fragile.py"
    file.write_text(FRAGILE)
    outcome = tuned(tiny, tmp_path / "out", methods=[str(file)], trials=10, jobs=2)
    (tuning,) = outcome.settings
    assert tuning.trials == 10 and 0 < tuning.failed < 10
    for trial in tuning.history:
        assert (trial.status == "failed") == (trial.number > 0 and "not finite" in str(trial.error))
    assert tuning.history[tuning.chosen].status == "done" and tuning.source is not None


FRAGILE = '''
from marginbench.methods import Info, Loss, Method, cross_entropy, param


class Fragile(Method):
    """Cross-entropy that diverges for every weight but its default."""

    info = Info(
        key="fragile", title="Fragile", family="output_margin", paper="none", section="1", year=2026, revision=1,
        neutral={"weight": 0.5},
    )
    weight: float = param(0.5, "factor", unit="1", source="none", search=(0.5, 1.0), ge=0)

    def loss(self, net, batch, ctx):
        loss = cross_entropy(net(batch.x), batch)
        return Loss(loss if self.weight == 0.5 else loss * float("inf"))
'''


def test_rows_that_another_process_holds_are_left_to_it(tiny: Path, tmp_path: Path) -> None:
    from marginbench.benchmarks.tuning.work import prepare

    options = TuneOptions(methods=METHODS, trials=2, run=RunOptions(suite=str(tiny), out=tmp_path, progress=False))
    with prepare(options).lock("arcface") as got:
        assert got
        outcome = tune(options)
    assert (outcome.elsewhere, [tuning.row for tuning in outcome.settings]) == (["arcface"], ["ce"])
    assert tune(options).elsewhere == []


def test_machines_share_the_rows_and_are_merged(tiny: Path, tmp_path: Path, run: Run) -> None:
    for share in ("1/2", "2/2"):
        tuned(tiny, tmp_path / share[0], run={"shard": share})
    joined = tuned(tiny, tmp_path / "1", merge=[tmp_path / "2"])
    assert joined.trials == 0 and {tuning.row for tuning in joined.settings} == set(METHODS)
    assert [what(one) for one in joined.settings] == [what(one) for one in tuned(tiny, tmp_path / "whole").settings]
    names = [sorted(p.name for p in (tmp_path / o / "tiny/tuning/networks").glob("*")) for o in ("1", "whole")]
    assert names[0] == names[1]
    longer = tuned(tiny, tmp_path / "2", trials=4)
    assert tuned(tiny, tmp_path / "1", trials=4, merge=[tmp_path / "2"]).settings == longer.settings


def test_what_cannot_be_merged_is_refused_with_its_remedy(tiny: Path, tmp_path: Path, run: Run) -> None:
    other, empty = tmp_path / "other", tmp_path / "empty"
    tuned(tiny, other, methods=["ce"], trials=1)
    empty.mkdir()

    def refusal(folder: Path, *words: str) -> str:
        command = ("tune", "--suite", tiny, "--methods", "ce", "--trials", "1", "--merge", folder, *words)
        code, _, err = run(*command, "--out", tmp_path / "here", "--jobs", "1")
        assert code == 2
        return err.splitlines()[-1].removeprefix(f"error: --merge {folder}: ")

    assert refusal(tmp_path / "none") == "no such folder"
    assert refusal(empty) == "holds no tuning: name the folder that was --out of `marginbench tune` there"
    assert refusal(other / "tiny") == refusal(empty)
    assert refusal(other, "--recipe") == (
        "holds validation_accuracy of suite tiny, and this tuning is validation_accuracy+recipe: give the same options"
        " as there"
    )
    assert refusal(other, "--set", "training.epochs=1") == (
        "holds tunings of suite tiny, and this one is of tiny+training.epochs=1: give the same --suite and --set"
    )
    tiny.write_text(tiny.read_text().replace("epochs = 2", "epochs = 1"))
    assert refusal(other).startswith(
        "was tuned with another version of suite tiny, in the data, the network or the rec"
    )


def test_trials_by_other_rules_are_told_and_not_counted(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tuned(tiny, tmp_path, methods=["ce"], trials=1)
    assert "begun anew" not in caplog.text
    tiny.write_text(tiny.read_text().replace("epochs = 2", "epochs = 1"))
    assert tuned(tiny, tmp_path, methods=["ce"], trials=1).trials == 1
    assert "row ce: begun anew, as the trials in" in caplog.text


def test_tunings_by_other_objectives_share_trainings_and_have_folders_of_their_own(tiny: Path, tmp_path: Path) -> None:
    tuned(tiny, tmp_path, **ARCFACE)
    networks = tmp_path / "tiny" / "tuning" / "networks"
    before = {path.name for path in networks.glob("*.json")}
    robust = tuned(tiny, tmp_path, objective="robust_accuracy", norm="l2", **ARCFACE)
    (tuning,) = robust.settings
    assert before < {path.name for path in networks.glob("*.json")}  # the default of ce, for the floor
    assert (tuning.norm, tuning.epsilon) == ("l2", 0.25) and tuning.floor is not None
    front = tuned(tiny, tmp_path, objective="pareto", pick="knee", **ARCFACE)
    assert front.settings[0].history[0].value is None and "nearest" in front.settings[0].rule
    again = tuned(tiny, tmp_path, objective="pareto", pick="clean", **ARCFACE)
    assert again.trials == 0 and again.folder == front.folder  # the same trials, another choice
    tuned(tiny, tmp_path, objective="pareto", pick="knee", **ARCFACE | {"methods": ["ce"]})
    with pytest.raises(MarginbenchError, match=r"not tuned alike: ce .*, of which of the front.*: tune all"):
        tuned_rows(again.folder, load_suite(str(tiny)), [create("ce"), create("arcface")])
    folders = {path.parent.parent.name for path in setting_paths(tmp_path)}
    assert folders == {"validation_accuracy", "robust_accuracy+l2", "pareto+linf"}


def test_the_setting_is_a_file_that_says_where_it_comes_from(tiny: Path, tmp_path: Path) -> None:
    outcome = tuned(tiny, tmp_path, **ARCFACE)
    (file,) = outcome.files
    assert read_setting(file) == outcome.settings[0]
    text = file.read_text()
    for line in ('row = "arcface"', 'suite = "tiny"', "trials = 3", "seed = 0", 'objective = "validation_accuracy"'):
        assert line in text
    assert "run-all with the --suite and --set of the tuning, and --tuned DIR" in text
    file.write_text(text.replace("trials = 3", 'trials = "3"'))
    with pytest.raises(MarginbenchError, match=r"arcface.toml: key 'trials': should be a whole number.*tune"):
        read_setting(file)


def test_default_and_tuned_rows_stand_beside_each_other(tiny: Path, tmp_path: Path, run: Run) -> None:
    common = ["--suite", tiny, "--methods", "arcface", "--out", tmp_path, "--jobs", "1"]
    code, out, err = run("tune", *common, "--trials", "4", "--recipe")
    assert code == 0, err
    folder = tmp_path / "tiny" / "tuning" / "validation_accuracy+recipe"
    told = next(line for line in out.splitlines() if line.startswith("Run them beside"))
    assert f": marginbench run-all --suite {tiny} " in told and "| arcface |" in out
    assert told.endswith(f" --methods arcface --out {tmp_path} --tuned {folder}")
    assert "[4/4] " in err and "ETA 0 s" in err
    code, _, err = run("run-all", *common, "--tuned", tmp_path)
    assert code == 0, err
    records = [read_record(path) for path in (tmp_path / "tiny" / "runs").glob("*.json")]
    assert sorted(record.method for record in records) == ["arcface", "arcface+tuned"]
    settings = {tuning.name: tuning for tuning in map(read_setting, setting_paths(tmp_path))}
    for record in records:
        assert record.repetition == 0  # a seed that tuning, with those from 10,000 on, has not seen
        if record.method in settings:
            tuning = settings[record.method]
            assert record.tuning == tuning and (record.identity.recipe or {}) == tuning.recipe
            training = read_training(tmp_path / "networks" / f"{record.identity.training}.json")
            rate = training.identity.recipe["training"]["learning_rate"]
            assert (training.method, rate) == (tuning.method, tuning.recipe.get("training.learning_rate", 1e-2))
        else:
            assert record.tuning is None and "tuning" not in json.loads(
                (tmp_path / "tiny" / "runs" / f"{record.id}.json").read_text()
            )
    page = (tmp_path / "tiny" / "tuning.md").read_text()
    assert "| arcface " in page and " → " in page
    assert "every row with 4 trials, recipe included, by validation accuracy" in page
    board = (tmp_path / "tiny" / "leaderboard.md").read_text()
    assert "| arcface+tuned" in board and "stale" not in board
    code, out, err = run("run-all", *common, "--tuned", folder)
    assert code == 0 and "0 runs done, 2 had a record already" in out


def test_the_command_that_is_told_finds_methods_of_files(tiny: Path, tmp_path: Path, run: Run) -> None:
    file = write_template("my_margin", tmp_path)
    given = ("--suite", tiny, "--out", tmp_path / "out", "--data-dir", tmp_path)
    code, out, err = run("tune", *given, "--methods", file, "--trials", "2", "--jobs", "1")
    assert code == 0, err
    told = next(line for line in out.splitlines() if line.startswith("Run them beside"))
    words = shlex.split(told.partition(": marginbench ")[2])
    assert words[words.index("--methods") + 1] == "my_margin" and words[words.index("--plugin") + 1] == str(file)
    forget_plugins()
    code, _, err = run(*words, "--jobs", "1", "--seeds", "1")
    assert code == 0, err


def test_trials_are_networks_without_a_row(tiny: Path, tmp_path: Path, run: Run) -> None:
    run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, only="train")
    tuned(tiny, tmp_path, methods=["ce", "arcface"], trials=2)
    common = ["--suite", tiny, "--out", tmp_path, "--set", "evaluation.points=7"]
    code, out, err = run("evaluate", "--run", "ce", *common)
    assert code == 0 and "1 run done" in out, err
    (record,) = map(read_record, (tmp_path / "tiny+evaluation.points=7" / "runs").glob("*.json"))
    assert (record.method, record.repetition) == ("ce", 0)
    code, _, err = run("evaluate", "--run", "arcface", *common)
    assert code == 2 and err.splitlines()[-1].endswith("known: ce"), err
    trial = next((tmp_path / "tiny" / "tuning" / "networks").glob("*.json")).stem
    code, out, err = run("evaluate", "--run", trial[:12], *common, "--set", "data.evaluate=validation")
    assert code == 0 and "1 run done" in out, err
    code, _, err = run("evaluate", "--run", trial[:12], *common)
    assert code == 2 and "it is a trial, which --set data.evaluate=validation asks for" in err


def test_the_networks_of_a_tuned_row_are_evaluated_under_its_name(tiny: Path, tmp_path: Path, run: Run) -> None:
    """From its records: the settings lie elsewhere."""
    (tuning,) = tuned(tiny, tmp_path / "tuned", **ARCFACE, recipe=True).settings
    default, second, third = tuning.history
    best = replace(second, method="arcface", recipe={"training.learning_rate": 0.005}, value=1.0)  # its recipe alone
    history = [default, best, third]
    (file,) = setting_paths(tmp_path / "tuned")
    write_setting(file, replace(tuning, history=history, **outcome_of(history, tuning.objective, 0.0, "floor")))
    out = tmp_path / "out"
    run_all(str(tiny), ["arcface"], 2, "cpu", out, tuned=tmp_path / "tuned", jobs=1)
    common = ["--suite", tiny, "--out", out, "--set", "evaluation.points=7"]
    for row in ("arcface+tuned", "arcface"):
        code, text, err = run("evaluate", "--run", row, *common)
        assert code == 0 and "2 runs done" in text, err
    records = list(map(read_record, (out / "tiny+evaluation.points=7" / "runs").glob("*.json")))
    assert sorted(record.method for record in records) == ["arcface"] * 2 + ["arcface+tuned"] * 2
    for record in records:
        assert record.identity.recipe == (best.recipe if record.tuning else None)
    code, _, err = run("evaluate", "--run", "arcfac+tuned", *common)
    assert code == 2 and err.splitlines()[-1].endswith("known: arcface, arcface+tuned")
    code, _, err = run("evaluate", "--run", "arcface", *common, "--set", "arcface.m=0.1")
    assert code == 2 and "another network" in err


def test_rows_of_one_training_wait_for_each_other(tiny: Path, tmp_path: Path) -> None:
    """Where the default was chosen: with two workers, one row's turn comes while the other trains its network."""
    tuned(tiny, tmp_path, **ARCFACE | {"trials": 1})
    outcome = run_all(str(tiny), ["arcface"], 2, "cpu", tmp_path, jobs=2, tuned=tmp_path)
    assert (outcome.repeated, outcome.elsewhere, outcome.left) == (4, 0, 0)
    rows = dict(iter(outcome.table.groupby("method")))
    assert set(rows) == {"arcface", "arcface+tuned"}
    assert rows["arcface"]["clean_accuracy"].item() == rows["arcface+tuned"]["clean_accuracy"].item()


def test_wrong_tunings_are_refused_with_their_remedy(tiny: Path, tmp_path: Path, run: Run) -> None:
    def refusal(*words: str | Path) -> str:
        code, _, err = run("run-all", "--suite", tiny, "--out", tmp_path / "out", "--jobs", "1", *words)
        assert code == 2
        return err.splitlines()[-1]

    assert refusal("--tuned", tmp_path / "no").endswith("no such folder; `marginbench tune` makes one")
    (tmp_path / "empty").mkdir()
    assert "there is no setting below it; `marginbench tune`" in refusal("--tuned", tmp_path / "empty")
    tuned(tiny, tmp_path / "t", **{**ARCFACE, "methods": ["ce"]})
    assert "marginbench tune --methods 'arcface'" in refusal("--tuned", tmp_path / "t", "--methods", "ce,arcface")
    tuned(tiny, tmp_path / "t", **{**ARCFACE, "trials": 2})
    unlike = refusal("--tuned", tmp_path / "t", "--methods", "ce,arcface")
    assert "rows were not tuned alike: ce with 3 trials" in unlike and "; arcface with 2 trials" in unlike
    tuned(tiny, tmp_path / "t", objective="pareto", **ARCFACE)
    assert "holds several tunings of suite tiny: name one of" in refusal("--tuned", tmp_path / "t")
    (file,) = [path for path in setting_paths(tmp_path / "t/tiny/tuning/validation_accuracy") if path.stem == "ce"]
    setting, folder = read_setting(file), file.parent.parent
    for other_version in (replace(setting, revision=9), replace(setting, source="f" * 64)):
        write_setting(file, other_version)
        assert "tuned with another version of the method" in refusal("--tuned", folder, "--methods", "ce")
    write_setting(file, setting)
    other = refusal("--tuned", folder, "--methods", "ce", "--set", "training.epochs=3")
    assert (
        "no setting for suite tiny+training.epochs=3, but of tiny, with other data, another network or recipe" in other
    )
    tiny.write_text(tiny.read_text().replace("epochs = 2", "epochs = 3"))
    assert "tuned with another version of suite tiny" in refusal("--tuned", folder, "--methods", "ce")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"method": "arcface(m=much)"}, r"method='arcface\(m=much\)': "),
        ({"recipe": {"training.learning_rate": -1.0}}, r"recipe={'training.learning_rate': -1.0}: .*greater than 0"),
    ],
)
def test_a_setting_that_cannot_be_run_is_blamed_on_its_file(
    tiny: Path, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    outcome = tuned(tiny, tmp_path, **ARCFACE)
    (setting,), (file,) = outcome.settings, outcome.files
    first, second, *rest = setting.history
    history = [first, replace(second, value=2.0, **changes), *rest]
    write_setting(file, replace(setting, history=history, **outcome_of(history, setting.objective, 0.0, "floor")))
    with pytest.raises(MarginbenchError, match=f"^setting {file}: {problem}.*: let `marginbench tune` write it again$"):
        run_all(str(tiny), ["arcface"], 1, "cpu", tmp_path, tuned=tmp_path, progress=False)


def test_settings_fit_all_suites_that_train_alike(tiny: Path, tmp_path: Path) -> None:
    """What else a suite measures, and what it is called, had no part in the choice."""
    (setting,) = tuned(tiny, tmp_path, **ARCFACE).settings
    other = tmp_path / "other.toml"
    for text in (
        tiny.read_text(),
        tiny.read_text().replace('name = "tiny"', 'name = "other"').replace("l2 = 0.25", "l2 = 0.125"),
    ):
        other.write_text(text)
        settings = {"evaluation.attacks": "quick", "evaluation.points": 7}
        suite = derive(load_suite(str(other)), settings)
        (row,) = tuned_rows(tmp_path, suite, [create("arcface")])
        assert (row.tuning, row.name) == (setting, "arcface+tuned")
        with pytest.raises(ParameterError, match="with other data, another network or recipe"):
            tuned_rows(tmp_path, derive(suite, {"network.width": 7}), [create("arcface")])


def test_methods_that_train_for_radii_are_tuned_for_these(tiny: Path, tmp_path: Path) -> None:
    (setting,) = tuned(tiny, tmp_path, methods=["pgd_at(steps=1)"], trials=1).settings
    assert setting.trained_for == {"l2": 0.25, "linf": 0.05}
    method = create("pgd_at(steps=1)")
    suite = load_suite(str(tiny))
    assert tuned_rows(tmp_path, derive(suite, {"evaluation.epsilon.l2": 0.125}), [method])[0].tuning == setting
    tiny.write_text(tiny.read_text().replace("l2 = 0.25", "l2 = 0.125"))
    with pytest.raises(MarginbenchError, match=r"tuned to train for l2=0\.25 linf=0\.05, and this suite has l2=0\.125"):
        tuned_rows(tmp_path, load_suite(str(tiny)), [method])


def test_the_suite_of_a_tuning_is_taken_unless_one_is_named(tmp_path: Path, run: Run) -> None:
    tune(TuneOptions(methods=["ce"], trials=1, run=RunOptions(suite="smoke", out=tmp_path, progress=False)))
    code, out, err = run("run-all", "--tuned", tmp_path, "--methods", "ce", "--out", tmp_path, "--dry-run")
    assert code == 0, err
    assert f"suite smoke: the one that {tmp_path} was tuned for" in err.splitlines()[:2]
    assert "ce+tuned" in out
    (file,) = setting_paths(tmp_path)
    setting = read_setting(file)
    for name, problem in (
        ("mine", "--suite: name the file of suite mine"),
        ("digits", "another version of suite digits"),
    ):
        write_setting(file, replace(setting, suite=name))
        code, _, err = run("run-all", "--tuned", tmp_path, "--methods", "ce", "--out", tmp_path)
        assert code == 2 and problem in err.splitlines()[-1]
    write_setting(file.parent / "svm.toml", setting)
    code, _, err = run("run-all", "--tuned", tmp_path, "--methods", "ce", "--out", tmp_path)
    assert code == 2 and "holds settings of suites digits, smoke: name one" in err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"trials": 0}, "trials"),
        ({"trials": True}, "trials"),
        ({"seed": -1}, "seed"),
        ({"floor": 1.5}, "floor"),
        ({"objective": "accuracy"}, "objective"),
        ({"sampler": "grid"}, "sampler"),
        ({"pick": "best"}, "pick"),
        ({"norm": "l1"}, "norm"),
        ({"norm": "linf"}, "norm"),  # by default nothing is attacked
        ({"floor": 0.9}, "floor"),
        ({"pick": "floor"}, "pick"),
        ({"pick": "knee", "objective": "robust_accuracy"}, "pick"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ParameterError) as error:
        TuneOptions(**options)
    assert error.value.parameter == problem


def test_options_that_the_objective_has_no_use_for_name_what_has(tiny: Path, tmp_path: Path, run: Run) -> None:
    for words, problem in (
        (("--pick", "knee"), "--pick knee: is for the objective pareto; it is validation_accuracy here"),
        (("--floor", "0.9"), "--floor 0.9: is for the objective robust_accuracy or pareto; it is"),
        (("--norm", "l2"), "--norm l2: is for the objective robust_accuracy or pareto; it is"),
    ):
        code, _, err = run("tune", "--suite", tiny, "--out", tmp_path, *words)
        assert code == 2 and err.startswith(f"error: {problem}") and len(err.splitlines()) == 1
    code, _, err = run("tune", "--suite", "text_smoke", "--out", tmp_path, "--objective", "pareto")
    assert code == 2 and "--objective pareto: suite text_smoke is of sentences, of which nothing is attacked" in err


def test_where_every_trial_fails_there_is_no_setting(tiny: Path, tmp_path: Path, run: Run) -> None:
    code, out, _ = run(
        "tune",
        "--suite",
        tiny,
        "--methods",
        "ce",
        "--trials",
        "2",
        "--out",
        tmp_path,
        "--set",
        "training.learning_rate=1e30",
    )
    assert code == 1 and "ce: no setting: none of 2 trials ended well; the first: " in out
