"""Recorded steps, replayed under the rules of a CUDA graph: the same training, told apart by nothing but its speed."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.contract.tape import Tape
from marginbench.benchmarks.suites.augment import Augment
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.loop import How, train
from marginbench.benchmarks.training.recorder import Branch, CannotRecordError
from marginbench.benchmarks.training.replay import SETTLED
from marginbench.benchmarks.training.run import Run
from marginbench.methods import Batch, Context, Info, Loss, Method, Net, create, cross_entropy

STEPS = 40


class Scheduled(Method):
    """L = a_t CE(z, y), with a_t read in a way that the tests choose."""

    info: ClassVar[Info] = Info("scheduled", "Scheduled", "tests", "-", "-", 2026, {})
    how: str = "progress"

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        loss = cross_entropy(net(batch.x), batch)
        return Loss(self._factor(ctx, loss) * loss)

    def _factor(self, ctx: Context, loss: Tensor) -> float | Tensor:
        if self.how == "progress":
            return 1 + ctx.progress
        if self.how == "schedule":
            return ctx.schedule(lambda: 1 + ctx.progress)
        if self.how == "stage":  # steps 0 to 9, 10 to 19, 20 to 39
            return (1.0, 3.0, 2.0)[ctx.stage(lambda: min(ctx.step // 10, 2))]
        if self.how == "flicker":  # one step of its own, after which the recording is good again
            return 5.0 if ctx.stage(lambda: ctx.step == 20) else 1.0
        return 1.0 if float(loss.detach()) > 0.5 else 2.0  # waits


def both(
    method: Method, suite: Suite | None = None, recorder: type[Tape] = Tape
) -> tuple[Run, Run, list[Tensor], list[Tensor]]:
    """A training step by step and one with replays, with the loss of every step."""
    runs, losses = [], []
    for way in (None, recorder):
        run = Run(method, suite or small_suite(epochs=STEPS // 2), small_data(), 0, recorder=way)
        run.draws.set_state(torch.Generator().manual_seed(0).get_state())
        with run.passes:
            losses.append([run.step().clone() for _ in range(STEPS)])
        runs.append(run)
    return runs[0], runs[1], losses[0], losses[1]


@pytest.mark.parametrize(
    ("how", "replayed"),
    [
        ("schedule", STEPS - SETTLED),
        ("stage", STEPS - SETTLED - 2 * SETTLED - 4 * SETTLED),
        ("flicker", STEPS - SETTLED - 1),
        ("progress", 0),
        ("waits", 0),
    ],
)
def test_the_schedule_is_followed(how: str, replayed: int) -> None:
    one_by_one, run, wanted, found = both(Scheduled(how=how))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert run.replay is not None and run.replay.replayed == replayed
    said = (
        "waits for the device: a number of Python is made of a tensor, as by item(), float(), or `if` (test_replay.py"
    )
    assert run.replay.obstacle.startswith(said) if how == "waits" else run.replay.obstacle == ""
    assert (run.passes.forward, run.passes.backward) == (one_by_one.passes.forward, one_by_one.passes.backward)
    assert run.passes.forward == STEPS * run.batch_size


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_batch_norm_dropout_and_both_optimisers(optimiser: str, precision: str) -> None:
    suite = small_suite(epochs=STEPS // 2, precision=precision)
    # at 0.01, training is chaotic: one weight changed in its last bit moves the loss by 0.002 within 40 steps
    recipe = suite.training.model_copy(update={"optimiser": optimiser, "weight_decay": 0.01, "learning_rate": 0.003})
    network = Network(name="wrn_16_4_dropout", width=2)
    suite = suite.model_copy(update={"network": network, "training": recipe})
    one_by_one, run, wanted, found = both(create("pmm"), suite)
    tolerance = 1e-4 if precision == "float32" else 0.05  # bf16 makes more of a learning rate in float32
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    buffers = zip(one_by_one.net.buffers(), run.net.buffers(), strict=True)
    assert all(torch.allclose(a, b, rtol=0.01, atol=10 * tolerance) for a, b in buffers)
    assert run.replay is not None and run.replay.replayed == STEPS - SETTLED


def test_the_variances_of_a_batch_are_those_of_the_replayed_one() -> None:
    suite = small_suite(epochs=STEPS // 2)
    suite = suite.model_copy(update={"network": Network(name="wrn_16_4_lmt", width=1)})
    _, run, wanted, found = both(create("lmt(ramp_end=0)"), suite)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert run.replay is not None and run.replay.replayed == STEPS - SETTLED


@pytest.mark.parametrize("row", ["mma", "prune_magnitude", "crown_ibp", "mixup"])
def test_a_checkpoint_between_replays_changes_nothing(row: str) -> None:
    suite, data = small_suite(epochs=STEPS // 2), small_data()
    through = Run(create(row), suite, data, 0, recorder=Tape)
    for _ in range(15):
        through.step()
    resumed = Run(create(row), suite, data, 0, recorder=Tape)
    resumed.load_state_dict(copy.deepcopy(through.state_dict()))
    for _ in range(10):
        torch.testing.assert_close(resumed.step(), through.step(), rtol=1e-5, atol=1e-6)


class Breaks(Tape):
    """Fails at the recording, as when memory runs out."""

    def record(self, branches: Sequence[Branch]) -> list[Loss]:
        super().record(branches)
        raise CannotRecordError("out of memory")


def test_what_cannot_be_recorded_goes_on_step_by_step() -> None:
    one_by_one, run, wanted, found = both(create("mma"), recorder=Breaks)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert run.replay is not None and (run.replay.obstacle, run.replay.replayed) == ("out of memory", 0)
    assert (run.passes.forward, run.passes.backward) == (one_by_one.passes.forward, one_by_one.passes.backward)


@pytest.mark.parametrize(("before", "after"), [(None, Tape), (Tape, None)])
def test_a_checkpoint_may_go_on_in_the_other_way(before: type[Tape] | None, after: type[Tape] | None) -> None:
    suite = small_suite(epochs=STEPS // 2)
    suite = suite.model_copy(update={"training": suite.training.model_copy(update={"optimiser": "sgd"})})
    through = Run(create("ce"), suite, small_data(), 0, recorder=before)
    for _ in range(10):
        through.step()
    resumed = Run(create("ce"), suite, small_data(), 0, recorder=after)
    resumed.load_state_dict(copy.deepcopy(through.state_dict()))
    for _ in range(10):
        torch.testing.assert_close(resumed.step(), through.step(), rtol=1e-5, atol=1e-6)
    for run, recorder in ((through, before), (resumed, after)):
        assert bool(run.optimiser.param_groups[0]["fused"]) is (recorder is not None)


def test_a_method_may_refuse() -> None:
    class Refuses(Scheduled):
        info: ClassVar[Info] = replace(Scheduled.info, eager="it counts its calls")

    assert Run(Refuses(), small_suite(), small_data(), 0).replay is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("row", ["ce", "ce_dropout", "mixup", "mma", "crown_ibp", "mmr", "roll", "cure", "dsd", "lmt"])
def test_cuda_graphs_train_the_same(row: str) -> None:
    suite, data = small_suite(epochs=STEPS // 2), small_data().to(torch.device("cuda"))
    eager, graphs = (train(create(row), suite, data, 0, How(eager=eager)) for eager in (True, False))
    assert eager.replayed is None and graphs.replayed
    assert (graphs.forward, graphs.backward) == (eager.forward, eager.backward)
    torch.testing.assert_close(graphs.losses, eager.losses, rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("transforms", [["crop", "flip", "autoaugment", "cutout"], ["random_resized_crop", "flip"]])
def test_a_step_on_cuda_waits_for_nothing(transforms: list[str]) -> None:
    suite = small_suite(epochs=STEPS // 2)
    recipe = suite.training.model_copy(update={"augment": Augment.model_validate(transforms)})
    data = small_data().to(torch.device("cuda"))
    run = Run(create("ce"), suite.model_copy(update={"training": recipe}), data, 0)
    for _ in range(2 * SETTLED):
        run.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = run.step()
        with pytest.raises(RuntimeError, match="synchroniz"):
            float(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.replay is not None and run.replay.replayed > 0
