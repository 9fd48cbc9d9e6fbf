"""The three hinge losses against their reference, and against each other."""

import pytest
import torch
from support import EXACT, TASK, a_net, assert_same, reference, stage
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods import Batch, MarginbenchError, Net, create

FORMS = ("one_vs_rest", "crammer_singer", "weston_watkins")


@pytest.mark.parametrize("form", FORMS)
def test_svm_matches_its_reference(form: str) -> None:
    method, net, batch, ctx = stage(f"svm(form={form},weight_penalty=0.1)")
    wanted = reference("svm").loss(net, batch.x, batch.y, form=form, weight_penalty=0.1)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def hinge(form: str, net: Net, batch: Batch) -> Tensor:
    method, _, _, ctx = stage(f"svm(form={form},weight_penalty=0)")
    return method.loss(net, batch, ctx).total


def on_logits(form: str, logits: Tensor, y: Tensor) -> Tensor:
    return create(f"svm(form={form})")._hinge(logits, y[:, None])


def test_weston_watkins_is_torch_times_the_classes() -> None:
    _, net, batch, _ = stage("svm")
    wanted = 4 * F.multi_margin_loss(net(batch.x), batch.y)
    assert_same(hinge("weston_watkins", net, batch), wanted, net)


def test_crammer_singer_is_at_most_weston_watkins() -> None:
    _, net, batch, _ = stage("svm")
    assert hinge("crammer_singer", net, batch) < hinge("weston_watkins", net, batch)
    binary = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(9) % 2
    torch.testing.assert_close(on_logits("crammer_singer", binary, y), on_logits("weston_watkins", binary, y), **EXACT)


def test_one_vs_rest_is_a_sum_of_binary_machines() -> None:
    _, net, batch, _ = stage("svm")
    logits, total = net(batch.x), torch.zeros((), dtype=torch.float64)
    for k in range(4):
        sign = 2.0 * (batch.y == k) - 1
        total = total + F.relu(1 - sign * logits[:, k]).square().mean()
    assert_same(hinge("one_vs_rest", net, batch), total, net)


@pytest.mark.parametrize(("form", "wanted"), [("one_vs_rest", 4.0), ("crammer_singer", 1.0), ("weston_watkins", 3.0)])
def test_loss_of_zero_logits(form: str, wanted: float) -> None:
    assert on_logits(form, torch.zeros(5, 4), torch.arange(5) % 4).item() == wanted


@pytest.mark.parametrize("form", FORMS)
def test_nothing_to_learn_beyond_the_margin(form: str) -> None:
    y = torch.arange(8) % 4
    far = (2.0 * F.one_hot(y, 4) - 1).requires_grad_()
    loss = on_logits(form, far, y)
    loss.backward()
    assert loss.item() == 0 and far.grad is not None and not far.grad.any()
    near = far.detach() - 1.1 * F.one_hot(y, 4)  # margins of 0.9
    assert on_logits(form, near, y).item() > 0


def test_the_penalty_is_on_the_weight_alone() -> None:
    _, net, batch, ctx = stage("svm")
    term = create("svm(weight_penalty=1)").loss(net, batch, ctx).total - hinge("one_vs_rest", net, batch)
    torch.testing.assert_close(term, net.head.weight.square().sum(), **EXACT)
    (slope,) = torch.autograd.grad(term, net.head.bias)
    torch.testing.assert_close(slope, torch.zeros(4, dtype=torch.float64), **EXACT)


def test_presets_are_the_other_forms() -> None:
    assert create("svm_cs") == create("svm(form=crammer_singer)")
    assert create("svm_ww") == create("svm(form=weston_watkins)")


def test_svm_names_a_head_it_cannot_use() -> None:
    net = a_net(create("ce"))
    net.head = nn.Sequential(net.head)
    with pytest.raises(MarginbenchError, match="svm needs a head"):
        create("svm").build(net, TASK)


@pytest.mark.parametrize("spec", ["svm(form=binary)", "svm(weight_penalty=-1)"])
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="svm"):
        create(spec)
