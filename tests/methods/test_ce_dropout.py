"""Dropout against its reference with the same masks, and off in evaluation."""

import pytest
import torch
from support import EXACT, a_net, assert_same, reference, stage
from torch.nn import functional as F

from marginbench.methods import MarginbenchError, create


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_matches_its_reference(p: float) -> None:
    method, net, batch, ctx = stage(f"ce_dropout(p={p})", name="cnn")
    *body, dropout = net.body
    features = torch.nn.Sequential(net.normalise, *body)(batch.x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        masks = F.dropout(torch.ones_like(features), p) > 0
        torch.manual_seed(1)
        found = method.loss(net, batch, ctx).total
    assert 0 < masks.float().mean() < 1
    wanted = reference("ce_dropout").loss(features, net.head.weight, net.head.bias, batch.y, masks, p)
    assert_same(found, wanted, net)
    assert isinstance(dropout, torch.nn.Dropout)


def test_evaluation_drops_nothing() -> None:
    _, net, batch, _ = stage("ce_dropout")
    torch.testing.assert_close(net.eval()(batch.x), a_net(create("ce"))(batch.x), rtol=0, atol=0)
    torch.testing.assert_close(net.decision_net()(batch.x), net(batch.x), rtol=0, atol=0)


def test_training_logits_are_unbiased() -> None:
    _, net, batch, _ = stage("ce_dropout")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        draws = torch.stack([net(batch.x) for _ in range(4000)])
        spread = draws.std(0) / 4000**0.5
        assert bool(((draws.mean(0) - net.eval()(batch.x)).abs() <= 5 * spread + 1e-12).all())


def test_zero_is_cross_entropy() -> None:
    method, net, batch, ctx = stage("ce_dropout(p=0.0)")
    found = method.loss(net, batch, ctx).total
    torch.testing.assert_close(found, reference("ce").loss(net, batch.x, batch.y), **EXACT)


@pytest.mark.parametrize("p", ["-0.1", "1.0"])
def test_bad_probability_is_refused(p: str) -> None:
    with pytest.raises(MarginbenchError, match="ce_dropout"):
        create(f"ce_dropout(p={p})")
