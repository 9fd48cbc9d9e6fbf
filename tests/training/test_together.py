"""Trainings in a group: each is to the bit what it is alone, and one that leaves takes nobody with it."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.contract.tape import Tape
from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.machine.deadline import Deadline, DeadlineError
from marginbench.benchmarks.suites.augment import Augment
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training import trial
from marginbench.benchmarks.training.checkpoint import Checkpoint
from marginbench.benchmarks.training.clock import Shares
from marginbench.benchmarks.training.loop import DivergedError, How, Trained, train, training
from marginbench.benchmarks.training.recorder import Branch, CannotRecordError
from marginbench.benchmarks.training.replay import SETTLED
from marginbench.benchmarks.training.run import Run
from marginbench.benchmarks.training.together import Entrant, Left, train_together
from marginbench.methods import Batch, Context, Info, Loss, Method, Net, create, cross_entropy

EPOCHS = 16  # of two steps


class Staged(Method):
    """L = a CE(z, y), where a changes at one step, and something else may happen there."""

    info: ClassVar[Info] = Info("staged", "Staged", "tests", "-", "-", 2026, {})
    at: int = 10
    then: str = ""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        late = ctx.stage(lambda: ctx.step >= self.at)
        if late and self.then == "raises":
            raise ValueError("enough")
        if late and self.then == "memory":
            raise torch.OutOfMemoryError("out of memory")
        if late and self.then == "interrupts":
            raise KeyboardInterrupt
        loss = cross_entropy(net(batch.x), batch)
        return Loss((torch.inf if self.then == "diverges" else 3.0) * loss if late else loss)


def the_suite(epochs: int = EPOCHS) -> Suite:
    suite = small_suite(epochs=epochs)
    recipe = suite.training.model_copy(update={"augment": Augment.model_validate(["crop", "flip"])})
    return suite.model_copy(update={"training": recipe})


def entrants(*methods: str | Method, how: Sequence[How] = ()) -> list[Entrant]:
    made = [create(method) if isinstance(method, str) else method for method in methods]
    hows = how or [How() for _ in made]
    return [Entrant(method, seed % 2, one) for seed, (method, one) in enumerate(zip(made, hows, strict=True))]


def together(members: Sequence[Entrant], recorder: Any = Tape) -> dict[int, Left]:
    return {left.place: left for left in train_together(members, the_suite(), small_data(), recorder=recorder)}


def alone(entrant: Entrant, recorder: Any = Tape) -> Trained:
    """The same by itself, of which no code of groups knows."""
    run = Run(entrant.method, the_suite(), small_data(), entrant.repetition, recorder=recorder)
    with run.draws, closing(training(run, small_data(), How())) as steps:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value
            run.step()


def same(a: object, b: Trained) -> None:
    """To the bit, with its counted passes."""
    assert isinstance(a, Trained), a
    assert a.losses == b.losses and a.parts == b.parts and a.curve == b.curve
    assert (a.forward, a.backward, a.steps) == (b.forward, b.backward, b.steps)
    for (name, one), (_, two) in zip(a.net.state_dict().items(), b.net.state_dict().items(), strict=True):
        assert torch.equal(one, two), name


def test_each_is_what_it_is_alone_with_dropout_augmentation_and_stages() -> None:
    """Twin: were dropout drawn from a generator of all, ce_dropout would see other masks than alone."""
    members = entrants("ce_dropout", "pmm", "arcface", Staged(at=9), "ce_dropout", Staged(at=20))
    found = together(members)
    for place, member in enumerate(members):
        same(found[place].outcome, alone(member))
        outcome = found[place].outcome
        assert isinstance(outcome, Trained) and outcome.together == 6.0 and outcome.replayed is not None
        assert outcome.replayed > 0.5, "stages of others cost some steps"


def test_what_is_not_recorded_may_run_together_too() -> None:
    members = entrants("ce_dropout", "mixup")
    for place, left in together(members, recorder=None).items():
        same(left.outcome, train(members[place].method, the_suite(), small_data(), members[place].repetition))


def test_global_generators_are_as_before() -> None:
    before = torch.get_rng_state()
    together(entrants("ce_dropout"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("then", "kind"), [("raises", ValueError), ("diverges", DivergedError), ("memory", type(None))]
)
def test_one_that_fails_leaves_and_the_others_go_on(then: str, kind: type) -> None:
    members = entrants("ce_dropout", Staged(then=then), "pmm")
    found = together(members)
    assert isinstance(found[1].outcome, kind)
    for place in (0, 2):
        same(found[place].outcome, alone(members[place]))
        outcome = found[place].outcome
        assert isinstance(outcome, Trained) and 2 < outcome.together < 3
    assert 0 < found[1].seconds < found[0].seconds


def test_a_compiled_one_that_fails_is_to_be_done_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a compiled one that does not fail has the network of its class in the end."""
    monkeypatch.setattr(torch, "compile", partial)
    members = entrants(Staged(then="raises"), "ce", how=[How(compiled=True), How(compiled=True)])
    found = together(members)
    assert found[0].outcome is None
    same(found[1].outcome, alone(members[1]))
    outcome = found[1].outcome
    assert isinstance(outcome, Trained) and "forward" not in vars(outcome.net.body)


