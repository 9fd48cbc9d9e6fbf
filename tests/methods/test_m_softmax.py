"""Soft-margin softmax and its ensemble against the reference, the ensemble's head, and HSIC."""

import pytest
import torch
from support import EXACT, TASK, a_batch, a_context, a_net, assert_same, reference
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods import Batch, MarginbenchError, Net, create
from marginbench.methods.output_margin.m_softmax import AverageHead, _centred_gram, _hsic


def built(spec: str) -> tuple[Net, Batch]:
    """The network of a spec with weights that do not depend on the tests before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = a_net(create(spec))
    return net, a_batch(net)


def members(net: Net) -> list[nn.Linear]:
    return list(net.head.members) if isinstance(net.head, AverageHead) else [net.head]


@pytest.mark.parametrize("classifiers", [1, 2, 3])
@pytest.mark.parametrize("m", [0.0, 2.0])
def test_m_softmax_matches_its_reference(m: float, classifiers: int) -> None:
    spec = f"m_softmax(m={m},classifiers={classifiers},diversity=0.7)"
    net, batch = built(spec)
    wanted = reference("m_softmax").loss(net, members(net), batch.x, batch.y, m=m, diversity=0.7)
    assert_same(create(spec).loss(net, batch, a_context()).total, wanted, net)


def test_one_classifier_is_softplus_of_the_soft_margin() -> None:
    net, batch = built("m_softmax(m=2)")
    z = net(batch.x)
    rivals = z.scatter(1, batch.y[:, None], -torch.inf).logsumexp(1)
    wanted = F.softplus(rivals - z.gather(1, batch.y[:, None]).squeeze(1) + 2).mean()
    assert_same(create("m_softmax(m=2)").loss(net, batch, a_context()).total, wanted, net)


def test_the_ensemble_gives_the_mean_of_its_classifiers() -> None:
    net, batch = built("m_softmax(classifiers=3)")
    features = net.features(batch.x)
    wanted = torch.stack([features @ member.weight.T + member.bias for member in members(net)]).mean(0)
    torch.testing.assert_close(net(batch.x), wanted, **EXACT)
    state = torch.get_rng_state()
    decision = net.decision_net()
    assert torch.equal(torch.get_rng_state(), state) and isinstance(decision[-1], nn.Linear)
    torch.testing.assert_close(decision(batch.x), wanted, **EXACT)


def test_order_of_the_classifiers_does_not_matter() -> None:
    spec = "m_softmax(classifiers=3,diversity=0.7)"
    net, batch = built(spec)
    before = create(spec).loss(net, batch, a_context()).total
    assert isinstance(net.head, AverageHead)
    net.head.members = nn.ModuleList(reversed(members(net)))
    assert_same(create(spec).loss(net, batch, a_context()).total, before, net)


def test_the_first_classifier_is_the_head_replaced() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plain, ensemble = a_net(create("ce")), a_net(create("em_softmax"))
    first, second = members(ensemble)
    assert torch.equal(first.weight, plain.head.weight) and not torch.equal(first.weight, second.weight)


def hsic(a: Tensor, b: Tensor) -> Tensor:
    return _hsic(_centred_gram(a), _centred_gram(b))


def test_hsic_is_the_trace_and_vanishes_for_equal_rows() -> None:
    stream = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 7, dtype=torch.float64, generator=stream) for _ in range(2))
    torch.testing.assert_close(hsic(a, b), reference("m_softmax").hsic(a, b), **EXACT)
    torch.testing.assert_close(hsic(a, b), hsic(b, a), **EXACT)
    assert hsic(a, a) > 0 and hsic(a, b) >= 0
    constant = torch.ones(5, 1, dtype=torch.float64) * a[:1]
    torch.testing.assert_close(hsic(constant, b), torch.zeros((), dtype=torch.float64), **EXACT)


def test_an_ensemble_replaces_linear_heads_only() -> None:
    net = a_net(create("ce"))
    net.head = nn.Identity()
    with pytest.raises(MarginbenchError, match="linear head"):
        create("em_softmax").build(net, TASK)


@pytest.mark.parametrize("spec", ["m_softmax(m=-1)", "m_softmax(classifiers=0)", "em_softmax(diversity=-1)"])
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="m_softmax"):
        create(spec)
