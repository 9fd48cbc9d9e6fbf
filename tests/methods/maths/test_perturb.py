"""The perturbations that adversarial training methods share."""

import pytest
import torch

from marginbench.methods.maths.perturb import pgd, project, random_start


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
