"""The perturbations that adversarial training methods share."""

import pytest
import torch

from marginbench.methods import Norm
from marginbench.methods.maths.perturb import backtracking, norms, pgd, project, random_norm_start, random_start


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturbations_stay_in_ball_and_box(norm: str) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(50, 1, 4, 4, generator=g, dtype=torch.float64)
    epsilon = torch.linspace(0, 2, 50, dtype=torch.float64)
    order = torch.inf if norm == "linf" else 2
    start = random_start(x, epsilon, norm, g)  # type: ignore[arg-type]
    goal = torch.randn(x.shape, generator=g, dtype=torch.float64)
    delta = pgd(
        lambda a: (goal * a).flatten(1).sum(1), x, start, epsilon=epsilon, step=epsilon / 4, steps=10, norm=norm
    )  # type: ignore[arg-type]
    for d in (start, delta, project(3 * goal, epsilon, norm)):  # type: ignore[arg-type]
        assert bool((torch.linalg.vector_norm(d.flatten(1), order, dim=1) <= epsilon + 1e-12).all())
    assert bool(((x + delta >= 0) & (x + delta <= 1)).all()) and not delta.requires_grad
    assert bool(((goal * delta).flatten(1).sum(1)[1:] > 0).all())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_norm_starts_have_norms_that_are_uniform(norm: Norm) -> None:
    """Uniform in the ball, norms would be next to the radius: 0.9 of them beyond 0.9 of it here."""
    x, epsilon = torch.zeros(4000, 1, 8, 8, dtype=torch.float64), torch.full((4000,), 0.3, dtype=torch.float64)
    starts = random_norm_start(x, epsilon, norm, torch.Generator().manual_seed(0))
    shares = norms(starts, norm) / 0.3
    levels = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    torch.testing.assert_close(shares.quantile(levels), levels, rtol=0, atol=0.03)
    torch.testing.assert_close(starts.mean((0, 1)), torch.zeros(8, 8, dtype=torch.float64), rtol=0, atol=0.01)
    crowded = norms(random_start(x, epsilon, norm, torch.Generator().manual_seed(0)), norm) / 0.3
    assert crowded.quantile(0.1) > 0.9


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_decayed_steps_are_short_at_first(norm: Norm) -> None:
    """On a linear objective every unit step is the same u: k steps go step sum_j (1 - 0.9^j) along it."""
    goal = torch.full((1, 1, 2, 2), 2.0, dtype=torch.float64)
    x, epsilon = torch.full_like(goal, 0.5), torch.ones(1, dtype=torch.float64)
    for steps in (1, 2, 6):
        delta = backtracking(
            lambda a: (goal * a).flatten(1).sum(1), x, 0 * x, epsilon=epsilon, step=0.05 * epsilon, steps=steps,
            norm=norm, decayed=True,
        )  # fmt: skip
        wanted = 0.05 * sum(1 - 0.9**j for j in range(1, steps))
        assert norms(delta, norm).item() == pytest.approx(wanted, abs=1e-12)
