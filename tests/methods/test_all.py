"""Identities that hold for every method, in float64 and under bf16."""

import pytest
import torch
from support import a_batch, a_context, a_net, assert_same, gradients, reference, stage

from marginbench.methods import (
    Batch,
    Loss,
    MarginbenchError,
    create,
    get,
    names,
    rows,
)


@pytest.mark.parametrize("key", [key for key in names() if not isinstance(get(key).info.neutral, str)])
def test_neutral_setting_is_cross_entropy(key: str) -> None:
    neutral = create(key).info.neutral
    assert not isinstance(neutral, str)
    method = type(create(key))(**neutral)
    net = a_net(method)
    batch = a_batch(net)
    assert_same(method.loss(net, batch, a_context(epoch=3)).total, reference("ce").loss(net, batch.x, batch.y), net)


@pytest.mark.parametrize("key", rows())
def test_bf16_gradient_reaches_every_weight(key: str) -> None:
    method = create(key)
    net = a_net(method).float()
    double = a_batch(a_net(method))
    batch = Batch(double.x.to(torch.float32), double.y, double.index)
    torch.manual_seed(0)  # dropout
    exact = method.loss(net, batch, a_context(epoch=1)).total
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.loss(net, batch, a_context(epoch=1)).total
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact, rtol=0.1, atol=0.05)
        assert all(bool(g.isfinite().all()) and bool(g.any()) for g in gradients(loss, net))
        with torch.no_grad():
            method.after_step(net, a_context())
    assert all(bool(tensor.isfinite().all()) for tensor in net.state_dict().values())


@pytest.mark.parametrize(
    "spec",
    [
        "arcface(m=-1)",
        "arcface(s=0)",
        "pmm(alpha_end=-1)",
        "pmm(form=sum)",
        "jacobian_reg(projections=0)",
        "jacobian_reg(projections=all)",
        "jacobian_reg(weight=-1)",
        "mma(d_max=-0.1)",
        "mma(norm=l1)",
        "mma(clean_weight=2)",
        "mma(steps=0)",
        "lmt(c=-1)",
        "lmt(variant=plusplus)",
        "ce(alpha=1)",
    ],
)
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match=spec.partition("(")[0]):
        create(spec)


def test_loss_parts_are_scalars() -> None:
    for key in rows():
        method, net, batch, ctx = stage(key)
        loss = method.loss(net, batch, ctx)
        assert isinstance(loss, Loss) and all(part.ndim == 0 and not part.requires_grad for part in loss.parts.values())
