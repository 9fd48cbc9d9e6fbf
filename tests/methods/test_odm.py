"""The optimal margin distribution loss against its reference, and its band."""

import pytest
import torch
from support import EXACT, TASK, a_net, assert_same, reference, stage
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods import Batch, MarginbenchError, Net, create


@pytest.mark.parametrize(("theta", "mu"), [(0.0, 1.0), (0.2, 0.5), (0.8, 0.0)])
def test_odm_matches_its_reference(theta: float, mu: float) -> None:
    method, net, batch, ctx = stage(f"odm(theta={theta},mu={mu},weight_penalty=0.1)")
    wanted = reference("odm").loss(net, batch.x, batch.y, theta=theta, mu=mu, weight_penalty=0.1)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def of_margins(spec: str, margins: Tensor) -> Tensor:
    """The loss of examples of class 0 whose other logits are zero, by a head that is the identity."""
    head = nn.Linear(4, 4, bias=False, dtype=margins.dtype)
    head.weight = nn.Parameter(torch.eye(4, dtype=margins.dtype))
    method, _, _, ctx = stage(spec)
    y = torch.zeros(len(margins), dtype=torch.long)
    logits = margins[:, None] * F.one_hot(y, 4)
    return method.loss(Net(nn.Identity(), nn.Sequential(), head), Batch(logits, y, y), ctx).total


def test_margins_in_the_band_cost_nothing() -> None:
    spec = "odm(theta=0.2,mu=0.5,weight_penalty=0)"
    inside = torch.tensor([0.8, 0.9, 1.0, 1.2], dtype=torch.float64, requires_grad=True)
    loss = of_margins(spec, inside)
    (slope,) = torch.autograd.grad(loss, inside)
    torch.testing.assert_close(loss.item(), 0.0)
    torch.testing.assert_close(slope, torch.zeros_like(slope), **EXACT)
    for margin, wanted in ((0.0, 1.0), (0.4, 0.16 / 0.64), (2.0, 0.5 * 0.64 / 0.64), (-0.8, 1.6**2 / 0.64)):
        found = of_margins(spec, torch.full((3,), margin, dtype=torch.float64))
        torch.testing.assert_close(found.item(), wanted)


def test_without_upper_side_and_band_it_is_a_squared_hinge() -> None:
    method, net, batch, ctx = stage("odm(theta=0,mu=0,weight_penalty=0)")
    z, label = net(batch.x), batch.y[:, None]
    rival = z.scatter(1, label, -torch.inf).amax(1)
    wanted = F.relu(1 - z.gather(1, label).squeeze(1) + rival).square().mean()
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_odm_names_a_head_it_cannot_use() -> None:
    net = a_net(create("ce"))
    net.head = nn.Sequential(net.head)
    with pytest.raises(MarginbenchError, match="odm needs a head"):
        create("odm").build(net, TASK)


@pytest.mark.parametrize("spec", ["odm(theta=1)", "odm(mu=-1)", "odm(weight_penalty=-1)"])
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="odm"):
        create(spec)
