"""Every attack: blind to the scale of logits and to other images, without side effects, and honest about failure."""

import math
import random

import numpy as np
import pytest
import torch
from attack_support import (
    EPSILON,
    Constant,
    Scaled,
    found,
    ignores_other_images,
    images,
    predicted,
    propose,
    random_net,
)
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.attacks.ray import distance, is_adversarial, tighten
from marginbench.benchmarks.attacks.scan import ATTACKS, Attack
from marginbench.benchmarks.estimator import Query
from marginbench.methods import NORMS, Norm

BLACK_BOX = {name for name, one in ATTACKS.items() if not one.gradient}
AT_EPSILON = ("apgd", "apgd_ce", "apgd_t", "square")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_scale_and_shift_of_logits_do_not_matter(name: str, norm: Norm) -> None:
    net, x = random_net(2), images(2, 40, 1.0)
    y = predicted(net, x)
    plain = found(name, net, x, y, norm)
    assert plain.isfinite().float().mean() > 0.5
    for scale, shift in [(100.0, 0.0), (1e-3, 0.0), (1.0, 50.0), (1e-30, 0.0), (1e30, 0.0)]:
        other = found(name, Scaled(net, scale, shift), x, y, norm)
        assert torch.equal(other.isfinite(), plain.isfinite()), (scale, shift)
        ratio = other[other.isfinite()].mean() / plain[plain.isfinite()].mean()
        assert abs(ratio - 1) < 1e-3, (scale, shift)


class CosineHead(nn.Module):
    """s cos(phi, w_j): softmax saturates at s = 64, and cross-entropy has no gradient in float32."""

    def __init__(self, net: nn.Sequential, scale: float) -> None:
        super().__init__()
        self.body, self.weight, self.scale = net[:-1], net[-1].weight, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.normalize(self.body(x)) @ F.normalize(self.weight).T


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", sorted(set(ATTACKS) - BLACK_BOX))
def test_cosine_head_of_scale_64(name: str, norm: Norm) -> None:
    base, x = random_net(3), images(3, 40, 1.0)
    small, large = CosineHead(base, 1.0), CosineHead(base, 64.0)
    y = predicted(large, x)
    reached = found(name, large, x, y, norm)
    assert reached.isfinite().float().mean() >= 0.95
    assert torch.allclose(reached, found(name, small, x, y, norm), rtol=1e-2)


class Broken(nn.Module):
    """Class 0 in one half of the box, logits of one value, which decide nothing, in the other."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.flatten(1).mean(1, keepdim=True)
        logits = torch.cat([3 - brightness, brightness, -brightness, 0 * brightness], 1)
        return torch.where(brightness > 0.5, self.value, logits)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_failure_is_infinite(name: str, norm: Norm) -> None:
    x = images(4, 6, 0.5)
    nets = [Constant(5, graph=False), Constant(5, graph=True), Constant(2, graph=True)]
    for net in nets:
        dark = x * 0.5
        assert (predicted(net, dark) == 0).all()
        y = torch.zeros(6, dtype=torch.int64)
        candidate = propose(name, net, dark, y, norm)
        assert candidate.isfinite().all()
        point, reached = tighten(net, dark, candidate, y, norm)
        assert (reached == torch.inf).all()
        assert torch.equal(point, dark)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_where_logits_decide_nothing_an_image_is_adversarial(name: str, norm: Norm, value: float) -> None:
    net, dark = Broken(value), images(4, 6, 0.5) * 0.5
    truth = (0.5 - dark.flatten(1).mean(1)) * (1 if norm == "linf" else 6)
    candidate = propose(name, net, dark, torch.zeros(6, dtype=torch.int64), norm)
    assert candidate.isfinite().all()
    reached = tighten(net, dark, candidate, torch.zeros(6, dtype=torch.int64), norm)[1]
    assert (reached >= truth * (1 - 1e-5)).all()
    # DeepFool does not set out: the boundary between the logits that it sees is outside the box
    if (ATTACKS[name].minimum_norm and name != "deepfool") or name == "blend":
        assert reached.isfinite().all()


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_leave_everything_as_it_was(name: str, norm: Norm, classes: int) -> None:
    net, x = random_net(7, classes).requires_grad_(True), images(7, 12, 1.0)
    net[1].train()  # a mixture of modes, to see that none is changed
    y = predicted(net, x)
    before, state, modes = x.clone(), torch.get_rng_state(), [m.training for m in net.modules()]
    elsewhere = (random.getstate(), np.random.get_state()[1].tolist())
    candidate = propose(name, net, x, y, norm)
    assert torch.equal(torch.get_rng_state(), state)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == elsewhere
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(x, before)
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())
    assert candidate.shape == x.shape
    assert candidate.dtype == torch.float32
    assert not candidate.requires_grad
    assert candidate.data_ptr() != x.data_ptr()
    assert candidate.min() >= 0
    assert candidate.max() <= 1
    assert torch.equal(candidate, propose(name, net, x, y, norm)), "same generator, same points"
    adversarial = is_adversarial(net, candidate, y)
    assert adversarial.float().mean() > 0.3
    if name in AT_EPSILON:
        assert (distance(candidate.double() - x.double(), norm) <= EPSILON[norm] * (1 + 1e-5)).all()
    assert propose(name, net, x[:0], y[:0], norm).shape == x[:0].shape


class Recorder(nn.Module):
    """Counts the forward passes that could be differentiated."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.differentiable = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.differentiable += x.requires_grad and torch.is_grad_enabled()
        return self.net(x)


@pytest.mark.parametrize("name", ATTACKS)
def test_black_box_attacks_use_no_gradients(name: str) -> None:
    net, x = Recorder(random_net(8)), images(8, 10, 1.0)
    propose(name, net, x, predicted(net, x), "l2")
    assert (net.differentiable == 0) == (name in BLACK_BOX)


def mean_gradient(q: Query) -> Tensor:
    """A mutant: every image moves along the mean gradient of the batch."""
    point = q.x.clone().requires_grad_()
    logits = q.net(point)
    (gradient,) = torch.autograd.grad((logits.logsumexp(1) - logits.gather(1, q.y[:, None])[:, 0]).sum(), point)
    return (q.x + gradient.mean(0, keepdim=True).sign()).clamp(0, 1)


@pytest.mark.parametrize("norm", NORMS)
def test_other_images_of_the_batch_do_not_matter(norm: Norm) -> None:
    one = {"apgd_t": {"targets": 1}}  # images that the first target has broken leave, and with them random numbers
    for name in ATTACKS:
        assert ignores_other_images(ATTACKS[name], norm, **one.get(name, {})), name
    assert not ignores_other_images(Attack("mean", mean_gradient), norm)
