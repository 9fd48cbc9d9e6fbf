"""PMM against its reference, and the identities of its regulariser."""

import pytest
import torch
from support import EXACT, TASK, a_context, a_net, assert_same, gradients, reference, stage
from torch import Tensor, nn

from marginbench.methods import (
    Batch,
    MarginbenchError,
    Net,
    create,
)


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("risk", ["ce", "hinge"])
@pytest.mark.parametrize("epoch", [0, 3])
def test_pmm_matches_its_reference(form: str, risk: str, epoch: int) -> None:
    method, net, batch, ctx = stage(f"pmm(form={form},risk={risk},alpha_start=0.1,alpha_end=0.6)", epoch)
    alpha = 0.0 if form == "code" and epoch == 0 else 0.1 + epoch * 0.1
    wanted = reference("pmm").loss(net, batch.x, batch.y, risk=risk, form=form, alpha=alpha)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def pmm_regulariser(net: Net, batch: Batch, form: str = "paper") -> Tensor:
    ctx = a_context(epoch=1)
    with_term = create(f"pmm(form={form},alpha_start=1,alpha_end=1)").loss(net, batch, ctx).total
    return with_term - create("ce").loss(net, batch, ctx).total


def test_pmm_gradient_of_the_head_has_the_closed_form() -> None:
    _, net, batch, _ = stage("pmm")
    (found,) = torch.autograd.grad(pmm_regulariser(net, batch), net.head.weight)
    features, w = net.features(batch.x), net.head.weight
    radius2 = features.square().sum(1).max()
    wanted = torch.zeros_like(w)
    for z, y in zip(net(batch.x), batch.y.tolist(), strict=True):
        m = max((k for k in range(4) if k != y), key=lambda k: z[k].item())
        wanted[y] += 2 * radius2 * (w[y] - w[m]) / len(batch.y)
        wanted[m] -= 2 * radius2 * (w[y] - w[m]) / len(batch.y)
    torch.testing.assert_close(found, wanted, **EXACT)
    torch.testing.assert_close(found.sum(0), torch.zeros(found.shape[1], dtype=found.dtype), **EXACT)


def test_pmm_moves_only_the_feature_with_the_largest_norm() -> None:
    _, net, batch, _ = stage("pmm")
    features = net.features(batch.x).detach().requires_grad_()
    net.body = nn.Sequential(nn.Identity())
    net.normalise = nn.Identity()
    (found,) = torch.autograd.grad(pmm_regulariser(net, Batch(features, batch.y, batch.index)), features)
    largest = features.norm(dim=1).argmax()
    scale = pmm_regulariser(net, Batch(features, batch.y, batch.index)) / features[largest].square().sum()
    wanted = torch.zeros_like(features)
    wanted[largest] = 2 * scale.detach() * features[largest].detach()
    torch.testing.assert_close(found, wanted, **EXACT)


def test_pmm_invariances() -> None:
    _, net, batch, _ = stage("pmm")
    before, logits = pmm_regulariser(net, batch), net(batch.x)
    with torch.no_grad():
        net.head.weight.div_(3)
        net.body[-2].weight.mul_(3)  # the layer before the last ReLU: features times 3
        net.body[-2].bias.mul_(3)
    torch.testing.assert_close(net(batch.x), logits, **EXACT)
    torch.testing.assert_close(pmm_regulariser(net, batch), before, **EXACT)
    with torch.no_grad():
        net.head.weight.add_(torch.arange(6.0, dtype=torch.float64))  # one vector added to every row
    torch.testing.assert_close(pmm_regulariser(net, batch), before, **EXACT)


def test_pmm_code_form_is_at_most_the_paper_form() -> None:
    _, net, batch, _ = stage("pmm")
    assert pmm_regulariser(net, batch, "code") < pmm_regulariser(net, batch)
    with torch.no_grad():
        net.head.weight.copy_(torch.eye(4, 6))  # all pairs at the same distance
    torch.testing.assert_close(pmm_regulariser(net, batch, "code"), pmm_regulariser(net, batch), **EXACT)
    with torch.no_grad():
        net.head.weight.fill_(1.0)  # coinciding rows: no infinite gradient
    assert all(bool(g.isfinite().all()) for g in gradients(pmm_regulariser(net, batch, "code"), net))


def test_pmm_names_a_head_it_cannot_use() -> None:
    net = a_net(create("ce"))
    net.head = nn.Sequential(net.head)
    with pytest.raises(MarginbenchError, match="head"):
        create("pmm").build(net, TASK)
