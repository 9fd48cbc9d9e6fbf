"""PGD adversarial training against its reference, and where the worst perturbation is known."""

import pytest
import torch
from support import EXACT, TASK, a_batch, a_context, a_net, assert_same, reference, stage
from torch.nn import functional as F

from marginbench.methods import Batch, MarginbenchError, Net, Task, create
from marginbench.methods.maths.perturb import random_start


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random", [True, False])
def test_pgd_at_matches_its_reference(norm: str, random: bool) -> None:
    method, net, batch, ctx = stage(f"pgd_at(norm={norm},random_start={random})")
    epsilon = TASK.epsilon[norm]  # type: ignore[index]
    starts = torch.zeros_like(batch.x)
    if random:
        radii = torch.full((12,), epsilon, dtype=torch.float64)
        starts = random_start(batch.x, radii, norm, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    settings = {"norm": norm, "epsilon": epsilon, "steps": 10, "step_scale": 2.5}
    wanted = reference("pgd_at").loss(net, batch.x, batch.y, starts, **settings)
    found = method.loss(net, batch, ctx).total
    assert_same(found, wanted, net)
    assert found > F.cross_entropy(net(batch.x), batch.y)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_at_finds_the_worst_point_of_a_linear_network(norm: str) -> None:
    task = Task(TASK.input_shape, (12, 12), TASK.epsilon)
    method = create(f"pgd_at(norm={norm},epsilon=0.1,steps=40,step_scale=40)")
    net = a_net(method, "linear", task=task)
    x = 0.4 + 0.2 * a_batch(net).x  # far from the box
    y = torch.arange(12) % 2
    with torch.no_grad():
        w = (net.head.weight[1] - net.head.weight[0]) / net.normalise.std.item()
        gap = (net(x)[:, 1] - net(x)[:, 0]) * (2 * y - 1)
        worst = gap - 0.1 * (w.abs().sum() if norm == "linf" else w.norm())
    found = method.loss(net, Batch(x, y, torch.arange(12)), a_context()).total
    torch.testing.assert_close(found, F.softplus(-worst).mean(), rtol=1e-6, atol=1e-9)


def test_pgd_at_stays_in_ball_and_box_and_attacks_in_eval_mode() -> None:
    method, net, batch, ctx = stage("pgd_at")
    net.train()
    seen: list[tuple[torch.Tensor, bool]] = []
    net.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0].detach(), module.training)))
    method.loss(net, batch, ctx)
    assert [training for _, training in seen] == 10 * [False] + [True] and isinstance(net, Net)
    for x, _ in seen:
        assert bool(((x - batch.x).abs() <= 0.1 + 1e-12).all()) and bool(((x >= 0) & (x <= 1)).all())


def test_pgd_at_draws_only_where_it_starts_at_random() -> None:
    method, net, batch, ctx = stage("pgd_at(random_start=false)")
    state = ctx.generator.get_state()
    first = method.loss(net, batch, ctx).total
    assert torch.equal(ctx.generator.get_state(), state)
    torch.testing.assert_close(method.loss(net, batch, a_context(seed=5)).total, first, **EXACT)


@pytest.mark.parametrize("spec", ["pgd_at(epsilon=-0.1)", "pgd_at(steps=0)", "pgd_at(norm=l1)", "pgd_at(step_scale=0)"])
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="pgd_at"):
        create(spec)
