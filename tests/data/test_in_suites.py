"""Data named in a suite or on the command line."""

import json
from pathlib import Path

import pytest
from data_support import arrays, save
from made import an_identity
from support import Run

from marginbench.benchmarks.contract.fixtures import small_suite
from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.records.record import About
from marginbench.benchmarks.runs.measure import Entry, record_run
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.tables.render import render


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ('name = "mnis"', ["data.name 'mnis'", "mnis.npz", "mnis/train", "did you mean 'mnist'"]),
        ('name = "imagenet"', ["'imagenet'", "imagenet.npz", "imagenet/train", "image-net.org", "data_dir"]),
        ('name = "cifar10"', ["'cifar10'", "cifar10.npz", "no network", "MARGINBENCH_DATA"]),
        ('name = "mine.npz"', ["mine.npz: no such data file", "sets/mine.npz"]),
        ('name = "digits"\ntrain_size = 1238', ["data.train_size=1238", "1237"]),
        ('name = "digits"\ntrain_size = 0', ["data.train_size=0"]),
        ('name = "digits"\ntrain_size = 5', ["no training image of class"]),
        ('name = "digits"\nimbalance = 0.5', ["data.imbalance=0.5"]),
        ('name = "digits"\nimbalance = 1e4', ["no training image of class"]),
        ('name = "digits"\nsize = 8', ["data.size=8", "image folders"]),
        ('name = "digits"\nsice = 8', ["data.sice", "did you mean 'size'"]),
    ],
)
def test_a_wrong_key_gives_one_line(run: Run, tiny: Path, new: str, words: list[str]) -> None:
    tiny.write_text(tiny.read_text().replace('name = "digits"', new))
    code, out, err = run("run-all", "--suite", tiny, "--out", tiny.parent / "out")
    assert code == 2 and out == "" and err.count("error: ") == 1 == len(err.rpartition("error: ")[2].splitlines())
    for word in words:
        assert word in err


@pytest.mark.parametrize(("option", "jobs"), [("--data-dir", "2"), ("--data-dir", "1"), ("MARGINBENCH_DATA", "1")])
def test_the_folder_reaches_every_process(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, jobs: str
) -> None:
    there = tmp_path / "there"
    values = arrays(train=300, test=40)
    save(there / "mine.npz", {key: array[:, None] if key[0] == "x" else array for key, array in values.items()})
    tiny.write_text(
        tiny.read_text()
        .replace('name = "digits"', 'name = "mine"\ntrain_size = 90')
        .replace("epochs = 2", "epochs = 1")
    )
    words: list[str | Path] = ["run-all", "--suite", tiny, "--out", tmp_path / "out", "--jobs", jobs]
    if option == "MARGINBENCH_DATA":
        monkeypatch.setenv(option, str(there))
    else:
        words += [option, there]
    code, text, err = run(*words)
    assert code == 0 and "2 runs done" in text and "FAILED" not in text
    assert err.count("read as NxCxHxW") == 1, "one process speaks for all"
    print_ = load_suite(str(tiny)).load_data(there).fingerprint
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "tiny" / "runs").glob("*.json")]
    assert {record["identity"]["data"] for record in records} == {print_}
    assert {record["suite"]["data"]["train_size"] for record in records} == {90}


@pytest.mark.parametrize(("points", "notes"), [(12, []), (13, ["has 12 images", "13 points were asked for"])])
def test_a_record_notes_that_there_are_fewer_images_than_points(
    sets: Path, tmp_path: Path, points: int, notes: list[str]
) -> None:
    save(sets / "mine.npz", arrays())
    data = load_data("mine", 10, Path(), sets)
    evaluation = small_suite().evaluation.model_copy(update={"points": points})
    suite = small_suite().model_copy(update={"evaluation": evaluation})
    entry = Entry(an_identity("ce", 0), "ce", About())
    record = record_run(lambda: ({"metrics": {"points": 12.0}}, {}), entry, suite, data, tmp_path / "runs")
    assert len(record.notes) == bool(notes)
    assert all(word in render([record], "md") for word in notes)


def test_evaluate_takes_a_name_and_a_folder(run: Run, tiny: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    save(there / "mnist.npz", arrays(train=300, test=40, classes=10))
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    words = ("evaluate", "--model", f"{tmp_path / 'net.py'}:net", "--suite", tiny, "--out", tmp_path / "out")
    code, text, _ = run(*words, "--data", "mnist", "--data-dir", there)
    assert code == 0 and "## tiny-mnist: mnist, with radii" in text
