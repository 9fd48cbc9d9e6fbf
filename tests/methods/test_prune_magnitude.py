"""Magnitude pruning against its reference, step by step, and its masks."""

import copy

import pytest
import torch
from support import EXACT, a_context, reference, stage
from torch import Tensor

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.training.loop import train
from marginbench.methods import Batch, Context, MarginbenchError, Method, Net, create
from marginbench.methods.maths.masks import magnitude_mask, masked_weights


def run(method: Method, net: Net, batch: Batch, ctx: Context, steps: int = 10) -> None:
    optimiser = torch.optim.SGD(method.param_groups(net), lr=0.01)
    for _ in range(steps):
        method.update(net, batch, ctx, optimiser)
        with torch.no_grad():
            method.after_step(net, ctx)
        ctx.step += 1


def zeros(net: Net) -> list[Tensor]:
    return [weight == 0 for weight, _ in masked_weights(net)]


@pytest.mark.parametrize(
    ("spec", "prunings"),
    [
        ("prune_magnitude(sparsity=0.7,dense=0.5,rounds=1)", {5: 0.7}),
        ("prune_magnitude(sparsity=0.75,dense=0.2,rounds=2)", {2: 0.5, 6: 0.75}),
        ("prune_magnitude(sparsity=0.875,dense=0.4,rounds=3)", {4: 0.5, 6: 0.75, 8: 0.875}),
    ],
)
def test_training_matches_its_reference(spec: str, prunings: dict[int, float]) -> None:
    method, net, batch, _ = stage(spec, name="cnn")
    slow = copy.deepcopy(net)
    run(method, net, batch, a_context())
    parameters = list(slow.parameters())
    reference("prune_magnitude").descend(
        parameters, lambda: reference("ce").loss(slow, batch.x, batch.y), 10 * [0.01], 0.0, prunings
    )
    for found, wanted in zip(net.parameters(), parameters, strict=True):
        torch.testing.assert_close(found, wanted, **EXACT)


def test_zeros_are_as_many_as_asked_for_and_stay() -> None:
    method, net, batch, ctx = stage("prune_magnitude(sparsity=0.6,dense=0.3,rounds=1)", name="cnn")
    run(method, net, batch, ctx, steps=2)
    assert not any(zero.any() for zero in zeros(net))
    run(method, net, batch, ctx, steps=1)
    pruned = zeros(net)
    assert [int(zero.sum()) for zero in pruned] == [round(0.6 * zero.numel()) for zero in pruned]
    run(method, net, batch, ctx, steps=6)
    assert all(torch.equal(a, b) for a, b in zip(pruned, zeros(net), strict=True))
    assert all(bool(p.all()) for p in net.parameters() if p.dim() == 1)


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.99])
def test_masks_match_their_reference(sparsity: float) -> None:
    weight = torch.randn(7, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = magnitude_mask(weight, sparsity)
    assert torch.equal(mask, reference("prune_magnitude").mask(weight, sparsity))
    assert int((mask == 0).sum()) == round(sparsity * weight.numel())
    assert int((magnitude_mask(torch.zeros(10), sparsity) == 0).sum()) == round(10 * sparsity)  # ties


def test_no_sparsity_is_cross_entropy_training() -> None:
    nets = [
        train(create(spec), small_suite(epochs=3), small_data(), 0).net
        for spec in ("ce", "prune_magnitude(sparsity=0.0)")
    ]
    for found, wanted in zip(nets[1].parameters(), nets[0].parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_run_ends_with_the_sparsity_asked_for() -> None:
    net = train(create("prune_magnitude(sparsity=0.8,rounds=5)"), small_suite(epochs=5), small_data(), 0).net
    for weight, mask in masked_weights(net):
        assert int((mask == 0).sum()) == round(0.8 * weight.numel()) and not weight[mask == 0].any()


@pytest.mark.parametrize("fields", ["sparsity=1.0", "sparsity=-0.1", "dense=0.0", "dense=1.0", "rounds=0"])
def test_bad_fields_are_refused(fields: str) -> None:
    with pytest.raises(MarginbenchError, match="prune_magnitude"):
        create(f"prune_magnitude({fields})")
