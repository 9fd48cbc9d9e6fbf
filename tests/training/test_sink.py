"""The numbers of a training in TensorBoard: those of its record, once each, whatever happened on the way."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from support import Run as Command

from marginbench.benchmarks import run_all
from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.extras import TENSORBOARD, Needs
from marginbench.benchmarks.machine.files import UnwritableError
from marginbench.benchmarks.records.training import Training, read_training
from marginbench.benchmarks.training.checkpoint import Checkpoint
from marginbench.benchmarks.training.loop import How, train
from marginbench.benchmarks.training.optimiser import lr_factor
from marginbench.benchmarks.training.sink import TensorBoard
from marginbench.methods import create

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is not installed"
)
Curves = dict[str, list[tuple[int, float]]]


def read(folder: Path) -> Curves:
    """All curves below the event files of a folder, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


class Listener:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.curves: Curves = {}

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.curves.setdefault(name, []).append((step, value))


def test_what_is_logged_is_what_is_recorded() -> None:
    listener, suite = Listener(), small_suite(epochs=4)
    done = train(create("cross_lipschitz"), suite, small_data(), 0, How(curve_every=2, sink=listener))
    each = done.steps // 4
    ends = [each * epoch for epoch in (1, 2, 3, 4)]
    assert listener.curves["loss"] == list(zip(ends, done.losses, strict=True))
    assert done.parts
    for name, values in done.parts.items():
        assert listener.curves[f"loss_parts/{name}"] == list(zip(ends, values, strict=True))
    points = [(each * point.epoch, point.validation_accuracy) for point in done.curve]
    assert listener.curves["accuracy/validation"] == points and [step for step, _ in points] == ends[1::2]
    rate = suite.training.learning_rate
    expected = [rate * lr_factor(suite.training, (step - 1) / done.steps) for step in ends]  # of the epoch's last step
    assert listener.curves["learning_rate"] == list(zip(ends, expected, strict=True))


def test_training_does_not_notice() -> None:
    suite, data = small_suite(epochs=3), small_data()
    alone, heard = (train(create("mixup"), suite, data, 0, How(sink=sink)) for sink in (None, Listener()))
    a, b = alone.net.state_dict(), heard.net.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a) and alone.losses == heard.losses


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replayed_steps_log_the_same() -> None:
    data, curves = small_data().to(torch.device("cuda")), []
    for eager in (True, False):
        listener = Listener()
        done = train(create("cross_lipschitz"), small_suite(epochs=20), data, 0, How(eager=eager, sink=listener))
        assert eager or done.replayed
        curves.append(listener.curves)
    assert curves[0].keys() == curves[1].keys() and curves[0]["learning_rate"] == curves[1]["learning_rate"]
    for name, curve in curves[0].items():
        torch.testing.assert_close(curves[1][name], curve, rtol=1e-2, atol=2e-2)


@needs_tensorboard
def test_a_resumed_training_logs_each_step_once(tmp_path: Path) -> None:
    """It is stopped beyond its last checkpoint: what was logged in between is made void by the other file."""
    method, suite, data = create("ce"), small_suite(epochs=6), small_data()
    through, twice = tmp_path / "through", tmp_path / "twice"
    with TensorBoard(through) as sink:
        train(method, suite, data, 0, How(sink=sink))
    expected = read(through)
    checkpoint = Checkpoint(tmp_path / "checkpoint", every=0.0)

    class Stopping(TensorBoard):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            super().log(metrics, step)
            if step == expected["loss"][1][0]:
                kept.append(checkpoint.path.read_bytes())  # of before this epoch's end
            if step == expected["loss"][3][0]:
                raise KeyboardInterrupt

    kept: list[bytes] = []
    with pytest.raises(KeyboardInterrupt), Stopping(twice) as sink:
        train(method, suite, data, 0, How(checkpoint, sink=sink))
    assert [step for step, _ in read(twice)["loss"]] == [step for step, _ in expected["loss"][:4]]
    assert checkpoint.path is not None
    checkpoint.path.write_bytes(kept[0])
    with TensorBoard(twice) as sink:
        train(method, suite, data, 0, How(Checkpoint(checkpoint.path), sink=sink))
    assert len(list(twice.iterdir())) == 2 and read(twice) == expected


def recorded(out: Path) -> list[Training]:
    return [read_training(path) for path in (out / "networks").glob("*.json")]


@needs_tensorboard
@pytest.mark.parametrize("jobs", [1, 2])
def test_every_training_of_a_call_has_a_folder(tiny: Path, tmp_path: Path, jobs: int) -> None:
    run_all(
        str(tiny), seeds=2, device="cpu", out=tmp_path / "out", only="train", tensorboard=tmp_path / "events", jobs=jobs
    )
    found = recorded(tmp_path / "out")
    assert len(found) == 4
    for training in found:
        (folder,) = (tmp_path / "events").glob(f"tiny/*/seed{training.repetition}-{training.id[:8]}")
        assert [value for _, value in read(folder)["loss"]] == pytest.approx(training.losses)
    assert len([*(tmp_path / "events").rglob("events.*")]) == 4


@needs_tensorboard
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableError, match="cannot be written"), TensorBoard(tmp_path / "file" / "events") as sink:
        sink.log({"loss": 1.0}, 1)


def test_without_the_extra(run: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marginbench.benchmarks.runs.work.TENSORBOARD", Needs("no_such_package", TENSORBOARD.advice))
    code, _, err = run("run-all", "--suite", tiny, "--out", tmp_path / "out", "--tensorboard", tmp_path / "events")
    assert code == 2 and "--tensorboard" in err and "pip install 'marginbench[tensorboard]'" in err
    assert not (tmp_path / "out").exists()


def test_a_worker_without_the_extra_trains(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("marginbench.benchmarks.runs.work.TENSORBOARD", Needs("torch", ""))
    monkeypatch.setattr("marginbench.benchmarks.runs.train.TENSORBOARD", Needs("no_such_package", "pip install it"))
    run_all(
        str(tiny), device="cpu", out=tmp_path / "out", only="train", tensorboard=tmp_path / "events", progress=False
    )
    assert all(training.status == "done" for training in recorded(tmp_path / "out"))
    assert "nothing is written for TensorBoard here" in caplog.text and not (tmp_path / "events").exists()
