"""LDAM against its reference, with and without deferred re-weighting, on balanced and imbalanced classes."""

from dataclasses import replace

import pytest
import torch
from support import EXACT, TASK, a_batch, a_context, a_net, assert_same, reference, stage
from torch import Tensor

from marginbench.methods import MarginbenchError, Method, Net, create, spec_of

COUNTS = (2, 4, 9, 60)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
@pytest.mark.parametrize("epoch", [0, 3, 4])
def test_ldam_matches_its_reference(beta: float, epoch: int) -> None:
    method, net = _imbalanced(f"ldam(s=8.0,beta={beta})")
    batch, ctx = a_batch(net), a_context(epoch)
    active = beta if epoch == 4 else 0.0  # 80 % of five epochs
    wanted = reference("ldam").loss(net, batch.x, batch.y, s=8, counts=COUNTS, max_m=0.5, beta=active)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_ldam_margins_fall_with_the_fourth_root_of_the_count() -> None:
    margins = _buffer("ldam(max_m=0.4)", "ldam_margins")
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    torch.testing.assert_close(margins.max().item(), 0.4, **EXACT)
    torch.testing.assert_close(margins * counts**0.25, (margins * counts**0.25)[0].expand(4), **EXACT)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_ldam_weights_sum_to_the_number_of_classes(beta: float) -> None:
    weights = _buffer(f"ldam(beta={beta})", "ldam_weights")
    torch.testing.assert_close(weights.sum().item(), 4.0, **EXACT)
    torch.testing.assert_close(weights.tolist(), reference("ldam").class_weights(COUNTS, beta), **EXACT)
    assert bool((weights.diff() < 0).all()) == (beta > 0)


@pytest.mark.parametrize("spec", ["ldam", "ldam_drw"])
def test_ldam_with_equal_counts_is_am_softmax(spec: str) -> None:
    method, net, batch, ctx = stage(spec, epoch=4)
    other = create("am_softmax(s=30.0,m=0.5)")
    assert_same(method.loss(net, batch, ctx).total, other.loss(net, batch, ctx).total, net)


def test_ldam_drw_is_a_preset() -> None:
    assert create("ldam_drw") == create("ldam(beta=0.9999)") and spec_of(create("ldam_drw")) == "ldam_drw"


def test_ldam_takes_a_class_without_examples() -> None:
    net = a_net(create("ldam_drw"), task=replace(TASK, class_counts=(0, 4, 9, 60)))
    assert all(bool(buffer.isfinite().all()) for buffer in net.buffers())


@pytest.mark.parametrize("spec", ["ldam(beta=1.0)", "ldam(max_m=-0.1)", "ldam(reweight_from=2.0)"])
def test_ldam_refuses_bad_fields(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="ldam"):
        create(spec)


def _imbalanced(spec: str) -> tuple[Method, Net]:
    method = create(spec)
    return method, a_net(method, task=replace(TASK, class_counts=COUNTS))


def _buffer(spec: str, name: str) -> Tensor:
    return _imbalanced(spec)[1].get_buffer(name)
