"""How much of the known margin each attack reaches among many local maxima, with the steps that it has by default."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mutants import mutated
from torch import Tensor

from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.evaluation.hard_canaries import ripples
from marginbench.methods import NORMS, Norm

SHARES: dict[str, dict[Norm, float]] = {  # mean of truth / found, a little below what was measured
    "cw": {"l2": 0.985, "linf": 0.98},
    "ddn": {"l2": 0.994, "linf": 0.97},
    "deepfool": {"l2": 0.94, "linf": 0.96},
    "fab_t": {"l2": 0.995, "linf": 0.98},
    "fmn": {"l2": 0.994, "linf": 0.97},
}
ONE_WAY: dict[str, Any] = {"steps": 30, "targets": 1, "starts": 0}  # of FMN: other ways make up for a fault
ONE_WAY_SHARES: dict[Norm, float] = {"l2": 0.994, "linf": 0.975}
OTHERS = 0.9  # of any other attack without a radius
SEEKERS = [name for name, attack in ATTACKS.items() if attack.gradient and attack.minimum_norm]


@pytest.fixture(scope="module")
def shares() -> Any:
    canary = ripples()
    net = canary.net.requires_grad_(False)
    x, y = canary.data.test.images(slice(None)), canary.data.test.y

    def of(attack: Attack, norm: Norm, **settings: Any) -> float:
        q = Query(net, x, y, norm, canary.epsilon[norm], x, torch.Generator().manual_seed(0))
        found: Tensor | None = attack(q, **settings).upper
        assert found is not None
        return float((canary.exact[norm] / found.double()).mean())

    return of


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SEEKERS)
def test_an_attack_reaches_its_share(name: str, norm: Norm, shares: Any) -> None:
    least = SHARES.get(name, {}).get(norm, OTHERS)
    assert least <= shares(ATTACKS[name], norm) <= 1.001


MUTANTS: dict[str, tuple[str, str, str, Norm]] = {  # attack, expression, what stands in its place, norm
    "DDN's sphere never shrinks": ("ddn", "adversarial, 1 - gamma, 1 + gamma", "adversarial, 1.0, 1 + gamma", "l2"),
    "C&W searches once": ("cw", "range(searches)", "range(1)", "linf"),
    "FAB takes few steps": ("fab_t", "steps=steps", "steps=2", "l2"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_weakened_attack_does_not(name: str, shares: Any) -> None:
    attack, old, new, norm = MUTANTS[name]
    weak = Attack(attack, mutated(ATTACKS[attack].function, old, new))
    assert shares(weak, norm) < SHARES[attack][norm]


@pytest.mark.parametrize("norm", NORMS)
def test_one_way_of_fmn_reaches_its_share(norm: Norm, shares: Any) -> None:
    assert ONE_WAY_SHARES[norm] <= shares(ATTACKS["fmn"], norm, **ONE_WAY) <= 1.001


SHRINKING = "torch.minimum(radius * (1 - gamma), closest.distance)"
BLOATED = "torch.minimum(radius * (1 + gamma), radius + closest.distance)"
ONE_WAY_MUTANTS: dict[str, tuple[str, str, Norm]] = {
    "the ball is twice as large": ("project(delta, radius,", "project(delta, 2 * radius,", "l2"),
    "the ball is half as large": ("project(delta, radius,", "project(delta, 0.5 * radius,", "l2"),
    "the ball never shrinks": (SHRINKING, BLOATED, "linf"),
    "steps never shrink": ("0.01 + 0.99 * cosine", "1.0", "linf"),
}


@pytest.mark.parametrize("name", ONE_WAY_MUTANTS)
def test_a_weakened_way_of_fmn_does_not(name: str, shares: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, norm = ONE_WAY_MUTANTS[name]
    module = sys.modules[ATTACKS["fmn"].function.__module__]  # the package has a function of that name
    follow: Callable[..., Any] = module._follow
    monkeypatch.setattr(module, "_follow", mutated(follow, old, new))
    assert shares(ATTACKS["fmn"], norm, **ONE_WAY) < ONE_WAY_SHARES[norm]
