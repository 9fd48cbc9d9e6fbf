"""DeepFool: one step solves a linear network, and more steps find closer points than other attacks."""

import pytest
import torch
from attack_support import found, images, predicted, propose, random_net

from marginbench.benchmarks.attacks.ray import distance, tighten
from marginbench.methods import NORMS, Norm


@pytest.mark.parametrize("norm", NORMS)
def test_first_step_solves_a_linear_network_up_to_the_overshoot(norm: Norm) -> None:
    net, x = random_net(0, width=None), images(0, 40, 0.4)
    y = predicted(net, x)
    one = propose("deepfool", net, x, y, norm, steps=1)
    raw, tight = distance(one.double() - x.double(), norm), tighten(net, x, one, y, norm)[1]
    torch.testing.assert_close(raw, 1.02 * tight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(tight, found("deepfool", net, x, y, norm), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_more_effort_finds_closer_points(norm: Norm) -> None:
    net, x = random_net(10, classes=10), images(10, 60, 1.0)
    y = predicted(net, x)
    near = found("deepfool", net, x, y, norm)
    assert near.isfinite().all()
    assert near.mean() < 1.03 * found("fmn", net, x, y, norm, steps=200).mean()
    assert found("fmn", net, x, y, norm).mean() < 1.03 * found("fmn", net, x, y, norm, steps=200).mean()
    assert near.mean() < 0.7 * found("noise", net, x, y, norm).mean(), "random directions beat gradients"
    assert near.mean() < 0.9 * found("blend", net, x, y, norm).mean()
