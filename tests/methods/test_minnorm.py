"""Minnorm training against its reference, and against a support vector machine with a known answer."""

import pytest
import torch
from support import TASK, assert_same, reference, stage
from torch import nn

from marginbench.methods import Batch, Context, MarginbenchError, Net, create


def test_minnorm_matches_its_reference_over_steps() -> None:
    method, net, batch, ctx = stage("minnorm(rate=0.5,decay=0.3,limit=2)")
    ctx.tables["multiplier"] = torch.zeros(TASK.num_train, dtype=torch.float64)
    multipliers = [0.0] * 12
    for _ in range(3):
        matrices = [p for p in net.parameters() if p.dim() > 1]
        wanted, multipliers = reference("minnorm").step(net(batch.x), batch.y, matrices, multipliers, 0.5, 0.3, 2.0)
        found = method.loss(net, batch, ctx).total
        assert_same(found, wanted, net)
        assert ctx.tables["multiplier"][:12].tolist() == pytest.approx(multipliers)
    assert 0.0 in multipliers and 2.0 in multipliers and not ctx.tables["multiplier"][12:].any()


def test_linear_model_becomes_the_hard_margin_machine() -> None:
    """Four points, two of them support vectors at (+-1, 0) of a plane: the machine's direction is the first axis."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 3.0], [-2.5, 1.0]], dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 1])
    net = Net(nn.Identity(), nn.Sequential(nn.Flatten()), nn.Linear(2, 2, bias=False).double())
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[0.1, 0.4], [0.2, -0.3]]))
    method = create("minnorm(rate=0.05,decay=1)")
    ctx = Context(TASK, steps=10, epochs=1, generator=torch.Generator().manual_seed(0))
    batch = Batch(x.view(4, 2, 1, 1), y, torch.arange(4))
    for _ in range(1200):
        (gradient,) = torch.autograd.grad(method.loss(net, batch, ctx).total, net.head.weight)
        with torch.no_grad():
            net.head.weight -= 0.2 * gradient
    plane = (net.head.weight[0] - net.head.weight[1]).detach()
    torch.testing.assert_close(plane, torch.tensor([1.0, 0.0], dtype=torch.float64), rtol=0, atol=5e-3)
    multipliers = ctx.tables["multiplier"][:4]
    assert bool((multipliers >= 0).all())
    assert bool((multipliers[:2] > 0.1).all()) and bool((multipliers[2:] == 0).all())


@pytest.mark.parametrize("fields", ["rate=0", "decay=-1", "limit=0"])
def test_bad_fields_are_refused(fields: str) -> None:
    with pytest.raises(MarginbenchError, match="minnorm"):
        create(f"minnorm({fields})")
