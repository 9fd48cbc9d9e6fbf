"""The triplet term against its reference, its invariances, and batches without triplets."""

import pytest
import torch
from support import EXACT, assert_same, gradients, reference, stage
from torch import Tensor

from marginbench.methods import Batch, MarginbenchError, Method, create
from marginbench.methods.maths.angles import unit_rows


def term(method: Method, features: Tensor, y: Tensor) -> Tensor:
    embedding = unit_rows(features)
    return method._triplet(2 - 2 * embedding @ embedding.T, y)


def some_features(count: int = 12) -> Tensor:
    return torch.randn(count, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("alpha", [0.2, 2.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_triplet_matches_its_reference(seed: int, alpha: float) -> None:
    method, net, batch, ctx = stage(f"triplet(alpha={alpha},weight=0.7)", seed=seed)
    with torch.no_grad():  # the ReLU leaves some features at zero, which have no direction
        net.body[-2].bias.add_(2)
    wanted = reference("triplet").loss(net, batch.x, batch.y, alpha=alpha, weight=0.7)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_term_matches_its_reference_on_random_features(classes: int) -> None:
    features, y = some_features().requires_grad_(), torch.arange(12) % classes
    found = term(create("triplet"), features, y)
    wanted = reference("triplet").triplet(features, y, 0.2)
    torch.testing.assert_close(found, wanted, **EXACT)
    slopes = (torch.autograd.grad(value, features)[0] for value in (found, wanted))
    torch.testing.assert_close(*slopes, **EXACT)


def test_identical_embeddings_cost_alpha() -> None:
    features, y = torch.ones(6, 5, dtype=torch.float64), torch.arange(6) % 3
    torch.testing.assert_close(term(create("triplet(alpha=0.3)"), features, y).item(), 0.3)


def test_distant_classes_cost_nothing() -> None:
    y = torch.arange(8) % 4
    assert term(create("triplet(alpha=1.9)"), torch.eye(4)[y], y).item() == 0
    assert term(create("triplet(alpha=2.1)"), torch.eye(4)[y], y).item() == pytest.approx(0.1, abs=1e-6)


def test_semi_hard_negatives_are_preferred() -> None:
    angles = torch.tensor([0.0, 0.6, 0.3, 0.7, 3.0], dtype=torch.float64)
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    y = torch.tensor([0, 0, 1, 2, 3])  # for the pair (0, 1) the third is nearer, the fourth just beyond
    distance = 2 - 2 * features @ features.T
    # for the pair (1, 0) the others are nearer but for the last, which is easy
    wanted = (distance[0, 1] - distance[0, 3] + 0.2) / 2
    torch.testing.assert_close(term(create("triplet"), features, y), wanted, **EXACT)


def test_rotation_and_length_of_the_features_do_not_matter() -> None:
    features, y, method = some_features(), torch.arange(12) % 3, create("triplet")
    before = term(method, features, y)
    assert before > 0
    rotation = torch.linalg.qr(some_features(5)).Q
    lengths = torch.linspace(0.1, 9, 12, dtype=torch.float64)[:, None]
    torch.testing.assert_close(term(method, features @ rotation, y), before, **EXACT)
    torch.testing.assert_close(term(method, lengths * features, y), before, **EXACT)


@pytest.mark.parametrize("labels", ["one class", "all different"])
def test_a_batch_without_triplets_is_cross_entropy(labels: str) -> None:
    method, net, batch, ctx = stage("triplet")
    count = 4
    y = torch.zeros(count, dtype=torch.long) if labels == "one class" else torch.arange(count)
    batch = Batch(batch.x[:count], y, batch.index[:count])
    assert_same(method.loss(net, batch, ctx).total, create("ce").loss(net, batch, ctx).total, net)


def test_zero_features_give_finite_gradients() -> None:
    method, net, batch, ctx = stage("triplet")
    with torch.no_grad():
        net.body[-2].bias.fill_(-1e3)  # no unit is active
    loss = method.loss(net, batch, ctx).total
    assert bool(loss.isfinite()) and all(bool(g.isfinite().all()) for g in gradients(loss, net))


@pytest.mark.parametrize("spec", ["triplet(alpha=-1)", "triplet(weight=-1)"])
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="triplet"):
        create(spec)
