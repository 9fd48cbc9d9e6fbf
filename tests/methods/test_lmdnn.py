"""The penalties of Sun et al. against their reference, and their values where they are known."""

import pytest
import torch
from support import EXACT, assert_same, reference, stage
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods import Batch, MarginbenchError, Net, create


@pytest.mark.parametrize("form", ["C1", "C2"])
def test_lmdnn_matches_its_reference(form: str) -> None:
    method, net, batch, ctx = stage(f"lmdnn(form={form},weight=0.7)")
    wanted = reference("lmdnn").loss(net, batch.x, batch.y, form=form, weight=0.7)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def on_logits(form: str, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the penalty in it."""
    _, _, _, ctx = stage("lmdnn")
    net = Net(nn.Identity(), nn.Sequential(), nn.Identity())
    loss = create(f"lmdnn(form={form},weight=2)").loss(net, Batch(logits, y, y), ctx)
    return loss.total, loss.parts["penalty"]


@pytest.mark.parametrize("form", ["C1", "C2"])
def test_lmdnn_at_certain_and_uniform_probabilities(form: str) -> None:
    y = torch.arange(4)
    certain = 1e3 * F.one_hot(y, 4).double()
    assert on_logits(form, certain, y)[0].item() == 0
    torch.testing.assert_close(on_logits(form, torch.zeros(4, 4), y)[1].item(), 1.0)
    assert on_logits(form, certain.roll(1, 0), y)[1].item() == pytest.approx(4 if form == "C1" else 2)  # all wrong


def test_lmdnn_forms_agree_for_two_classes_only() -> None:
    stream = torch.Generator().manual_seed(0)
    for classes in (2, 4):
        logits = torch.randn(10, classes, dtype=torch.float64, generator=stream)
        y = torch.arange(10) % classes
        first, second = (on_logits(form, logits, y)[0] for form in ("C1", "C2"))
        if classes == 2:
            torch.testing.assert_close(first, second, **EXACT)
        else:
            assert first > second  # the runner-up is the nearest rival


@pytest.mark.parametrize("spec", ["lmdnn(form=C3)", "lmdnn(weight=-1)"])
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="lmdnn"):
        create(spec)
