"""SV-Softmax and MV-Softmax against their reference, and the losses that they contain."""

import pytest
import torch
from support import assert_same, gradients, reference, stage
from torch import nn

from marginbench.methods import Batch, MarginbenchError, create


@pytest.mark.parametrize("emphasis", ["adaptive", "fixed"])
@pytest.mark.parametrize("easy", ["true", "false"])
@pytest.mark.parametrize(("form", "m"), [("sv", 0.0), ("am", 0.35), ("arc", 0.5), ("arc", 1.4)])
def test_sv_softmax_matches_its_reference(form: str, m: float, easy: str, emphasis: str) -> None:
    method, net, batch, ctx = stage(f"sv_softmax(s=8.0,form={form},m={m},easy_margin={easy},emphasis={emphasis})")
    options = {"form": form, "m": m, "easy_margin": easy == "true", "emphasis": emphasis}
    wanted = reference("sv_softmax").loss(net, batch.x, batch.y, s=8, t=1.2, **options)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


@pytest.mark.parametrize("emphasis", ["adaptive", "fixed"])
@pytest.mark.parametrize(("form", "base"), [("am", "am_softmax(s=32.0)"), ("arc", "arcface(s=32.0)")])
def test_sv_softmax_without_emphasis_is_its_base_loss(form: str, base: str, emphasis: str) -> None:
    method, net, batch, ctx = stage(f"sv_softmax(form={form},t=1.0,emphasis={emphasis})")
    assert_same(method.loss(net, batch, ctx).total, create(base).loss(net, batch, ctx).total, net)


@pytest.mark.parametrize(("spec", "base"), [("mv_am", "am_softmax(s=32.0)"), ("mv_arc", "arcface(s=32.0)")])
def test_sv_softmax_leaves_beaten_rivals_alone(spec: str, base: str) -> None:
    method, net, _, ctx = stage(spec)
    net.body, net.normalise = nn.Sequential(), nn.Identity()
    with torch.no_grad():
        net.head.weight.copy_(torch.eye(4, 6, dtype=torch.float64))
    y = torch.arange(4)
    batch = Batch(3 * torch.eye(4, 6, dtype=torch.float64) + 0.5, y, y)
    assert_same(method.loss(net, batch, ctx).total, create(base).loss(net, batch, ctx).total, net)


def test_sv_softmax_rises_with_the_emphasis() -> None:
    losses = []
    for t in (1.0, 1.1, 1.2, 1.5):
        method, net, batch, ctx = stage(f"mv_am(t={t})")
        losses.append(method.loss(net, batch, ctx).total)
    assert bool((torch.stack(losses).diff() > 0).all())


@pytest.mark.parametrize("spec", ["sv_softmax", "mv_am", "mv_arc"])
def test_sv_softmax_survives_parallel_and_zero_features(spec: str) -> None:
    method, net, _, ctx = stage(spec)
    net = net.float()
    weight = net.head.weight[:3].detach()
    net.body, net.normalise = nn.Sequential(), nn.Identity()
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    loss = method.loss(net, Batch(torch.cat([weight, -weight, torch.zeros(1, 6)]), y, y), ctx).total
    assert bool(loss.isfinite()) and all(bool(g.isfinite().all()) for g in gradients(loss, net))


@pytest.mark.parametrize("spec", ["sv_softmax(t=0.9)", "sv_softmax(form=cos)", "mv_am(m=-0.1)"])
def test_sv_softmax_refuses_bad_fields(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="sv_softmax"):
        create(spec)
