"""A study: the same trials for the same seed, however often it was interrupted, and none of a failure left out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from marginbench.benchmarks.records.tuning import Trial
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.tuning.space import Space, space_of
from marginbench.benchmarks.tuning.study import STARTUP, Protocol, Study, ended_in
from marginbench.methods import MarginbenchError, create

SPACE = space_of(create("arcface"), load_suite("digits"), True)
Value = Callable[[Mapping[str, Any]], float]


def protocol(space: Space = SPACE, **changes: Any) -> Protocol:
    facts = {"row": "arcface", "trained_by": "recipe", "judged_by": "suite", "data": "data", "revision": 1}
    facts |= {"source": None, "objective": "validation_accuracy", "norm": "linf", "floor": None, "directions": 1}
    facts |= {"sampler": "tpe", "seed": 0, "space": space.in_words(), "default": dict(space.default)}
    return Protocol(**{**facts, **changes})


def near_16(point: Mapping[str, Any]) -> float:
    """Best at s = 16, as a training might be."""
    return 1.0 - abs(point["s"] - 16) / 64


def drawn(path: Path, count: int, again: bool = False, value: Value = near_16, **changes: Any) -> list[dict[str, Any]]:
    """The points of so many trials, each of them told; `again`: the file is opened anew before each one."""
    of, points = protocol(**changes), []
    study = Study(path, of, SPACE)
    for number in range(count):
        study = Study(path, of, SPACE) if again else study
        place, point = study.next()
        assert place == number and study.next() == (place, point)  # one that is interrupted is drawn again
        points.append(point)
        values = [value(point)] * of.directions
        ended = Trial(number=number, method="arcface", status="done", value=values[0], finished="2026")
        study.tell(ended, point, values)
    return points


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_trials_of_a_seed_are_always_the_same(tmp_path: Path, sampler: str) -> None:
    count = STARTUP + 3
    first = drawn(tmp_path / "a", count, sampler=sampler)
    assert drawn(tmp_path / "b", count, again=True, sampler=sampler) == first
    other = drawn(tmp_path / "c", count, sampler=sampler, seed=1)
    assert first[0] == other[0] == dict(SPACE.default)
    assert all(mine != theirs for mine, theirs in zip(first[1:], other[1:], strict=True))
    assert len({str(point) for point in first}) == count


def test_tpe_learns_from_the_trials_and_random_does_not(tmp_path: Path) -> None:
    def far(point: Mapping[str, Any]) -> float:
        return -near_16(point)

    count = STARTUP + 2
    for sampler, learns in (("tpe", True), ("random", False)):
        near = drawn(tmp_path / f"{sampler}-near", count, value=near_16, sampler=sampler)
        away = drawn(tmp_path / f"{sampler}-far", count, value=far, sampler=sampler)
        assert near[:STARTUP] == away[:STARTUP]
        assert (near[STARTUP] != away[STARTUP]) == learns  # the first by TPE


def test_two_values_are_tuned_at_once(tmp_path: Path) -> None:
    points = drawn(tmp_path / "a", STARTUP + 2, directions=2)
    assert drawn(tmp_path / "b", STARTUP + 2, again=True, directions=2) == points


def test_what_matters_is_found_to_be_important(tmp_path: Path) -> None:
    drawn(tmp_path / "a", 15, sampler="random")
    study = Study(tmp_path / "a", protocol(sampler="random"), SPACE)
    importance = study.importance(15)
    assert max(importance, key=importance.__getitem__) == "s" and sum(importance.values()) == pytest.approx(1, abs=1e-3)
    assert study.importance(1) == {}  # one value varies with nothing


def test_a_study_is_a_journal(tmp_path: Path) -> None:
    drawn(tmp_path / "a", 3)
    assert ended_in(tmp_path / "a") == 3
    (tmp_path / "b").write_text("no journal\n" * 2)
    for read in (ended_in, lambda path: Study(path, protocol(), SPACE)):
        with pytest.raises(MarginbenchError, match="b: cannot be read as a journal of optuna"):
            read(tmp_path / "b")


def test_a_trial_that_was_cut_while_it_was_written_is_done_again(tmp_path: Path) -> None:
    points = drawn(tmp_path / "a", 4)
    whole = (tmp_path / "a").read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    (tmp_path / "a").write_bytes(whole[: -len(last) // 2])
    study = Study(tmp_path / "a", protocol(), SPACE)
    assert [trial.number for trial in study.ended] == [0, 1, 2] and study.next() == (3, points[3])
    study.tell(Trial(number=3, method="arcface", status="done", value=0.5, finished="2026"), points[3], [0.5])
    assert ended_in(tmp_path / "a") == 4


def test_another_setting_of_the_tuning_is_another_study() -> None:
    known = protocol()
    for change in ({"seed": 1}, {"data": "other"}, {"revision": 2}, {"floor": 0.9}, {"trained_by": "other"}):
        assert protocol(**change).id != known.id
