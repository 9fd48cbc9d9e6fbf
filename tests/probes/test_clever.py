"""CLEVER where the answer is known: linear networks, samples whose distribution has a known end, a slow reference."""

from functools import cache

import numpy as np
import pytest
import torch
from mutants import mutated
from scipy import optimize, stats
from torch import nn

from marginbench.benchmarks.data.dataset import Split
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


SIDE, HIDDEN, CLASSES, IMAGES = 4, 8, 4, 4
RIVALS, BATCHES, SAMPLES = 2, 20, 128
SIZES: dict[Norm, float] = {"linf": 0.3, "l2": 1.2}


def curved() -> tuple[nn.Sequential, Split]:
    """A softplus network whose gradients change within a ball, and images with their classes, some near the walls."""
    draw = torch.Generator().manual_seed(4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, CLASSES))
    net.eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
    x = torch.randint(256, (IMAGES, 1, SIDE, SIDE), generator=draw, dtype=torch.uint8)
    return net, Split(x, net(x / 255).argmax(1), 255)


def end_of(maxima: np.ndarray) -> float:
    """Of a reverse Weibull distribution of the shape c and the width s, by the likelihood less 0.01 c^2."""

    def loss(theta: np.ndarray) -> float:
        c, end, s = theta
        if c <= 0 or s <= 0 or end <= maxima.max():
            return float("inf")
        z = (end - maxima) / s
        return float(-(np.log(c / s) + (c - 1) * np.log(z) - z**c).sum() + 0.01 * c**2)

    spread = float(maxima.std())
    best = optimize.minimize(
        loss,
        [2.0, maxima.max() + spread, 2 * spread],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-9, "maxiter": 10_000, "maxfev": 10_000},
    )
    c, end, s = best.x
    assert best.success and stats.kstest(maxima, lambda m: np.exp(-((np.maximum(end - m, 0) / s) ** c))).pvalue > 0.05
    return float(end)


@cache
def one_at_a_time() -> dict[Norm, list[float]]:
    """The scores of the curved network: one image, one rival, one sampled point after the other, with its gradients
    written out. It draws the numbers that the product draws."""
    net, test = curved()
    (w, b), (v, c) = ([p.double().numpy() for p in net[i].parameters()] for i in (1, 3))
    draw = torch.Generator().manual_seed(0)
    shape, pixels = (SAMPLES, 1, SIDE, SIDE), SIDE**2
    out: dict[Norm, list[float]] = {}
    for norm in NORMS:
        radius, out[norm] = SIZES[norm], []
        for i in range(IMAGES):
            x = test.images(slice(i, i + 1)).double().numpy().ravel()
            z = v @ np.log1p(np.exp(w @ x + b)) + c
            y, *rivals = np.argsort(-z)[: RIVALS + 1]
            maxima = np.zeros((RIVALS, BATCHES))
            for batch in range(BATCHES):
                if norm == "linf":
                    noise = radius * (2 * torch.rand(shape, generator=draw).double().numpy() - 1)
                else:
                    noise = torch.randn(shape, generator=draw).double().numpy()
                    part = torch.rand(SAMPLES, generator=draw).double().numpy()
                for s in range(SAMPLES):
                    step = noise[s].ravel()
                    if norm == "l2":
                        step = step / np.sqrt((step**2).sum()) * radius * part[s] ** (1 / pixels)
                    active = 1 / (1 + np.exp(-(w @ np.clip(x + step, 0, 1) + b)))
                    for r, j in enumerate(rivals):
                        slope = ((v[y] - v[j]) * active) @ w
                        size = np.abs(slope).sum() if norm == "linf" else np.sqrt((slope**2).sum())
                        maxima[r, batch] = max(maxima[r, batch], size)
            out[norm].append(min((z[y] - z[j]) / end_of(maxima[r]) for r, j in enumerate(rivals)))
    return out


def right(norm: Norm) -> bool:
    """Are the scores of the product those of the slow reference?"""
    net, test = curved()
    probe = Clever(radius=SIZES, points=IMAGES, batches=BATCHES, samples=SAMPLES, rivals=RIVALS)
    found = probe.measure(Subject(net, test, test, test, SIZES, seed=0))[f"clever_{norm}"]
    return np.allclose(found.numpy(), one_at_a_time()[norm], rtol=5e-3, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_curved_network_it_is_that_of_a_slow_reference(norm: Norm) -> None:
    assert min(one_at_a_time()[norm]) > 0 and max(one_at_a_time()[norm]) < SIZES[norm], "the radius cuts none short"
    assert right(norm)


MUTANTS = {  # what stands in the place of an expression
    "the mean gradient of a batch": ("dim=1).max()", "dim=1).mean()"),
    "balls of a fifth of the radius": ("(self.samples,), radius)", "(self.samples,), 0.2 * radius)"),
    "the largest maximum instead of a fit": ("max_of(row) for row", "float(row.max()) for row"),
    "8 of the samples": ("len(points))", "8)"),
    "balls that leave the box": (".clamp(0, 1)", ""),
}


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_fault_gives_other_scores(norm: Norm, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clever, "_score", mutated(Clever._score, *MUTANTS[name]))
    assert not right(norm)
