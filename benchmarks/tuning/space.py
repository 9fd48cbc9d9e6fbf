"""What is searched for a row: the fields of its method with the values that stand beside them, and of the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_origin

from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import Suite
from marginbench.methods import MarginbenchError, Method, rows, spec_of
from marginbench.methods.spec import configure, parse_spec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

RECIPE = "training."
RATE, DECAY = "training.learning_rate", "training.weight_decay"
RATE_FACTOR = 10.0  # of the suite's learning rate, up and down
DECAYS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)  # beside the suite's own
WIDE = 4.0  # largest to smallest value from which on a range is logarithmic
DIGITS = 3  # of a number that is drawn, so that a setting can be quoted


@dataclass(frozen=True)
class Range:
    """All numbers between two."""

    low: float
    high: float
    whole: bool
    logarithmic: bool

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.logarithmic)
        return FloatDistribution(self.low, self.high, log=self.logarithmic)

    def value(self, drawn: Any) -> Any:
        return int(drawn) if self.whole else min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', logarithmic' * self.logarithmic}"


@dataclass(frozen=True)
class Choices:
    """Some values, without an order."""

    values: tuple[Any, ...]

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def value(self, drawn: Any) -> Any:
        return drawn

    def __str__(self) -> str:
        return ", ".join("none" if value is None else str(value).lower() for value in self.values)


Axis = Range | Choices


@dataclass(frozen=True)
class Space:
    """The axes of a row by name: fields of the method, then dotted keys of the recipe. The default lies in it."""

    method: Method  # the default
    axes: Mapping[str, Axis]
    default: Mapping[str, Any]

    def setting(self, drawn: Mapping[str, Any]) -> tuple[Method, dict[str, Any]]:
        """The method and what changes of the recipe, for a point of the space.

        Raises:
            MarginbenchError: the method does not take these values together.
        """
        given = {
            name: self.default[name] if value == self.default[name] else self.axes[name].value(value)
            for name, value in drawn.items()
        }
        fields = {name: value for name, value in given.items() if not name.startswith(RECIPE)}
        recipe = {
            name: value for name, value in given.items() if name.startswith(RECIPE) and value != self.default[name]
        }
        return configure(type(self.method), {**dict(self.method), **fields}), recipe

    def distributions(self) -> dict[str, BaseDistribution]:
        return {name: axis.distribution() for name, axis in self.axes.items()}

    def in_words(self) -> dict[str, str]:
        return {name: str(axis) for name, axis in self.axes.items()}


def space_of(method: Method, suite: Suite, recipe: bool) -> Space:
    """What is searched for a row.

    A field with numbers beside it, all of them above 0, is searched between the smallest and the largest of these and
    its default, on a logarithmic scale if that is four times as large. Others are choices among the values: words, and
    numbers with a 0 among them, which switches a part off.

    A row is what it is named: fields that a spec such as `arcface(m=0.4)` gives keep their values. Of a preset, those
    choices do that it sets.

    Args:
        recipe: also search the learning rate, from a tenth of the suite's to ten times that, and the weight decay.
    """
    axes: dict[str, Axis] = {}
    default: dict[str, Any] = {}
    key, given = parse_spec(spec_of(method))
    preset = method.info.presets.get(key, {}) if key in rows() else {}
    for name, field in type(method).model_fields.items():
        if name in given:
            continue
        extra = field.json_schema_extra
        assert isinstance(extra, dict)  # checked at registration
        axis = _axis(extra["search"], getattr(method, name), field.annotation)  # type: ignore[arg-type]
        if axis is not None and not (name in preset and isinstance(axis, Choices)):
            axes[name], default[name] = axis, getattr(method, name)
    if recipe:
        for name, axis in _of_recipe(suite).items():
            axes[name], default[name] = axis, getattr(suite.training, name.removeprefix(RECIPE))
    return Space(method, axes, default)


def _axis(search: Sequence[Any], default: Any, annotation: Any) -> Axis | None:
    """None where there is nothing but the default."""
    values = list(dict.fromkeys([*search, default]))
    if len(values) == 1:
        return None
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values) or min(numbers) <= 0 or get_origin(annotation) is Literal:
        return Choices(tuple(values))
    low, high = min(numbers), max(numbers)
    return Range(low, high, all(isinstance(value, int) for value in numbers), high >= WIDE * low)


def _of_recipe(suite: Suite) -> dict[str, Axis]:
    rate = suite.training.learning_rate
    axes: dict[str, Axis] = {RATE: Range(rate / RATE_FACTOR, rate * RATE_FACTOR, False, True)}
    decays = [suite.training.weight_decay]
    for value in DECAYS:
        if value not in decays and _takes(suite, value):
            decays.append(value)
    return {**axes, DECAY: Choices(tuple(decays))} if len(decays) > 1 else axes


def _takes(suite: Suite, decay: float) -> bool:
    """Some optimisers have no weight decay, and some recipes need one."""
    try:
        derive(suite, {DECAY: decay})
    except MarginbenchError:
        return False
    return True
