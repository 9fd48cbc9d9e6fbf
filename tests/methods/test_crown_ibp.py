"""CROWN-IBP against its reference, and its limits."""

import pytest
from support import assert_same, reference, stage

from marginbench.methods import create


@pytest.mark.parametrize("name", ["mlp", "cnn", "linear"])
@pytest.mark.parametrize(("epoch", "share"), [(0, 0.0), (2, 0.4), (4, 1.0)])
@pytest.mark.parametrize("beta_end", [0.0, 0.3])
def test_crown_ibp_matches_its_reference(name: str, epoch: int, share: float, beta_end: float) -> None:
    spec = f"crown_ibp(ramp_start=0.2,ramp_end=0.7,kappa_end=0.25,beta_end={beta_end})"
    method, net, batch, ctx = stage(spec, epoch, name=name)
    weights = {"kappa": 1 - 0.75 * share, "beta": 1 - share * (1 - beta_end)}
    layers, logits = reference("ibp").matrices(net, (4, 4)), net(batch.x)
    wanted = reference("crown_ibp").loss(batch.x.flatten(1), batch.y, layers, logits, epsilon=0.1 * share, **weights)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_crown_ibp_limits() -> None:
    shared = "ramp_start=0.0,ramp_end=0.5"
    method, net, batch, ctx = stage(f"crown_ibp({shared},kappa_end=0.5)", epoch=4)
    assert_same(method.loss(net, batch, ctx).total, create(f"ibp({shared})").loss(net, batch, ctx).total, net)
    clean = create(f"crown_ibp({shared},kappa_end=1.0)").loss(net, batch, ctx).total
    assert_same(clean, create("ce").loss(net, batch, ctx).total, net)