def test_one_that_cannot_begin_leaves_and_the_others_go_on() -> None:
    class Homeless(Staged):
        def build(self, net: Net, task: Any) -> Net:
            raise ValueError("nothing to build")

    found = together(entrants("ce", Homeless()))
    assert isinstance(found[1].outcome, ValueError) and isinstance(found[0].outcome, Trained)


def test_one_whose_time_is_up_leaves_with_a_checkpoint_and_goes_on_later(tmp_path: Path) -> None:
    limited = How(Checkpoint(tmp_path / "one.ckpt"), Deadline(0.0))
    found = together(entrants("ce", "pmm", how=[How(), limited]))
    assert isinstance(found[1].outcome, DeadlineError) and limited.deadline.stopped
    members = entrants("ce", "pmm", how=[How(), How(Checkpoint(tmp_path / "one.ckpt"))])
    found |= {1: together(members)[1]}
    for place in (0, 1):
        same(found[place].outcome, alone(members[place]))


def test_a_group_whose_call_is_to_stop_leaves_a_checkpoint_of_each(tmp_path: Path) -> None:
    """Twin: were the first one that stops to end the group, the others would lose what they have."""
    names = ("ce", "pmm", "arcface")

    def members(until: float | None) -> list[Entrant]:
        hows = [How(Checkpoint(tmp_path / f"{name}.ckpt"), Deadline(until=until)) for name in names]
        return entrants(*names, how=hows)

    left = together(members(until=0.0))
    assert {place: one.outcome for place, one in left.items()} == dict.fromkeys(range(3))
    assert all((tmp_path / f"{name}.ckpt").is_file() for name in names)
    left = together(members(until=None))
    for place, entrant in enumerate(entrants(*names)):
        same(left[place].outcome, alone(entrant))


def test_an_interrupted_group_goes_on_from_the_checkpoints_of_each(tmp_path: Path) -> None:
    def how(every: float = 300.0) -> list[How]:
        return [How(Checkpoint(tmp_path / f"{place}.ckpt", every)) for place in range(2)]

    with pytest.raises(KeyboardInterrupt):
        together([*entrants("ce_dropout", "arcface", how=how(0.0)), *entrants(Staged(then="interrupts"))])
    at = [Checkpoint(tmp_path / f"{place}.ckpt").load() for place in range(2)]
    assert [state and state["training"]["step"] for state in at] == [10, 10]
    members = entrants("ce_dropout", "arcface", how=how())
    (tmp_path / "1.ckpt").rename(tmp_path / "aside")  # this one starts again: they are at different steps
    first = together(members)
    (tmp_path / "aside").rename(tmp_path / "1.ckpt")
    second = together([members[1], *entrants("ce")])
    for outcome, member in ((first[0], members[0]), (first[1], members[1]), (second[0], members[1])):
        same(outcome.outcome, alone(member))


class Refuses(Tape):
    """A device that records nothing of one training."""

    def record(self, branches: Sequence[Branch]) -> list[Loss]:
        if len(branches) > 1:
            raise CannotRecordError("not this one", 1)
        return super().record(branches)


def test_one_that_cannot_be_recorded_is_stepped_beside_the_others() -> None:
    members = entrants("ce", "pmm")
    found = together(members, Refuses)
    outcomes = [found[place].outcome for place in (0, 1)]
    assert [isinstance(one, Trained) and bool(one.replayed) for one in outcomes] == [True, False]
    same(outcomes[0], alone(members[0]))


def test_time_is_divided_by_weight_and_pauses_are_nobodys() -> None:
    now = 0.0
    shares = Shares(lambda: now, lambda: now)
    one, two = shares.share(1), shares.share(2)
    assert one.read() == 0.0
    with shares.running():
        shares.divide({1: 1.0, 2: 3.0})
        now += 8.0
        assert (one.read(), two.glance()) == (2.0, 6.0)
        with one.paused():
            now += 100.0
            assert two.read() == 6.0
        now += 4.0
        shares.divide({2: 3.0})
        now += 5.0
    now += 50.0
    assert (one.read(), two.read()) == (3.0, 14.0)


