"""CURE against its reference, its schedule, and losses of known curvature."""

import pytest
import torch
from support import EXACT, TASK, a_batch, a_context, a_net, assert_same, reference, stage
from torch import Tensor, nn

from marginbench.methods import Batch, Context, MarginbenchError, create


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("form", ["square", "norm"])
def test_cure_matches_its_reference(name: str, form: str) -> None:
    method, net, batch, ctx = stage(f"cure(weight=0.3,h=0.7,rise=0.5,form={form})", epoch=4, name=name)
    penalty = reference("cure").penalty(net, batch.x, batch.y, 0.7, squared=form == "square")
    wanted = reference("ce").loss(net, batch.x, batch.y) + 0.3 * penalty
    assert penalty > 0
    assert_same(method.loss(net, batch, ctx).total, wanted, net)
    assert not batch.x.requires_grad


@pytest.mark.parametrize(("epoch", "h"), [(0, 0.0), (1, 0.2), (2, 0.4), (3, 0.5), (4, 0.5)])
def test_h_rises_to_the_suites_radius(epoch: int, h: float) -> None:
    method, net, batch, ctx = stage("cure(rise=0.5,pretrained=0)", epoch=epoch)
    wanted = reference("cure").penalty(net, batch.x, batch.y, h).detach()
    torch.testing.assert_close(method.loss(net, batch, ctx).parts["penalty"], wanted, **EXACT)


def test_pretraining_is_cross_entropy_and_delays_the_rise() -> None:
    method, net, batch, ctx = stage("cure(pretrained=0.6,rise=1,h=1)", epoch=2)
    assert_same(method.loss(net, batch, ctx).total, reference("ce").loss(net, batch.x, batch.y), net)
    wanted = reference("cure").penalty(net, batch.x, batch.y, 0.5).detach()  # half of the last 40 %
    torch.testing.assert_close(method.loss(net, batch, a_context(epoch=4)).parts["penalty"], wanted, **EXACT)


class _Quadratic(nn.Module):
    """Logits (q, 0) with q = x^T H x / 2, far enough below 0 that the loss of class 0 is -q."""

    def __init__(self, hessian: Tensor, offset: float) -> None:
        super().__init__()
        self.hessian = nn.Parameter(hessian)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        q = torch.einsum("bi,ij,bj->b", x, self.hessian, x) / 2 - self.offset
        return torch.stack([q, torch.zeros_like(q)], dim=1)


@pytest.mark.parametrize(("form", "power"), [("square", 2), ("norm", 1)])
def test_quadratic_loss_has_its_hessian(form: str, power: int) -> None:
    method = create(f"cure(h=0.3,form={form})")
    net = a_net(method, "linear")
    generator = torch.Generator().manual_seed(0)
    hessian = torch.randn(16, 16, dtype=torch.float64, generator=generator)
    hessian = hessian + hessian.T
    net.head = _Quadratic(hessian, 1e4)
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64, generator=generator)
    batch = Batch(x, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    std = net.normalise.std.item()
    features = (x.flatten(1) - net.normalise.mean.item()) / std
    z = (features @ hessian).sign() / 4
    wanted = (0.3 * z @ hessian / std**2).norm(dim=1).pow(power).mean()
    found = method.loss(net, batch, a_context(epoch=4)).parts["penalty"]
    torch.testing.assert_close(found, wanted)
    net.head = nn.Linear(16, 2).double()
    with torch.no_grad():
        net.head.weight[1] = net.head.weight[0]  # the loss is constant: no gradient, no direction
    loss = method.loss(net, batch, a_context(epoch=4))
    assert loss.parts["penalty"] < 1e-12
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss.total, list(net.parameters())))


def test_batch_norm_is_neither_used_nor_moved_by_the_penalty() -> None:
    method = create("cure(h=0.7)")
    net = a_net(method)
    norm = nn.BatchNorm1d(6, momentum=0.0).double()  # the clean pass, in train mode, must not move it either
    net.body.insert(2, norm)
    batch = a_batch(net)
    net.train()
    moments = [moment for moment in net.buffers() if moment.ndim == 1]
    ctx = Context(TASK, steps=10, epochs=5, generator=torch.Generator())
    ctx.step = 9
    before = [moment.clone() for moment in moments]
    found = method.loss(net, batch, ctx).parts["penalty"]
    assert net.training and norm.training
    assert all(torch.equal(a, b) for a, b in zip(before, moments, strict=True))
    torch.testing.assert_close(found, reference("cure").penalty(net.eval(), batch.x, batch.y, 0.7).detach(), **EXACT)


@pytest.mark.parametrize("fields", ["weight=-1", "h=-1", "rise=0", "pretrained=1", "form=cube"])
def test_bad_fields_are_refused(fields: str) -> None:
    with pytest.raises(MarginbenchError, match="cure"):
        create(f"cure({fields})")
