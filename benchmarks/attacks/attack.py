"""An attack as the benchmark sees it: a function that proposes points, what is true of it, and its registry."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor

from marginbench.benchmarks.attacks.ray import Attached, pushed, tighten
from marginbench.benchmarks.estimator import Answer, Estimator, Query, check_signature
from marginbench.benchmarks.machine.search import fast_search, is_coarse_on
from marginbench.benchmarks.registry import Registry
from marginbench.methods import MarginbenchError

Propose = Callable[..., Tensor]
"""(q, *, settings) -> [B, C, H, W] float32 in [0, 1]: a point for each image, the image itself where it has failed.

Random state, parameters, modes and inputs must be afterwards as they were.
"""


@dataclass(frozen=True)
class Attack(Estimator):
    """A function that proposes points. Only `tighten` decides what they are worth."""

    gradient: bool = True  # it uses gradients: a network that hides them can stop it
    minimum_norm: bool = False  # it may go anywhere in the box
    control: bool = False  # it draws blindly: an attack that uses gradients must not lose to it

    def propose(self, q: Query, **settings: Any) -> Tensor:
        """The points [B, C, H, W] themselves. Gradients are those into the box, see `ray.attached`.

        They are sought with `fast_search`, and those that stop short in its arithmetic are pushed on; except by what
        bears another's name and is therefore computed as there.

        Raises:
            MarginbenchError: they are not images like those of the query, or the function wrote into these.
        """
        coarse = is_coarse_on(q.x.device) and not {**self.settings, **settings}.get("original")
        with fast_search(q.net, q.x.device) if coarse else contextlib.nullcontext():
            found = self._ask(replace(q, net=Attached(q.net)), settings)
        if not isinstance(found, Tensor) or found.shape != q.x.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise MarginbenchError(f"attack {self.name!r} returned {shape}, images of shape {tuple(q.x.shape)} needed")
        found = found.detach().to(q.x)  # others compute in float64
        return torch.where(found.isnan(), found, pushed(q.net, q.x, found, q.y)) if coarse else found

    def __call__(self, q: Query, **settings: Any) -> Answer:
        """How near its `points` come, tightened on the ray; `upper` is inf where it fails."""
        if len(q.x) == 0:  # not every network can be asked about no images
            return Answer(upper=q.x.new_zeros(0), points=q.x)
        points = self.propose(q, **settings)
        return Answer(upper=tighten(q.net, q.x, points, q.y, q.norm)[1], points=points)


ATTACKS: Registry[Attack] = Registry()


@overload
def attack(function: Propose, /) -> Attack: ...


@overload
def attack(*, gradient: bool = ..., minimum_norm: bool = ..., control: bool = ...) -> Callable[[Propose], Attack]: ...


def attack(
    function: Propose | None = None, /, *, gradient: bool = True, minimum_norm: bool = False, control: bool = False
) -> Attack | Callable[[Propose], Attack]:
    """A decorator: the function is an attack, which suites may list by its name. For the traits see `Attack`.

    Raises:
        MarginbenchError: another file has an attack of that name, or the function has arguments beside the query that
            are not settings.
    """

    def add(function: Propose) -> Attack:
        check_signature(function)
        found = Attack(function.__name__, function, gradient, minimum_norm, control)
        ATTACKS.add(found.name, found, function)
        return found

    return add if function is None else add(function)
