"""Weight decay against its references for both optimisers, and which parameters decay."""

import copy

import pytest
import torch
from support import EXACT, assert_same, reference, stage

from marginbench.methods import MarginbenchError, create


def test_decoupled_decay_is_algorithm_2() -> None:
    method, net, batch, ctx = stage("ce_wd(decay=0.7)", name="cnn")
    slow = copy.deepcopy(net)
    optimiser = torch.optim.AdamW(method.param_groups(net), lr=0.01, fused=True)
    for _ in range(5):
        method.update(net, batch, ctx, optimiser)
    parameters = list(slow.parameters())
    decays = [0.7 if p.dim() > 1 else 0.0 for p in parameters]
    reference("ce_wd").adamw(parameters, decays, lambda: reference("ce").loss(slow, batch.x, batch.y), 0.01, 5)
    for found, wanted in zip(net.parameters(), parameters, strict=True):
        torch.testing.assert_close(found, wanted, **EXACT)


def test_sgd_descends_on_the_penalised_loss() -> None:
    method, net, batch, ctx = stage("ce_wd(decay=0.7)")
    before = [p.detach().clone() for p in net.parameters()]
    weights = [p for p in net.parameters() if p.dim() > 1]
    objective = reference("ce").loss(net, batch.x, batch.y) + 0.7 * reference("ce_wd").penalty(weights)
    gradients = torch.autograd.grad(objective, list(net.parameters()))
    method.update(net, batch, ctx, torch.optim.SGD(method.param_groups(net), lr=0.1))
    for p, old, gradient in zip(net.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.1 * gradient, **EXACT)


def test_every_parameter_is_in_one_group_and_biases_do_not_decay() -> None:
    method, net, _, _ = stage("ce_wd", name="cnn")
    decays = {id(p): group["weight_decay"] for group in method.param_groups(net) for p in group["params"]}
    assert len(decays) == len(list(net.parameters())) == sum(len(g["params"]) for g in method.param_groups(net))
    assert all(decays[id(p)] == (0.0 if name.endswith("bias") else 1.0) for name, p in net.named_parameters())
    net.head.weight.requires_grad_(False)
    assert all(p is not net.head.weight for group in method.param_groups(net) for p in group["params"])


def test_the_loss_is_cross_entropy_at_any_decay() -> None:
    method, net, batch, ctx = stage("ce_wd(decay=5)")
    assert_same(method.loss(net, batch, ctx).total, reference("ce").loss(net, batch.x, batch.y), net)


def test_negative_decay_is_refused() -> None:
    with pytest.raises(MarginbenchError, match="ce_wd"):
        create("ce_wd(decay=-1)")
