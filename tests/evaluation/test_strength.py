"""How much of the known margin each attack reaches among many local maxima, with the steps that it has by default."""

import sys
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
    "fmn": {"l2": 0.994, "linf": 0.975},
}
OTHERS = 0.9  # of any other attack without a radius
SEEKERS = [name for name, attack in ATTACKS.items() if attack.gradient and attack.minimum_norm]


@pytest.fixture(scope="module")
def shares() -> Any:
    canary = ripples()
    net = canary.net.requires_grad_(False)
    x, y = canary.data.test.images(slice(None)), canary.data.test.y

    def of(attack: Attack, norm: Norm) -> float:
        q = Query(net, x, y, norm, canary.epsilon[norm], x, torch.Generator().manual_seed(0))
        found: Tensor | None = attack(q).upper
        assert found is not None
        return float((canary.exact[norm] / found.double()).mean())

    return of


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SEEKERS)
def test_an_attack_reaches_its_share(name: str, norm: Norm, shares: Any) -> None:
    least = SHARES.get(name, {}).get(norm, OTHERS)
    assert least <= shares(ATTACKS[name], norm) <= 1.001


MUTANTS: dict[str, tuple[str, str, str, Norm]] = {  # attack, expression, what stands in its place, norm
    "FMN's ball is twice as large": ("fmn", "(radius / delta.norm", "(2 * radius / delta.norm", "l2"),
    "FMN's ball is half as large": ("fmn", "(radius / delta.norm", "(0.5 * radius / delta.norm", "l2"),
    "FMN's ball never shrinks": (
        "fmn",
        "radius * (1 - gamma), closest",
        "radius * (1 + gamma), radius + closest",
        "linf",
    ),
    "FMN's steps never shrink": ("fmn", "0.01 + 0.99 * cosine", "1.0", "linf"),
    "DDN's sphere never shrinks": ("ddn", "adversarial, 1 - gamma, 1 + gamma", "adversarial, 1.0, 1 + gamma", "l2"),
    "C&W searches once": ("cw", "range(searches)", "range(1)", "linf"),
    "FAB takes few steps": ("fab_t", "steps=steps", "steps=2", "l2"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_weakened_attack_does_not(name: str, shares: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attack, old, new, norm = MUTANTS[name]
    weak = ATTACKS[attack]
    if attack == "fmn":
        module = sys.modules[weak.function.__module__]
        monkeypatch.setattr(module, "_follow", mutated(module._follow, old, new))  # type: ignore[attr-defined]
    else:
        weak = Attack(attack, mutated(weak.function, old, new))
    assert shares(weak, norm) < SHARES[attack][norm]
