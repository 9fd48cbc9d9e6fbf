"""Mixup against its reference, its limits, and the distribution of its share."""

import pytest
import torch
from scipy import stats
from support import EXACT, assert_same, reference, stage

from marginbench.methods import MarginbenchError, create
from marginbench.methods.augmentation.mixup import _symmetric_beta


def draws(alpha: float, count: int) -> tuple[float, list[int]]:
    """What the first call of `augment` draws after seed 0."""
    generator = torch.Generator().manual_seed(0)
    share = _symmetric_beta(alpha, generator).item()
    return share, torch.randperm(count, generator=generator).tolist()


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_matches_its_reference(alpha: float) -> None:
    method, net, batch, ctx = stage(f"mixup(alpha={alpha})", name="cnn")
    share, partners = draws(alpha, len(batch.y))
    assert 0.01 < share < 0.99 and partners != sorted(partners)
    mixed = method.augment(batch, ctx)
    assert_same(
        method.loss(net, mixed, ctx).total, reference("mixup").loss(net, batch.x, batch.y, share, partners), net
    )


def test_both_orders_of_the_pairs_give_one_loss() -> None:
    _, net, batch, _ = stage("mixup")
    share, partners = draws(1.0, len(batch.y))
    inverse = [partners.index(i) for i in range(len(partners))]
    one = reference("mixup").loss(net, batch.x, batch.y, share, partners)
    assert_same(one, reference("mixup").loss(net, batch.x, batch.y, 1 - share, inverse), net)


def test_targets_are_distributions_and_images_stay_in_the_box() -> None:
    method, _, batch, ctx = stage("mixup")
    mixed = method.augment(batch, ctx)
    assert mixed.target is not None and mixed.target.shape == (12, 4) and mixed.target.dtype == batch.x.dtype
    torch.testing.assert_close(mixed.target.sum(1), torch.ones(12, dtype=torch.float64), **EXACT)
    assert bool((mixed.target >= 0).all()) and bool((mixed.x >= 0).all()) and bool((mixed.x <= 1).all())
    assert torch.equal(mixed.y, batch.y) and torch.equal(mixed.index, batch.index)


def test_tiny_alpha_leaves_one_image_of_each_pair() -> None:
    method, net, batch, ctx = stage("mixup(alpha=0.0001)")
    mixed = method.augment(batch, ctx)
    found = method.loss(net, mixed, ctx).total
    torch.testing.assert_close(found, reference("ce").loss(net, batch.x, batch.y), **EXACT)


def test_alpha_zero_is_cross_entropy_and_draws_nothing() -> None:
    method, _, batch, ctx = stage("mixup(alpha=0.0)")
    state = ctx.generator.get_state()
    assert method.augment(batch, ctx) is batch and torch.equal(ctx.generator.get_state(), state)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 8.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    sample = [_symmetric_beta(alpha, generator).item() for _ in range(3000)]
    assert stats.kstest(sample, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert stats.kstest([1 - value for value in sample], sample).pvalue > 0.01


@pytest.mark.parametrize("alpha", [1e-300, 1e-6, 1e6, 1e300])
def test_shares_are_numbers_at_any_alpha(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    assert all(0 <= _symmetric_beta(alpha, generator).item() <= 1 for _ in range(100))


def test_negative_alpha_is_refused() -> None:
    with pytest.raises(MarginbenchError, match="mixup"):
        create("mixup(alpha=-1)")
