"""Minimum-norm attacks reach the exact margin of a linear network, and no attack falls below it."""

import math
from typing import Any

import pytest
import torch
from attack_support import MINIMUM_NORM, found, images, margin_without_box, predicted, propose_by, random_net
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from marginbench.benchmarks.attacks.from_file import foreign
from marginbench.benchmarks.attacks.ray import tighten
from marginbench.benchmarks.attacks.scan import ATTACKS, Attack
from marginbench.methods import NORMS, Norm


def margin_in_box(net: nn.Sequential, x: Tensor, y: int, norm: Norm) -> float:
    """The distance to the nearest half-space of a rival within the box, in float64 by general solvers."""
    weight, bias = net[-1].weight.double(), net[-1].bias.double()
    start = x.flatten().double()
    room = list(zip((-start).tolist(), (1 - start).tolist(), strict=True))
    best = math.inf
    for rival in set(range(len(bias))) - {y}:
        normal = weight[rival] - weight[y]
        goal = -float(normal @ start + bias[rival] - bias[y])
        reach = sum(float(w) * (high if w > 0 else low) for w, (low, high) in zip(normal, room, strict=True))
        if reach < goal:
            continue
        w = normal.numpy()
        if norm == "linf":
            eye = torch.eye(len(w)).numpy()
            rows = [[*-w, 0.0], *([*e, -1.0] for e in eye), *([*-e, -1.0] for e in eye)]
            cost = [0.0] * len(w) + [1.0]
            result = linprog(cost, A_ub=rows, b_ub=[-goal] + [0.0] * 2 * len(w), bounds=[*room, (0, None)])
        else:
            constraint = {
                "type": "eq",
                "fun": lambda d, w=w, goal=goal: w @ d - goal,
                "jac": lambda d, w=w: w,
            }
            result = minimize(
                lambda d: d @ d,
                0 * w,
                jac=lambda d: 2 * d,
                bounds=room,
                constraints=constraint,
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
        assert result.success
        best = min(best, float(result.fun) if norm == "linf" else math.sqrt(result.fun))
    return best


@pytest.mark.parametrize("norm", NORMS)
def test_linear_network_inside_the_box(norm: Norm) -> None:
    net, x = random_net(0, width=None), images(0, 60, 0.4)
    y = predicted(net, x)
    exact = margin_without_box(net, x, y, norm)
    torch.testing.assert_close(found("deepfool", net, x, y, norm), exact, rtol=1e-5, atol=1e-6)
    for name in MINIMUM_NORM:
        reached = found(name, net, x, y, norm)
        torch.testing.assert_close(reached, exact, rtol=0.02, atol=0, msg=lambda m, name=name: f"{name}: {m}")
    for name in ATTACKS:
        assert (found(name, net, x, y, norm) >= exact * (1 - 1e-5) - 1e-6).all(), name


@pytest.mark.parametrize("norm", NORMS)
def test_linear_network_held_by_the_box(norm: Norm) -> None:
    net, x = random_net(1, width=None), images(1, 8, 2.5)
    y = predicted(net, x)
    exact = torch.tensor([margin_in_box(net, a, int(b), norm) for a, b in zip(x, y, strict=True)])
    assert (exact > 1.03 * margin_without_box(net, x, y, norm)).all(), "the test needs a box that matters"
    torch.testing.assert_close(found("deepfool", net, x, y, norm), exact, rtol=1e-5, atol=1e-6)
    for name in MINIMUM_NORM:
        reached = found(name, net, x, y, norm)
        torch.testing.assert_close(reached, exact, rtol=0.02, atol=0, msg=lambda m, name=name: f"{name}: {m}")
    for name in ATTACKS:
        assert (found(name, net, x, y, norm) >= exact * (1 - 1e-5) - 1e-6).all(), name


def follows_the_norm(attack: Attack, norm: Norm) -> bool:
    """Two classes, no walls near: the margin in this norm is reached within 2 %. The other norm's point is farther."""
    net, x = random_net(15, classes=2, width=None), images(15, 20, 0.2)
    y = predicted(net, x)
    point = propose_by(attack, net, x, y, norm, epsilon=1.0)
    reached = tighten(net, x, point, y, norm, steps=24)[1]
    return bool((reached <= 1.02 * margin_without_box(net, x, y, norm)).all())


def torchattacks_fab(norm: str) -> Attack:
    """FAB of torchattacks in the norm given here, whatever it is asked for. Without a norm it is L-infinity."""

    def make(model: nn.Module, _norm: str, epsilon: float) -> Any:
        import torchattacks

        return torchattacks.FAB(model, norm=norm, eps=epsilon, steps=20, multi_targeted=True, n_classes=2)

    return foreign(make)


@pytest.mark.parametrize("norm", NORMS)
def test_minimum_norm_attacks_follow_the_norm(norm: Norm) -> None:
    for name in MINIMUM_NORM:
        assert follows_the_norm(ATTACKS[name], norm), name
    right, wrong = ("L2", "Linf") if norm == "l2" else ("Linf", "L2")
    assert follows_the_norm(torchattacks_fab(right), norm)
    assert not follows_the_norm(torchattacks_fab(wrong), norm), "FAB in the wrong norm"
    assert not follows_the_norm(Attack("idle", lambda q: q.x.clone()), norm), "an attack that returns its input"
