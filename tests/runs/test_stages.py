"""Networks are kept: trained once, evaluated as often as wanted, here or elsewhere."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import Run

from marginbench.benchmarks import load_network, load_suite, read_arrays, run_all
from marginbench.benchmarks.machine.deadline import DeadlineError
from marginbench.benchmarks.records.training import SEAL, read_training
from marginbench.benchmarks.runs import train as stage
from marginbench.benchmarks.runs.execute import give_up
from marginbench.benchmarks.runs.plan import make_plan
from marginbench.benchmarks.runs.work import prepare
from marginbench.benchmarks.suites.derive import derive, evaluated_by
from marginbench.methods import MarginbenchError, create

METHODS = ["ce", "pgd_at(steps=1)", "quantise"]


@pytest.fixture
def no_training(networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on."""
    assert networks.is_dir()

    def refuse(*_: object) -> None:
        raise AssertionError("a network is trained again")

    monkeypatch.setattr(stage, "train", refuse)


@pytest.fixture
def networks(tiny: Path, tmp_path: Path) -> Path:
    """The folder of three networks, which nobody has evaluated."""
    outcome = run_all(str(tiny), METHODS, 1, "cpu", tmp_path / "out", only="train")
    assert (outcome.repeated, outcome.failed, outcome.files, outcome.records) == (3, 0, [], [])
    return outcome.networks


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"evaluation": "quick", "set": ["evaluation.points=4"]},
        {"set": ["evaluation.epsilon.linf=0.01"]},
        {"evaluation": "digits_smooth", "set": ["evaluation.points=4", "evaluation.smoothing.n=100"]},
    ],
)
def test_other_evaluations_train_nothing(tiny: Path, tmp_path: Path, networks: Path, how: dict[str, object]) -> None:
    outcome = run_all(str(tiny), METHODS, 1, "cpu", tmp_path / "out", **how)  # type: ignore[arg-type]
    assert (outcome.repeated, outcome.failed, outcome.networks) == (3, 0, networks)
    assert {record.identity.training for record in outcome.records} == {path.stem for path in networks.glob("*.json")}
    for record in outcome.records:
        training = read_training(networks / f"{record.identity.training}.json")
        assert record.losses == training.losses and record.curve == training.curve != []
        assert record.cost["seconds"] == training.cost["seconds"] and record.trained == training.environment


def test_both_stages_at_once_give_what_they_give_one_by_one(tiny: Path, tmp_path: Path, networks: Path) -> None:
    one_by_one = run_all(str(tiny), METHODS, 1, "cpu", tmp_path / "out", only="evaluate")
    at_once = run_all(str(tiny), METHODS, 1, "cpu", tmp_path / "other")
    assert [record.metrics for record in one_by_one.records] == [record.metrics for record in at_once.records]
    for record in at_once.records:
        a, b = (read_arrays(folder / f"{record.id}.json") for folder in (one_by_one.runs, at_once.runs))
        assert all((a[name] == b[name]).all() for name in a if a[name].dtype.kind != "f") and a.keys() == b.keys()
        name = f"{record.identity.training}.json"
        hashes = {read_training(folder / name).sha256 for folder in (networks, at_once.networks)}
        assert len(hashes) == 1


@pytest.mark.usefixtures("no_training")
def test_a_folder_that_was_moved(tiny: Path, tmp_path: Path, networks: Path) -> None:
    shutil.move(networks.parent, tmp_path / "elsewhere")
    outcome = run_all(str(tiny), METHODS, 1, "cpu", tmp_path / "elsewhere", only="evaluate")
    assert (outcome.repeated, outcome.failed) == (3, 0)


def test_what_is_not_trained_is_not_evaluated(tiny: Path, tmp_path: Path, run: Run, networks: Path) -> None:
    words = ("run-all", "--suite", tiny, "--out", tmp_path / "out", "--jobs", "1", "--only", "evaluate")
    code, out, _ = run(*words, "--methods", "ce,svm")
    assert code == 0 and "1 run done." in out and ": 1 run; --only train makes them" in out and "--only train" in out
    assert len(list(networks.glob("*.safetensors"))) == 3


def test_a_network_that_was_discarded_is_trained_again_when_it_is_wanted(tiny: Path, tmp_path: Path, run: Run) -> None:
    words = ("run-all", "--suite", tiny, "--out", tmp_path, "--jobs", "1", "--methods", "ce", "--discard")
    assert run(*words)[0] == 0
    (path,) = (tmp_path / "networks").glob("*.json")
    assert read_training(path).discarded and not path.with_suffix(".safetensors").exists()
    assert "discarded" in run("networks", tmp_path)[1]
    code, out, _ = run(*words)
    assert code == 0 and "0 runs done, 1 had a record already" in out
    with pytest.raises(MarginbenchError, match="was discarded"):
        load_network(path)
    code, out, _ = run("evaluate", "--run", "ce", "--out", tmp_path, "--suite", tiny, "--attacks", "exhaustive")
    assert code == 0 and "0 runs done." in out and "Without a network yet in" in out
    code, out, _ = run(*words, "--evaluation", "quick", "--set", "evaluation.points=4")
    assert code == 0 and "1 run done" in out


