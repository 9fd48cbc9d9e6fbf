"""The check that every hyper-parameter does something."""

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

import torch

from marginbench.benchmarks.contract.fixtures import require, small_data, small_suite
from marginbench.benchmarks.estimator import ask
from marginbench.benchmarks.training.loop import Trained, train
from marginbench.benchmarks.unchanged import equal
from marginbench.methods import NORMS, MarginbenchError, Method
from marginbench.methods.spec import configure

SHORT, LONG = 4, 40  # epochs: some fields matter late, as those of a ramp


def fields_matter(method: Method) -> None:
    """Each field changes the trained network or its certificate, for a value worth searching or one near the default.

    Where none does alone, it may take another field, as a weight may be needed for what it weighs to be seen.
    """
    fields = list(type(method).model_fields)
    idle = [name for name in fields if any(_others(method, name))]
    for epochs in (SHORT, LONG):
        idle = [name for name in idle if not _matters(method, name, epochs)]
    for name in idle:
        beside = itertools.chain(*(_others(method, field) for field in fields if field != name))
        require(
            any(_matters(other, name, SHORT) for other in beside),
            f"{name} changes nothing, neither weights nor certificates, alone or with another field: use it where the"
            " gradient sees it, or remove it",
        )


def _others(method: Method, name: str) -> Iterator[Method]:
    """The method with other values of this field: those of its search, other names of a choice, numbers beside."""
    given, field = getattr(method, name), type(method).model_fields[name]
    extra: Any = field.json_schema_extra
    values = list(extra["search"])
    if get_origin(field.annotation) is Literal:
        values += get_args(field.annotation)
    elif isinstance(given, bool):
        values.append(not given)
    elif isinstance(given, int | float):
        values += [type(given)(number) for number in (2 * given, given / 2, 0, 1)]
    for value in dict.fromkeys(values):
        if value != given:
            try:
                yield configure(type(method), {**dict(method), name: value})
            except MarginbenchError:  # out of range, or not beside the other fields
                continue


def _matters(method: Method, name: str, epochs: int) -> bool:
    before = _trained(method, epochs)
    return any(_differ(method, before, other, _trained(other, epochs)) for other in _others(method, name))


@lru_cache(maxsize=2)
def _trained(method: Method, epochs: int) -> Trained | None:
    """None where the values do not go: that is a difference, too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return train(method, small_suite(epochs), small_data(), repetition=0)
        except Exception:  # the method under test may raise anything
            return None


def _differ(method: Method, trained: Trained | None, other: Method, again: Trained | None) -> bool:
    if trained is None or again is None:
        return trained is not again
    one, two = trained.net.state_dict(), again.net.state_dict()
    if one.keys() != two.keys() or not all(equal(one[key], two[key]) for key in one):
        return True
    x = small_data().test.images(slice(8))
    for norm in NORMS:
        radii = ask(method.certify, trained.net, x, norm).lower, ask(other.certify, again.net, x, norm).lower
        if radii[0] is not None and radii[1] is not None and not equal(radii[0], radii[1]):
            return True
    return False