def test_equal_trainings_are_charged_alike() -> None:
    now = 0.0

    class Slow(Tape):
        """A device on which replays alone take time."""

        def replay(self) -> None:
            nonlocal now
            now += 1.0
            super().replay()

    members = [replace(member, weight=2.0 if place == 2 else 1.0) for place, member in enumerate(entrants(*3 * ["ce"]))]
    shares = Shares(lambda: now, lambda: now)
    found = {left.place: left for left in train_together(members, the_suite(), small_data(), shares, Slow)}
    replays = 2 * EPOCHS - SETTLED
    assert [found[place].seconds for place in range(3)] == [replays / 4, replays / 4, replays / 2]
    for left in found.values():
        assert isinstance(left.outcome, Trained) and left.outcome.seconds == left.seconds


def test_a_recording_is_made_anew_only_when_it_must() -> None:
    class Counting(Tape):
        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[int] = []
            made.append(self)

        def record(self, branches: Sequence[Branch]) -> list[Loss]:
            self.sizes.append(len(branches))
            return super().record(branches)

    made: list[Counting] = []
    together(entrants("ce", "pmm", Staged(at=12), Staged(at=12)), Counting)
    assert [one.sizes for one in made] == [[4, 2, 4]]
    made.clear()
    together(entrants("ce", Staged(at=12, then="raises"), "pmm"), Counting)
    assert [one.sizes for one in made] == [[3, 2]]


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA_TRIAL = ["ce_dropout", "pmm", "arcface", "mma", "crown_ibp", "mixup"]


@needs_cuda
@pytest.mark.parametrize("network", ["cnn", "wrn_16_4_dropout"])
def test_on_cuda_a_group_trains_what_each_trains_alone(network: str) -> None:
    """As replayed steps do: up to the order in which a kernel may sum, and with the same draws."""
    suite, data = on_cuda(network)
    members = entrants(*CUDA_TRIAL)
    found = {left.place: left.outcome for left in train_together(members, suite, data)}
    for place, member in enumerate(members):
        one, two = found[place], train(member.method, suite, data, member.repetition)
        assert isinstance(one, Trained) and one.replayed and one.together == len(members)
        assert (one.forward, one.backward) == (two.forward, two.backward)
        torch.testing.assert_close(one.losses, two.losses, rtol=1e-2, atol=1e-2)


@needs_cuda
def test_on_cuda_seeds_draw_other_masks_of_dropout() -> None:
    """Twin: one generator for all branches would give a run other masks beside others than alone."""
    suite, data = on_cuda("wrn_16_4_dropout")
    two = [Entrant(create("ce"), 0, How()), Entrant(create("ce"), 0, How()), Entrant(create("ce"), 1, How())]
    found = {left.place: left.outcome for left in train_together(two, suite, data)}
    losses = [one.losses for one in found.values() if isinstance(one, Trained)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-2, atol=1e-2)
    assert losses[0] != losses[2] and len(losses) == 3
    everybodys = torch.cuda.default_generators[data.train.device.index]
    before = everybodys.get_state()
    torch.rand(1, device=data.train.device)
    assert not torch.equal(before, everybodys.get_state()), "it is in its place again"


@needs_cuda
@pytest.mark.parametrize("then", ["raises", "diverges", "memory"])
def test_on_cuda_one_that_fails_leaves(then: str) -> None:
    suite, data = on_cuda("cnn")
    found = {left.place: left for left in train_together(entrants("ce", Staged(then=then), "pmm"), suite, data)}
    assert not isinstance(found[1].outcome, Trained)
    assert all(isinstance(found[place].outcome, Trained) for place in (0, 2))


@needs_cuda
def test_on_cuda_a_branch_that_waits_is_stepped_beside_the_others() -> None:
    class Waits(Staged):
        def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
            loss = cross_entropy(net(batch.x), batch)
            return Loss(loss if float(loss.detach()) > 0.5 else 2 * loss)

    suite, data = on_cuda("cnn")
    found = {left.place: left.outcome for left in train_together(entrants("ce", Waits()), suite, data)}
    assert [isinstance(one, Trained) and bool(one.replayed) for one in (found[0], found[1])] == [True, False]


@needs_cuda
def test_on_cuda_a_trial_finds_time_and_memory() -> None:
    suite, data = on_cuda("cnn", trial.SHORTEST)
    found = trial.alone(create("ce"), suite, data)
    assert not found.obstacle and found.seconds > 0 and found.bytes > 0
    seconds = trial.growth(create("ce"), suite, data, 4)
    assert 1 in seconds and all(taken > 0 for taken in seconds.values())


def on_cuda(network: str, epochs: int = EPOCHS) -> tuple[Suite, Dataset]:
    device = torch.device("cuda", torch.cuda.current_device())
    suite = the_suite(epochs).model_copy(update={"network": Network(name=network, width=2)})
    return suite, small_data().to(device)