@pytest.mark.usefixtures("no_training")
def test_evaluate_one_run_or_a_row(tiny: Path, tmp_path: Path, run: Run, networks: Path) -> None:
    out = tmp_path / "out"
    one = next(path.stem for path in networks.glob("*.json") if read_training(path).method == "quantise")
    code, text, _ = run("evaluate", "--run", one[:10], "--out", out, "--suite", tiny, "--set", "evaluation.points=7")
    assert code == 0 and "1 run done" in text and "quantise" in text
    (record,) = (out / "tiny+evaluation.points=7" / "runs").glob("*.json")
    assert json.loads(record.read_bytes())["metrics"]["points"] == 7
    code, text, _ = run("evaluate", "--run", "pgd_at(steps=1)", "--out", out, "--suite", tiny)
    assert code == 0 and "1 run done" in text
    code, _, err = run("evaluate", "--run", "pdg_at", "--out", out, "--suite", tiny)
    assert code == 2 and "no network of that row or id" in err and "pgd_at" in err
    code, _, err = run("evaluate", "--run", "quantise+tuned", "--out", out, "--suite", tiny)
    assert code == 2 and "tuned rows have their names once `run-all --tuned` has evaluated them" in err
    code, _, err = run("evaluate", "--run", "quantise", "--out", out, "--suite", tiny, "--set", "training.epochs=3")
    assert code == 2 and "trains in another way" in err
    code, _, err = run("evaluate", "--run", "quantise", "--out", out, "--data", "mnist")
    assert code == 2 and "--data is for a --model" in err
    code, _, err = run("evaluate", "--out", out)
    assert code == 2 and "--model" in err and "--run" in err


@pytest.mark.usefixtures("no_training")
def test_networks_of_the_folder_itself_come_before_those_below_it(
    tiny: Path, tmp_path: Path, run: Run, networks: Path
) -> None:
    """Another output folder lies in it, whose networks are gone."""
    out = tmp_path / "out"
    shutil.copytree(networks, out / "another" / "networks", ignore=shutil.ignore_patterns("*.safetensors"))
    code, text, err = run("evaluate", "--run", "ce", "--out", out, "--suite", tiny, "--set", "evaluation.points=7")
    assert code == 0 and "1 run done" in text, err


def test_radii_are_trained_for_by_those_who_need_them(tiny: Path) -> None:
    """The identity holds the radii of these methods alone, and an evaluation at other radii is no other training."""
    suite = load_suite(str(tiny))

    def ids(changed: object) -> list[str]:
        cells = make_plan(changed, [create("ce"), create("pgd_at")], [0], "data")  # type: ignore[arg-type]
        return [cell.training.id for cell in cells]

    ce, pgd_at = ids(suite)
    assert ids(derive(suite, ["evaluation.epsilon.linf=0.01"])) == [ce, pgd_at]
    for other in ("digits", "exhaustive"):
        assert ids(evaluated_by(suite, other)) == [ce, pgd_at]
    trained_for = ids(derive(suite, ["training.epsilon.linf=0.01"]))
    assert trained_for[0] == ce and trained_for[1] != pgd_at
    evaluation = suite.evaluation.model_copy(update={"epsilon": {"l2": 1.0, "linf": 1.0}})
    edited = suite.model_copy(update={"evaluation": evaluation})
    assert ids(edited)[0] == ce and ids(edited)[1] != pgd_at
    assert ids(derive(suite, ["training.epochs=3"]))[0] != ce


def test_a_network_that_was_changed_is_not_evaluated(tiny: Path, tmp_path: Path, networks: Path) -> None:
    path = next(path for path in networks.glob("*.json") if read_training(path).method == "ce")
    file = path.with_suffix(".safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    outcome = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / "out")
    assert outcome.failed == 1 and "is not the file that was written" in str(outcome.records[0].error)
    assert "(" not in str(outcome.records[0].error), "the user's file is at fault, and no line of ours"
    again = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / "out", redo="failed")
    assert (again.failed, again.repeated) == (0, 1), "--retry trains it again"
    file.unlink()
    again = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path / "out", only="train")
    assert (again.failed, again.repeated) == (0, 1), "and one that is gone needs no --retry"


