"""Cross-Lipschitz regularisation against its reference, exact and projected."""

import pytest
import torch
from support import EXACT, a_batch, a_context, a_net, assert_same, reference, stage
from torch import Tensor, nn

from marginbench.methods import MarginbenchError, create


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_cross_lipschitz_matches_its_reference(name: str) -> None:
    method, net, batch, ctx = stage("cross_lipschitz(weight=0.3)", name=name)
    wanted = reference("ce").loss(net, batch.x, batch.y) + 0.3 * reference("cross_lipschitz").penalty(net, batch.x)
    state = ctx.generator.get_state()
    assert_same(method.loss(net, batch, ctx).total, wanted, net)
    assert torch.equal(ctx.generator.get_state(), state) and not batch.x.requires_grad


def test_projected_cross_lipschitz_is_unbiased() -> None:
    method, net, batch, ctx = stage("cross_lipschitz(projections=3000)")
    wanted = reference("cross_lipschitz").penalty(net, batch.x)
    assert method.loss(net, batch, ctx).parts["penalty"].item() == pytest.approx(wanted.item(), rel=0.01)


def test_linear_network_is_pairwise_weight_decay() -> None:
    method = create("cross_lipschitz")
    net = a_net(method, "linear")
    batch = a_batch(net)
    weight = net.head.weight / net.normalise.std.item()
    wanted = 2 / 16 * (4 * weight.square().sum() - weight.sum(0).square().sum())
    torch.testing.assert_close(method.loss(net, batch, a_context()).parts["penalty"], wanted.detach(), **EXACT)


class _Shifted(nn.Module):
    """A head that adds one function of the features to all logits."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.head(features) + features.square().sum(1, keepdim=True)
        return out


@pytest.mark.parametrize("projections", ["exact", "2"])
def test_a_function_added_to_all_logits_changes_nothing(projections: str) -> None:
    method, net, batch, ctx = stage(f"cross_lipschitz(projections={projections})")
    before = method.loss(net, batch, ctx).parts["penalty"]
    net.head = _Shifted(net.head)
    torch.testing.assert_close(method.loss(net, batch, a_context()).parts["penalty"], before, **EXACT)


@pytest.mark.parametrize("fields", ["weight=-1", "projections=0", "projections=all"])
def test_bad_fields_are_refused(fields: str) -> None:
    with pytest.raises(MarginbenchError, match="cross_lipschitz"):
        create(f"cross_lipschitz({fields})")
