"""The check that every hyper-parameter does something."""

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from marginbench.benchmarks.contract.fixtures import NotTestedError, small_data, small_suite, stage
from marginbench.benchmarks.estimator import ask
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.training.loop import train
from marginbench.methods import NORMS, MarginbenchError, Method
from marginbench.methods.spec import configure

SHORT, LONG = 4, 40  # epochs: some fields matter late, as those of a ramp
ROUNDING = 1e-4  # relative to the largest entry: of a formula in which a field cancels


def fields_matter(method: Method) -> None:
    """Each field changes the trained network or its certificate, for a value worth searching or one near the default.

    Where none does alone, it may take another field, as a weight may be needed for what it weighs to be seen. What
    changes nothing here may do so on another network: it is named, and no failure.
    """
    stage(method)  # raises where training does not stay finite
    fields = list(type(method).model_fields)
    idle = [name for name in fields if any(_others(method, name))]
    for epochs in (SHORT, LONG):
        idle = [name for name in idle if not _matters(method, name, epochs)]
    found = []
    for name in idle:
        beside = itertools.chain(*(_others(method, field) for field in fields if field != name))
        if not any(_matters(other, name, SHORT) for other in beside):
            found.append(name)
    if found:
        raise NotTestedError(
            f"{', '.join(found)}: no other value changes the small networks of this check, alone or with another field:"
            " is it used, and where the gradient sees it?"
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
    before = _outcome(method, epochs)
    return any(_differ(before, _outcome(other, epochs)) for other in _others(method, name))


@lru_cache(maxsize=2)
def _outcome(method: Method, epochs: int) -> dict[str, Tensor]:
    """What may differ: weights and buffers, logits and certified radii. Nothing, where the values do not go."""
    x = small_data().test.images(slice(16))
    with seeds.seeded(x.device, "contract", "fields"):
        try:
            net = train(method, small_suite(epochs), small_data(), repetition=0).net
            found = {**net.state_dict(), "logits": net(x).detach()}
            radii = {norm: ask(method.certify, net, x, norm).lower for norm in NORMS}
        except Exception:  # the method under test may raise anything
            return {}
    return found | {f"radii {norm}": radius for norm, radius in radii.items() if radius is not None}


def _differ(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    if not before or not after:
        return False
    return before.keys() != after.keys() or not all(_near(before[name], after[name]) for name in before)


def _near(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    largest = float(a.double().abs().nan_to_num(0, 0, 0).max()) if a.numel() else 0.0
    return torch.allclose(a.double(), b.double(), rtol=0, atol=ROUNDING * largest, equal_nan=True)
