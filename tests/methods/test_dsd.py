"""Dense-sparse-dense training against its reference, step by step, and its phases."""

import copy

import pytest
import torch
from support import EXACT, reference, stage

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.training.loop import train
from marginbench.benchmarks.training.run import Run
from marginbench.methods import Batch, Context, MarginbenchError, Method, Net, create
from marginbench.methods.maths.masks import masked_weights


def run(method: Method, net: Net, batch: Batch, ctx: Context, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.01  # as the benchmark does
        method.update(net, batch, ctx, optimiser)
        with torch.no_grad():
            method.after_step(net, ctx)
        ctx.step += 1


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_matches_its_reference(momentum: float) -> None:
    method, net, batch, ctx = stage("dsd(sparsity=0.5,prune_at=0.3,restore_at=0.7)", name="cnn")
    slow = copy.deepcopy(net)
    run(method, net, batch, ctx, torch.optim.SGD(method.param_groups(net), lr=0.01, momentum=momentum), 10)
    rates, masks = reference("dsd").plan(10, 0.01, 3, 7, 0.1, 0.5)
    parameters = list(slow.parameters())
    reference("prune_magnitude").descend(
        parameters, lambda: reference("ce").loss(slow, batch.x, batch.y), rates, momentum, masks
    )
    for found, wanted in zip(net.parameters(), parameters, strict=True):
        torch.testing.assert_close(found, wanted, **EXACT)


def test_pruned_weights_are_zero_in_the_sparse_phase_only_and_restart_there() -> None:
    method, net, batch, ctx = stage("dsd(sparsity=0.5,prune_at=0.3,restore_at=0.7)")
    optimiser = torch.optim.AdamW(method.param_groups(net), lr=0.01, weight_decay=0.0, fused=True)
    shares = []
    for _ in range(9):
        run(method, net, batch, ctx, optimiser, 1)
        shares.append([float((weight == 0).double().mean()) for weight, _ in masked_weights(net)])
    assert all(share == 0 for step in shares[:2] for share in step)
    assert all(share == pytest.approx(0.5, abs=0.01) for step in shares[2:7] for share in step)
    assert all(share < 0.5 for share in shares[7])
    assert all(bool((mask == 1).all()) for _, mask in masked_weights(net))


def test_the_last_phase_takes_a_tenth_of_the_rate() -> None:
    training = Run(create("dsd"), small_suite(epochs=5), small_data(), 0)
    plain = Run(create("ce"), small_suite(epochs=5), small_data(), 0)
    factors = []
    for _ in range(training.ctx.steps):
        training.step()
        plain.step()
        factors.append(training.optimiser.param_groups[0]["lr"] / plain.optimiser.param_groups[0]["lr"])
    assert factors == pytest.approx(7 * [1.0] + 3 * [0.1])


def test_no_sparsity_at_the_full_rate_is_cross_entropy_training() -> None:
    specs = ("ce", "dsd(sparsity=0.0,final_rate=1.0)")
    nets = [train(create(spec), small_suite(epochs=3), small_data(), 0).net for spec in specs]
    for found, wanted in zip(nets[1].parameters(), nets[0].parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_phases_out_of_order_are_refused() -> None:
    with pytest.raises(MarginbenchError, match="prune_at"):
        stage("dsd(prune_at=0.7,restore_at=0.5)")


@pytest.mark.parametrize("fields", ["sparsity=1.0", "prune_at=0.0", "restore_at=1.5", "final_rate=0.0"])
def test_bad_fields_are_refused(fields: str) -> None:
    with pytest.raises(MarginbenchError, match="dsd"):
        create(f"dsd({fields})")
