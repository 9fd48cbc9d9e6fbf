"""The least value of a linear function over a ball within the box."""

import torch
from certificate_support import images, least_by_bisection

from marginbench.benchmarks.certificates import _ball


def test_least_in_ball_and_box_is_a_tight_lower_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, 4, 30, generator=generator, dtype=torch.float64)
    x = images(6).flatten(1)[:, :30].double()
    epsilon = torch.linspace(0.05, 2, 6, dtype=torch.float64)
    low, high = -x[:, None], 1 - x[:, None]
    bound = _ball.least_in_ball_and_box(a, low, high, epsilon[:, None])
    exact = least_by_bisection(a, -x, 1 - x, epsilon)
    assert (bound <= exact + 1e-9).all()
    assert torch.allclose(bound[:2], exact[:2], rtol=0.05)
    assert (_ball.least_in_ball_and_box(0 * a, low, high, epsilon[:, None]) <= 0).all()
