"""Gaussian augmentation against its reference."""

import pytest
import torch
from support import a_batch, a_context, a_net, assert_same, reference, stage

from marginbench.methods import NotApplicable, create


def test_rand_smoothing_matches_its_reference() -> None:
    method, net, batch, ctx = stage("rand_smoothing(sigma=0.5)")
    noise = torch.randn(batch.x.shape, generator=a_context().generator, dtype=torch.float64)
    found = method.loss(net, method.augment(batch, ctx), ctx).total
    assert_same(found, reference("rand_smoothing").loss(net, batch.x, batch.y, noise, 0.5), net)
    again = method.augment(batch, a_context())
    assert_same(method.loss(net, again, ctx).total, found, net)


def test_rand_smoothing_noise_is_normal_and_not_clipped() -> None:
    method = create("rand_smoothing(sigma=0.25)")
    batch = a_batch(a_net(method), count=2000)
    noise = (method.augment(batch, a_context()).x - batch.x) / 0.25
    assert abs(noise.mean().item()) < 0.03 and noise.std().item() == pytest.approx(1, abs=0.03)
    assert noise.pow(4).mean().item() == pytest.approx(3, abs=0.2)
    assert batch.x.max() < 1 < method.augment(batch, a_context()).x.max()


def test_rand_smoothing_does_not_certify_the_network() -> None:
    method, net, batch, _ = stage("rand_smoothing")
    answer = method.certify(net, batch.x, "l2")
    assert isinstance(answer, NotApplicable) and "smoothed" in answer.reason
