"""Lipschitz-margin training learns with a residual network and batch norm, and the radii of that network hold."""

from functools import cache
from pathlib import Path

import pytest
from net_support import attacked, least_gap
from torch import Tensor

from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.loop import train
from marginbench.methods import Net, Radii, create


@cache
def a_residual_net(spec: str) -> tuple[Net, Tensor, Tensor]:
    """ResNet-20 in small after 150 steps on digits, in eval mode, and the test images with their labels."""
    values = {
        "name": "residual",
        "title": "digits, ResNet-20",
        "seeds": 1,
        "data": {"name": "digits", "validation": 200},
        "network": {"name": "resnet20", "width": 4},
        "training": {"epochs": 8, "batch_size": 64, "optimiser": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4},
        "evaluation": {"points": 1, "epsilon": {"linf": 0.1, "l2": 0.25}, "attacks": {}, "certificates": {}},
    }
    data = load_data("digits", 200, Path())
    net = train(create(spec), Suite(**values, folder=Path()), data, 0).net.requires_grad_(False)  # type: ignore[arg-type]
    return net, data.test.images(slice(None)), data.test.y


def certified(spec: str, radius: float) -> tuple[float, float]:
    """Accuracy on clean images, and within the radius as certified."""
    net, x, y = a_residual_net(spec)
    right = net(x).argmax(1) == y
    answer = create("lmt").certify(net, x, "l2")
    assert isinstance(answer, Radii)
    return float(right.float().mean()), float((right & (answer.radius >= radius)).float().mean())


def test_a_residual_network_with_batch_norm_learns_and_is_certified() -> None:
    clean, robust = certified("lmt", 0.03)
    assert clean > 0.75 and robust > 0.5
    clean, robust = certified("ce", 1e-3)
    assert clean > 0.9 and robust == 0


@pytest.mark.parametrize("broken", ["lmt(gate=false)", "lmt(variant=basic,gate=false)"])
def test_without_the_gate_it_does_not_learn(broken: str) -> None:
    assert certified(broken, 0.03)[0] < 0.5


def test_no_attack_within_the_radius_of_the_trained_network() -> None:
    net, x, y = a_residual_net("lmt")
    answer = create("lmt").certify(net, x, "l2")
    assert isinstance(answer, Radii)
    net, x, radius = net.double(), x.double(), answer.radius.double()
    right = net(x).argmax(1) == y
    x, y, radius = x[right][:100], y[right][:100], radius[right][:100]
    for share, harmed in ((1.0, False), (30.0, True)):  # far outside, the attack must be able to do harm
        found = least_gap(net, attacked(net, x, y, share * radius, "l2"), y) < 0
        assert bool(found.any()) == harmed
