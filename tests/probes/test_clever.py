"""CLEVER where the answer is known: linear networks, and samples whose distribution has a known end."""

import numpy as np
import pytest
import torch

from marginbench.benchmarks.evaluation.canaries import Canary, linear, masked
from marginbench.benchmarks.probes.clever import Clever, max_of
from marginbench.benchmarks.probes.probe import Subject
from marginbench.methods import NORMS, Norm

RADIUS: dict[Norm, float] = {"linf": 0.2, "l2": 0.4}


def scores(canary: Canary, points: int = 12) -> dict[str, torch.Tensor]:
    probe = Clever(radius=RADIUS, points=points, batches=12, samples=8, rivals=3)
    return probe.measure(Subject(canary.net.requires_grad_(False), *[canary.data.test] * 3, RADIUS, seed=0))


def test_on_a_linear_network_it_is_the_margin() -> None:
    canary = linear()
    found = scores(canary)
    for norm in NORMS:
        index = canary.data.test.sample(12)
        exact, score = canary.exact[norm][index], found[f"clever_{norm}"][index].double()
        known = exact.isfinite()
        assert int(known.sum()) > 5
        torch.testing.assert_close(score[known], exact[known], rtol=1e-4, atol=1e-6)
        assert bool((score <= RADIUS[norm]).all())
        assert int(found[f"clever_{norm}"].isfinite().sum()) == 12, "the others are not measured"


def test_hidden_gradients_make_it_large() -> None:
    """Why it is an estimate and no bound: gradients of 0 leave nothing but the radius."""
    found = scores(masked())
    for norm in NORMS:
        right = found[f"clever_{norm}"] > 0
        assert bool(right.any()) and bool((found[f"clever_{norm}"][right] == torch.tensor(RADIUS[norm])).all())


def test_a_wrong_image_scores_zero() -> None:
    canary = linear()
    canary.data.test.y.add_(1).remainder_(4)
    found = scores(canary, points=4)["clever_l2"]
    assert found[canary.data.test.sample(4)].tolist() == [0.0] * 4 and int(found.isfinite().sum()) == 4


def test_the_end_of_a_known_distribution() -> None:
    draws = 5 - np.random.default_rng(0).weibull(3.0, size=500)
    assert max_of(draws) == pytest.approx(5, abs=0.1) and draws.max() <= max_of(draws)


def test_the_end_of_a_thin_tail_is_not_at_infinity() -> None:
    """Maxima of normal numbers have no end; the likelihood alone puts a quarter of these at a million."""
    ends = []
    for seed in range(40):
        maxima = np.random.default_rng(seed).normal(1, 0.1, size=(20, 128)).max(1)
        ends.append(max_of(maxima) / maxima.max())
    assert min(ends) >= 1 and max(ends) < 2


def test_maxima_that_do_not_differ_or_are_infinite_are_their_own_end() -> None:
    assert max_of(np.full(10, 2.0)) == 2.0
    assert max_of(np.array([1.0, np.inf])) == np.inf
