"""Large Margin Deep Networks against the reference, and on networks whose distances are known."""

from typing import Any

import pytest
import torch
from support import EXACT, a_batch, a_context, a_net, assert_same, reference, stage

from marginbench.methods import MarginbenchError, create

DEFAULTS: dict[str, Any] = {
    "on": "logits", "layers": "all", "norm": "l2", "norm_gradient": "detached", "gamma": 1.0, "clip": None,
    "top_k": 1, "aggregation": "max", "weight": 1.0, "ce_weight": 0.0, "linf_gradient": "sum",
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"norm_gradient": "full"},
        {"on": "probabilities", "norm_gradient": "full", "gamma": 10000.0, "clip": 4.0},
        {"layers": "input", "norm": "linf", "gamma": 0.2, "norm_gradient": "full", "ce_weight": 0.5},
        {"norm": "linf", "linf_gradient": "mean", "gamma": 50.0, "clip": 2.0, "top_k": 2},
        {"linf_gradient": "mean"},
        {"layers": "hidden", "top_k": 3, "aggregation": "sum", "weight": 2.0},
        {"top_k": 2, "clip": 1.5, "gamma": 0.3},
    ],
)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_elsayed_matches_its_reference(changed: dict[str, Any], name: str) -> None:
    fields = {**DEFAULTS, **changed}
    spec = ",".join(f"{field}={value}" for field, value in fields.items())
    method, net, batch, ctx = stage(f"elsayed({spec})", name=name)
    full = fields.pop("norm_gradient") == "full"
    wanted = reference("elsayed").loss(net, batch.x, batch.y, full=full, **fields)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_default_gamma_is_twice_epsilon() -> None:
    method, net, batch, ctx = stage("elsayed(norm=linf)")
    wanted = create("elsayed(norm=linf,gamma=0.2)").loss(net, batch, ctx).total
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_mean_gradient_weights_layers_by_their_size() -> None:
    """One layer of n elements: n times the loss of the sum, with n times the default gamma."""
    method, net, batch, ctx = stage("elsayed(norm=linf,layers=input)")
    mean = create("elsayed(norm=linf,layers=input,linf_gradient=mean)").loss(net, batch, ctx).total
    # 1e-6 is in the denominator
    assert_same(mean, 16 * method.loss(net, batch, ctx).total, net, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_distance_of_a_linear_network_is_exact(norm: str) -> None:
    method = create(f"elsayed(norm={norm},top_k=all,gamma=1000)")
    net = a_net(method, "linear")
    batch = a_batch(net)
    z, rows = net(batch.x), (net.head.weight / net.normalise.std.item()).detach()
    order = 1 if norm == "linf" else 2
    exact = torch.stack(
        [
            min((z[i, y] - z[i, j]) / torch.linalg.vector_norm(rows[y] - rows[j], order) for j in range(4) if j != y)
            for i, y in enumerate(batch.y.tolist())
        ]
    )
    assert bool((exact < 0).any()) and bool((exact > 0).any())
    loss = method.loss(net, batch, a_context()).total
    torch.testing.assert_close(1000 - loss, exact.mean(), rtol=1e-5, atol=1e-9)  # 1e-6 is in the denominator
    probabilities = create(f"elsayed(norm={norm},top_k=all,gamma=1000,on=probabilities)")
    assert abs(1000 - probabilities.loss(net, batch, a_context()).total - exact.mean()) > 0.01


@pytest.mark.parametrize("mode", ["full", "detached"])
def test_scale_of_the_logits(mode: str) -> None:
    """d does not change with the scale a of the logits; d d/d a is 0, or d itself with the norm held fixed."""
    method, net, batch, ctx = stage(f"elsayed(norm_gradient={mode},layers=input,gamma=1000)")
    loss = method.loss(net, batch, ctx).total
    head = list(net.head.parameters())
    slope = sum(
        ((g * p).sum() for g, p in zip(torch.autograd.grad(loss, head), head, strict=True)),
        start=torch.zeros(()),
    )
    distance = 1000 - loss.detach()
    assert abs(distance) > 0.01
    wanted = torch.zeros_like(distance) if mode == "full" else -distance
    torch.testing.assert_close(slope, wanted, rtol=1e-9, atol=1e-5)
    with torch.no_grad():
        for parameter in head:
            parameter.mul_(7)
    torch.testing.assert_close(method.loss(net, batch, ctx).total, loss, rtol=0, atol=1e-5)


def test_official_form_differs_by_gamma() -> None:
    method, net, batch, ctx = stage("elsayed(layers=input,gamma=0.1,clip=2)")
    settings = {"layers": "input", "norm": "l2", "on": "logits", "top_k": 1, "full": False}
    pairs = zip(batch.x, batch.y.tolist(), strict=True)
    rows = [reference("elsayed").distances(net, image, label, **settings)[0][0] for image, label in pairs]
    d = torch.stack(rows).detach()
    official = (0.1 - d.clamp_min(-0.1)).relu() - 0.1
    assert bool((official == 0.1).any()) and bool((official == -0.1).any())
    torch.testing.assert_close(method.loss(net, batch, ctx).total, official.mean() + 0.1, **EXACT)


def test_leaves_no_hooks() -> None:
    method, net, batch, ctx = stage("elsayed")
    method.loss(net, batch, ctx)
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert all(p.grad is None for p in net.parameters()) and not batch.x.requires_grad


def test_hidden_distances_need_a_hidden_layer() -> None:
    with pytest.raises(MarginbenchError, match="hidden"):
        a_net(create("elsayed(layers=hidden)"), "linear")


@pytest.mark.parametrize("spec", ["elsayed(gamma=-1)", "elsayed(top_k=0)", "elsayed(layers=last)", "elsayed(clip=0)"])
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="elsayed"):
        create(spec)
