"""Which trainings go together, and how many, from measurements that are made up; and the trials that measure."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.contract.tape import Tape
from marginbench.benchmarks.training import trial
from marginbench.benchmarks.training.choice import LARGEST, Alone, best_size, choose, next_size, pays
from marginbench.benchmarks.training.replay import SETTLED
from marginbench.methods import Batch, Context, Info, Loss, Method, Net, create, cross_entropy


def tried(each: Mapping[int, float], most: int) -> dict[int, float]:
    """The seconds of a step of all in the order in which sizes are tried; `each`: of one, by the size from which on."""
    seconds: dict[int, float] = {}
    while (size := next_size(seconds, most)) is not None:
        seconds[size] = size * each[max(known for known in each if known <= size)]
    return seconds


RESNET44 = {1: 4.64, 2: 3.3, 3: 2.72, 4: 2.5, 6: 2.30, 8: 2.35}  # ms, of which 1, 3, 6 and 8 were measured on an H200


def test_groups_grow_until_they_gain_too_little() -> None:
    seconds = tried(RESNET44, 16)
    assert list(seconds) == [1, 2, 3, 4, 6, 8] and best_size(seconds) == 6
    assert list(tried({1: 1.0}, 16)) == [1, 2] and best_size(tried({1: 1.0}, 16)) == 1, "a card that is full"
    assert best_size({1: 4.0, 2: 4.0, 3: 5.9}) == 2, "3 gains less than 5 %"
    assert best_size({1: 4.0, 2: 4.0, 3: 5.0}) == 3
    assert best_size({1: 4.0}) == 1


def test_no_more_are_tried_than_are_asked_for() -> None:
    endless = {1: 1.0, 2: 0.5, 3: 0.3, 4: 0.2, 5: 0.15, 6: 0.1, 8: 0.05, 12: 0.03, 16: 0.01}
    assert list(tried(endless, 5)) == [1, 2, 3, 4, 5]
    assert list(tried(endless, 1)) == [1]
    assert max(tried(endless, 10**6)) == LARGEST


GB = 10**9
ROWS = {
    "ce": Alone(1.0, GB),
    "pmm": Alone(1.1, GB),
    "ramp": Alone(1.0, GB, (20, 60)),
    "phases": Alone(1.2, GB, (20, 60)),
    "pgd": Alone(9.0, GB),
    "eager": Alone(obstacle="it waits"),
}


def chosen(plan: str, most: int = 16, room: int = 100 * GB) -> list[int]:
    return choose(plan.split(), ROWS.__getitem__, most, room)


def test_seeds_of_a_row_come_first_then_rows_whose_stages_change_together() -> None:
    assert chosen("ce pmm ramp pgd eager ce pmm ramp") == [0, 5, 1, 6], "not what takes nine times as long"
    assert chosen("ce pmm ramp ce pmm ce", most=3) == [0, 3, 5]
    assert chosen("ramp ce phases ramp phases") == [0, 3, 2, 4]
    assert chosen("pgd ce pgd") == [0, 2]


def test_what_cannot_be_recorded_is_trained_by_itself() -> None:
    assert chosen("eager eager ce") == [0]
    assert chosen("ce eager") == [0]


def test_memory_limits_a_group() -> None:
    assert chosen("ce ce ce ce", room=int(2.5 * GB)) == [0, 1], "a fifth more than was measured is left free"
    assert chosen("ce ce", room=0) == [0], "one is always tried"


def test_a_row_is_measured_only_where_it_matters() -> None:
    asked: list[str] = []

    def alone(row: str) -> Alone:
        asked.append(row)
        return ROWS[row]

    choose(["ce", "pmm", "ce", "ramp"], alone, 2, 100 * GB)
    assert set(asked) == {"ce"}


class Often(Method):
    """L = CE(z, y), with something that is read of the schedule."""

    info: ClassVar[Info] = Info("often", "Often", "tests", "-", "-", 2026, {})
    how: str = "stages"

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        if self.how == "raises":
            raise ValueError("not here")
        if self.how == "progress":
            return Loss((1 + ctx.progress) * cross_entropy(net(batch.x), batch))
        late = ctx.stage(lambda: ctx.progress >= 0.25) + ctx.stage(lambda: ctx.progress >= 0.75)
        return Loss((1 + late) * cross_entropy(net(batch.x), batch))


def alone(method: Method) -> Alone:
    ticks = iter(range(10**6))
    suite = small_suite(epochs=trial.SHORTEST)
    return trial.alone(method, suite, small_data(), Tape, lambda: float(next(ticks)))


def test_a_trial_finds_the_time_of_a_step_and_when_stages_change() -> None:
    assert alone(create("ce")) == Alone(1 / trial.STEPS)
    assert alone(Often()).changes == (25, 75)


@pytest.mark.parametrize(
    ("method", "why"),
    [(Often(how="progress"), trial.DIFFERS), (Often(how="raises"), "ValueError: not here")],
)
def test_a_trial_finds_why_nothing_is_recorded(method: Method, why: str) -> None:
    assert alone(method) == Alone(obstacle=why)


def test_no_trial_for_a_training_that_is_as_short() -> None:
    assert trial.alone(create("ce"), small_suite(epochs=2), small_data(), Tape).obstacle == trial.SHORT
    assert trial.alone(create("ce"), small_suite(), small_data()).obstacle == trial.NO_RECORDER


def test_a_trial_of_groups_steps_all_of_them() -> None:
    now = 0.0

    class Card(Tape):
        """One recording takes a second, whatever its branches, up to three of them; then each takes one more."""

        def replay(self) -> None:
            nonlocal now
            now += max(1.0, len(self._tracks) - 2.0)
            super().replay()

    seconds = trial.growth(create("ce"), small_suite(), small_data(), 16, Card, lambda: now)
    assert seconds == {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0} and best_size(seconds) == 3
    assert SETTLED < trial.STEPS


def test_a_trial_of_groups_ends_where_one_fails() -> None:
    assert trial.growth(Often(how="raises"), small_suite(), small_data(), 16, Tape) == {}


def test_compiling_pays_from_some_number_of_steps_on() -> None:
    assert pays(60.0, before=4.64e-3, after=4.00e-3, steps=100_000)
    assert not pays(60.0, before=4.64e-3, after=4.00e-3, steps=90_000)
    assert not pays(0.0, before=4e-3, after=4e-3, steps=10**9), "it gains nothing"


@pytest.mark.parametrize(("cost", "compiled"), [(0.0, True), (1e9, False)])
def test_a_trial_compiles_what_pays(monkeypatch: pytest.MonkeyPatch, cost: float, compiled: bool) -> None:
    """With a compiler that takes a while, and makes what it compiles free."""
    now, speed = 0.0, 1.0

    def compiler(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        nonlocal now, speed
        now, speed = now + cost, 0.0
        return partial(forward)

    class Card(Tape):
        def replay(self) -> None:
            nonlocal now
            now += speed
            super().replay()

    monkeypatch.setattr(torch, "compile", compiler)
    suite = small_suite(epochs=trial.SHORTEST)
    found = trial.alone(create("ce"), suite, small_data(), Card, lambda: now, compile=True)
    assert (found.compiled, found.seconds) == ((True, 0.0) if compiled else (False, 1.0))


def test_what_cannot_be_compiled_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: object) -> object:
        raise RuntimeError("no double backward")

    monkeypatch.setattr(torch, "compile", refuses)
    assert trial.alone(create("ce"), small_suite(), small_data(), Tape, compile=True) == Alone(obstacle=trial.SHORT)
    suite = small_suite(epochs=trial.SHORTEST)
    found = trial.alone(create("ce"), suite, small_data(), Tape, lambda: 0.0, compile=True)
    assert found == Alone()
