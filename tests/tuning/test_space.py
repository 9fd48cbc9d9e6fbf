"""What is searched: the values beside the fields, with the default among them, and what makes a row left alone."""

import pytest

from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.tuning.space import DECAY, RATE, Choices, Range, space_of
from marginbench.methods import create, rows, spec_of

SUITE = load_suite("digits")


def test_numbers_are_a_range_and_words_are_choices() -> None:
    axes = space_of(create("arcface"), SUITE, False).axes
    assert axes["s"] == Range(8.0, 64.0, False, True)  # 64 is 8 times 8
    assert axes["m"] == Range(0.1, 0.5, False, True)
    assert axes["easy_margin"] == Choices((False, True))
    assert axes["warm_up"] == Choices((0.0, 1.0, 4.0))  # 0 switches it off
    assert space_of(create("cutout"), SUITE, False).axes["length"] == Range(0.25, 0.625, False, False)
    assert space_of(create("ccat"), SUITE, False).axes["steps"] == Range(10, 40, True, True)
    assert space_of(create("quantise"), SUITE, False).axes["bits"] == Choices((8, 4, 2, 1))  # not 3


def test_what_has_one_value_is_not_searched() -> None:
    assert set(space_of(create("mma"), SUITE, False).axes) == {"norm", "clean_weight", "min_radius"}
    assert space_of(create("ce"), SUITE, False).axes == {}


@pytest.mark.parametrize("row", rows())
def test_the_default_is_a_point_of_every_space_and_gives_the_row_itself(row: str) -> None:
    space = space_of(create(row), SUITE, True)
    method, recipe = space.setting(space.default)
    assert (spec_of(method), recipe) == (spec_of(create(row)), {})
    for name, distribution in space.distributions().items():
        assert distribution._contains(distribution.to_internal_repr(space.default[name])), name


def test_a_row_stays_what_it_is_named_for() -> None:
    assert "m" not in space_of(create("arcface(m=0.4)"), SUITE, False).axes
    form = space_of(create("mv_am"), SUITE, False).axes
    assert "form" not in form and "s" in form  # the preset is its form; its scale is tuned
    assert "clean_weight" not in space_of(create("omma"), SUITE, False).axes  # OMMA is MMA with none
    assert "weight" in space_of(create("jacobian_sqrt"), SUITE, False).axes


def test_a_setting_can_be_quoted() -> None:
    space = space_of(create("arcface"), SUITE, False)
    method, _ = space.setting({**space.default, "s": 12.3456789, "m": 0.1})
    assert spec_of(method) == "arcface(s=12.3,m=0.1)"
    assert spec_of(space.setting(space.default)[0]) == "arcface"


def test_the_recipe_is_searched_around_that_of_the_suite() -> None:
    space = space_of(create("ce"), SUITE, True)
    assert space.axes == {RATE: Range(2e-4, 2e-2, False, True), DECAY: Choices((0.0, 1e-4, 1e-3, 1e-2, 1e-1))}
    _, recipe = space.setting({RATE: 0.0123456, DECAY: 0.0})
    assert recipe == {RATE: 0.0123}  # what is as in the suite is no change


def test_an_optimiser_without_weight_decay_has_none_to_search() -> None:
    assert set(space_of(create("ce"), derive(SUITE, {"training.optimiser": "Rprop"}), True).axes) == {RATE}
