"""The parts of a loss, from the step to the record."""

import math
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.contract.tape import Tape
from marginbench.benchmarks.training.checkpoint import Checkpoint
from marginbench.benchmarks.training.log import Log
from marginbench.benchmarks.training.loop import How, train
from marginbench.benchmarks.training.run import Run
from marginbench.methods import Batch, Context, Info, Loss, Method, Net, cross_entropy


class InParts(Method):
    """L = CE(z, y), with its parts: twice the loss, and the share of the training done."""

    info: ClassVar[Info] = Info("in_parts", "In parts", "tests", "-", "-", 2026, {})

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        loss = cross_entropy(net(batch.x), batch)
        progress = 0 * loss.detach() + ctx.schedule(lambda: ctx.progress)
        return Loss(loss, {"twice": 2 * loss, "progress": progress})


def test_means_of_the_parts_are_recorded_for_every_epoch() -> None:
    trained = train(InParts(), small_suite(epochs=3), small_data(), 0)
    assert trained.parts["twice"] == pytest.approx([2 * loss for loss in trained.losses])
    each = trained.steps // 3
    middle = [(epoch * each + (each - 1) / 2) / trained.steps for epoch in range(3)]
    assert trained.parts["progress"] == pytest.approx(middle)


def test_replayed_steps_give_the_parts_of_their_own_batch() -> None:
    run = Run(InParts(), small_suite(epochs=10), small_data(), 0, recorder=Tape)
    for step in range(12):
        loss = run.step()
        torch.testing.assert_close(run.parts["twice"], 2 * loss)
        assert float(run.parts["progress"]) == pytest.approx(step / run.ctx.steps)
    assert run.replay is not None and run.replay.replayed > 5


def test_a_checkpoint_keeps_the_sums_of_an_unfinished_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(InParts(), small_suite(epochs=3), small_data(), 0)
    step, path = Run.step, tmp_path / "run.ckpt"

    def killed(self: Run) -> Tensor:
        if self.ctx.step == whole.steps // 2 + 1:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "step", killed)
        train(InParts(), small_suite(epochs=3), small_data(), 0, How(Checkpoint(path, every=0)))
    resumed = train(InParts(), small_suite(epochs=3), small_data(), 0, How(Checkpoint(path)))
    assert (resumed.parts, resumed.losses) == (whole.parts, whole.losses)


def test_epochs_without_a_part_and_means_that_are_not_finite_are_none() -> None:
    log, one = Log(), torch.ones(())
    log.add(one, {})
    assert log.end_epoch() == 1
    log.add(one, {"late": one})
    log.add(3 * one, {"late": 2 * one})
    assert log.end_epoch() == 2
    log.add(one, {"late": math.inf * one})
    log.end_epoch()
    assert log.parts == {"late": [None, 1.5, None]} and log.losses == [1, 2, 1]