def test_the_figures_of_a_training_are_sealed(networks: Path) -> None:
    path = next(networks.glob("*.json"))
    training, values = read_training(path), json.loads(path.read_text())
    assert list(values)[-1] == SEAL
    values["curve"][-1]["validation_accuracy"] += 0.01
    path.write_text(json.dumps(values))
    with pytest.raises(MarginbenchError, match="changed by hand"):
        read_training(path)
    del values[SEAL]  # as older ones
    path.write_text(json.dumps(values))
    assert replace(read_training(path), curve=training.curve) == training


def test_a_training_that_failed_is_told_once_and_not_repeated_unasked(tiny: Path, tmp_path: Path) -> None:
    how = {"set": ["training.learning_rate=1e30"]}
    trained = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, only="train", **how)  # type: ignore[arg-type]
    assert (trained.repeated, trained.failed) == (1, 1)
    again = run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, **how)  # type: ignore[arg-type]
    assert again.failed == 1 and str(again.records[0].error).startswith("diverged: ")
    (path,) = (tmp_path / "networks").glob("*.json")
    before = path.stat().st_mtime_ns
    assert run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, only="train", **how).repeated == 0  # type: ignore[arg-type]
    assert run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, redo="failed", **how).repeated == 1  # type: ignore[arg-type]
    assert path.stat().st_mtime_ns > before, "--retry trains it again"


@pytest.mark.usefixtures("networks")
def test_what_can_be_seen_of_the_networks(tiny: Path, tmp_path: Path, run: Run) -> None:
    code, out, _ = run("networks", tmp_path / "out")
    assert code == 0 and "3 trainings" in out and "kB" in out and all(method in out for method in METHODS)
    words = ("run-all", "--suite", tiny, "--out", tmp_path / "out", "--jobs", "1", "--methods", ",".join(METHODS))
    code, out, _ = run(*words, "--dry-run")
    assert code == 0 and "Networks: about" in out and "kB each" in out
    assert run(*words)[0] == 0
    code, out, _ = run("status", tmp_path / "out")
    assert code == 0 and "networks" in out and "kB" in out
    code, _, err = run("networks", tmp_path / "nowhere")
    assert code == 2 and "no such folder" in err


def test_others_need_nothing_but_the_folder(networks: Path) -> None:
    """`load_network` takes a path or an id; the network is in eval mode, and gives logits."""
    path = sorted(networks.glob("*.json"))[0]
    for what in (path, path.with_suffix(".safetensors"), path.stem[:12]):
        net, info = load_network(what, networks.parent)
        assert info.id == path.stem and not net.training
        assert net(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    with pytest.raises(MarginbenchError, match="no such id"):
        load_network("0123456789abcdef", networks)


def test_jobs_share_the_trainings(tiny: Path, tmp_path: Path) -> None:
    trained = run_all(str(tiny), METHODS, 2, "cpu", tmp_path, jobs=2, only="train")
    assert (trained.repeated, trained.failed, trained.elsewhere) == (6, 0, 0)
    work = prepare(str(tiny), METHODS, 2, "cpu", tmp_path, only="train")
    assert not work.todo


def test_a_network_of_a_changed_suite_is_evaluated_by_its_name_alone(tmp_path: Path, run: Run) -> None:
    changed = ("--set", "training.epochs=2", "--set", "training.batch_size=50")
    words = ("run-all", "--suite", "smoke", "--methods", "ce", "--out", tmp_path, "--jobs", "1", "--only", "train")
    assert run(*words, *changed, "--evaluation", "quick")[0] == 0
    code, out, err = run("evaluate", "--run", "ce", "--out", tmp_path, "--set", "evaluation.points=5")
    assert code == 0 and "1 run done" in out, err


def test_what_had_ended_before_its_worker_was_killed_stays(tiny: Path, tmp_path: Path) -> None:
    """A worker may be taken to hang in the moment in which it has written the record of its training."""
    how = {"only": "train", "deadline": 600.0}
    work = prepare(str(tiny), ["ce"], 1, "cpu", tmp_path, **how)  # type: ignore[arg-type]
    run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, only="train")
    (path,) = (tmp_path / "networks").glob("*.json")
    found = give_up(work.todo[0], work.job, work.data, DeadlineError("late"))
    assert found == read_training(path) and found.status == "done"


def test_a_failure_that_others_repeated_meanwhile_is_not_repeated_again(tiny: Path, tmp_path: Path) -> None:
    how = {"set": ["training.learning_rate=1e30"], "only": "train"}
    run_all(str(tiny), ["ce"], 1, "cpu", tmp_path, **how)  # type: ignore[arg-type]
    work = prepare(str(tiny), ["ce"], 1, "cpu", tmp_path, redo="failed", **how)  # type: ignore[arg-type]
    (path,) = (tmp_path / "networks").glob("*.json")
    failed = read_training(path)
    assert failed.status == "failed" and work.job.retrains(failed)
    assert not work.job.retrains(replace(failed, finished="2999-01-01T00:00:00+00:00"))
