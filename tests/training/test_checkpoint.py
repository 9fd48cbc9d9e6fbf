"""Runs that are interrupted go on where they were, and runs that take too long end."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.machine.deadline import Deadline, DeadlineError
from marginbench.benchmarks.training.checkpoint import Checkpoint
from marginbench.benchmarks.training.loop import How, Trained, train
from marginbench.benchmarks.training.run import Run
from marginbench.methods import create
from marginbench.methods.errors import MarginbenchError


class Killed(BaseException):
    """Stands for SIGKILL: nothing may be caught."""


def interrupted(monkeypatch: pytest.MonkeyPatch, spec: str, checkpoint: Checkpoint, at: int) -> None:
    """Train up to a step."""
    step = Run.step

    def killed(self: Run) -> Tensor:
        if self.ctx.step == at:
            raise Killed
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", killed)
        with pytest.raises(Killed):
            train(create(spec), small_suite(), small_data(), 0, How(checkpoint))


def same(one: Trained, two: Trained) -> bool:
    weights = zip(one.net.state_dict().values(), two.net.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in weights) and one.losses == two.losses


@pytest.mark.parametrize("spec", ["ce", "ce_dropout", "mma", "cure"])
def test_a_run_goes_on_from_its_checkpoint_as_if_nothing_had_happened(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(create(spec), small_suite(), small_data(), 0)
    middle = whole.steps // 2 + 1  # not at the end of an epoch
    path = tmp_path / "run.ckpt"
    interrupted(monkeypatch, spec, Checkpoint(path, every=0), at=middle)
    seen: list[int] = []
    step = Run.step

    def watched(self: Run) -> Tensor:
        seen.append(self.ctx.step)
        return step(self)

    monkeypatch.setattr(Run, "step", watched)
    resumed = train(create(spec), small_suite(), small_data(), 0, How(Checkpoint(path)))
    assert seen[0] == middle and same(whole, resumed)
    assert (resumed.forward, resumed.backward) == (whole.forward, whole.backward)


def test_seconds_add_up_over_interruptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.ckpt"
    interrupted(monkeypatch, "ce", Checkpoint(path, every=0), at=3)
    state = torch.load(path, weights_only=True)
    torch.save(state | {"seconds": 1e9}, path)
    seconds = train(create("ce"), small_suite(), small_data(), 0, How(Checkpoint(path))).seconds
    assert 1e9 < seconds < 2e9, "once"


def test_checkpoints_are_as_rare_as_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    train(create("ce"), small_suite(), small_data(), 0, How(Checkpoint(path, every=1000)))
    assert not path.exists()


def test_a_checkpoint_that_was_cut_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.ckpt"
    interrupted(monkeypatch, "ce", Checkpoint(path, every=0), at=3)
    for content in (path.read_bytes()[:-100], b"", b"not a checkpoint"):
        path.write_bytes(content)
        assert Checkpoint(path).load() is None
        assert same(
            train(create("ce"), small_suite(), small_data(), 0),
            train(create("ce"), small_suite(), small_data(), 0, How(Checkpoint(path))),
        )


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(MarginbenchError, match=r"gone/run\.ckpt: cannot be written"):
        Checkpoint(tmp_path / "gone" / "run.ckpt").save({})


def test_a_run_ends_at_its_deadline_and_can_go_on_from_there(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    with pytest.raises(DeadlineError, match=r"its 0 s were over in epoch 1 of"):
        train(create("ce"), small_suite(), small_data(), 0, How(Checkpoint(path), Deadline(0.0)))
    state = Checkpoint(path).load()
    assert state is not None and state["training"]["step"] == 1
    whole = train(create("ce"), small_suite(), small_data(), 0)
    assert same(whole, train(create("ce"), small_suite(), small_data(), 0, How(Checkpoint(path), Deadline(600))))


def test_a_deadline_counts_from_where_it_was_made() -> None:
    now = 5.0
    deadline = Deadline(1000.0, clock=lambda: now, spent=200.0)
    now += 800.0
    deadline.check("here")
    now += 0.1
    with pytest.raises(DeadlineError, match=r"its 1000 s were over here"):
        deadline.check("here")
    deadline.count(lambda: 7 * now)
    deadline.check("here, by a clock that has just begun")
    Deadline().check("anywhere")
