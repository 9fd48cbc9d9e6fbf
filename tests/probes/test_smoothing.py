"""The smoothed classifier: closed forms, the confidence of the bound, streams of noise, and mutants of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.probes import smoothing
from marginbench.benchmarks.probes.smoothing import Smoothing, lower_bound, radius_ceiling, smoothing_arrays

SIGMA = 0.25
PIXELS = 16


def run(net: nn.Module, test: Split, seed: int = 0, **options: Any) -> tuple[Tensor, Tensor]:
    settings: dict[str, Any] = {"sigma": SIGMA, "n0": 50, "n": 2000, "alpha": 1e-4} | options
    found = smoothing_arrays(net, test, seed, **settings)
    return found["smoothed_prediction"], found["smoothed_radius"]


def a_split(count: int, seed: int = 0) -> Split:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (count, 1, 4, 4), generator=g, dtype=torch.uint8)
    return Split(x, torch.zeros(count, dtype=torch.int64), 255)


class Plane(nn.Module):
    """Two classes on either side of a plane through the grey image: class 0 where w.(x - 0.5) > shift."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.w = torch.randn(PIXELS, generator=torch.Generator().manual_seed(3))
        self.w /= self.w.norm()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        z = (x.flatten(1) - 0.5) @ self.w - self.shift
        return torch.stack([z, -z], 1)


class Constant(nn.Module):
    """The same logits [K] for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


class Spy(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        logits: Tensor = self.net(x)
        return logits


def test_on_a_linear_network_the_radius_is_the_distance_to_the_plane() -> None:
    """P(f = c) = Phi(d / sigma), so that sigma Phi^-1 of it is the distance d of the plane."""
    test = a_split(60)
    z = Plane()(test.images(slice(None)))
    n, alpha, distance = 2000, 1e-4, z[:, 0].abs().double()
    prediction, radius = run(Plane(), test, n0=200, n=n, alpha=alpha)
    sure = distance > 0.5 * SIGMA
    assert int(sure.sum()) > 20 and bool((distance < SIGMA).any())
    assert torch.equal(prediction[sure], z.argmax(1)[sure])
    assert bool((radius <= distance).all())
    p = stats.norm.cdf(distance / SIGMA)
    count = stats.binom.ppf(1e-4, n, p)  # fewer votes are as rare
    worst = SIGMA * stats.norm.ppf(np.maximum(stats.beta.ppf(alpha, count, n - count + 1), 0.5))
    assert bool((radius >= torch.from_numpy(worst)).all())


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    for n, alpha in ((1, 0.05), (20, 0.001), (1000, 0.001)):
        count = np.unique(np.linspace(0, n, 21).astype(int))
        bound = lower_bound(count, n, alpha)
        for k, p in zip(count, bound, strict=True):
            exact = stats.binomtest(int(k), n, alternative="greater").proportion_ci(1 - alpha, method="exact").low
            assert p == pytest.approx(exact, rel=1e-6)
            if k > 0:
                assert stats.binom.sf(k - 1, n, p) == pytest.approx(alpha, rel=1e-6)


def test_a_network_that_ignores_its_input_reaches_the_ceiling() -> None:
    for n, factor in ((1000, 2.46), (10_000, 3.20)):
        prediction, radius = run(Constant(0.0, 2.0, 1.0), a_split(2), n=n, alpha=0.001)
        ceiling = radius_ceiling(SIGMA, n, 0.001)
        assert prediction.tolist() == [1, 1]
        assert radius.tolist() == pytest.approx([ceiling, ceiling], rel=1e-9)
        assert ceiling / SIGMA == pytest.approx(factor, abs=0.005)
    assert radius_ceiling(SIGMA, 100_000, 0.001) / SIGMA == pytest.approx(3.81, abs=0.005)
    assert radius_ceiling(SIGMA, 9, 0.001) == 0  # nine votes of nine are not enough
    assert run(Constant(0.0, 1.0), a_split(2), n=9, alpha=0.001)[0].tolist() == [-1, -1]


def test_no_radius_exceeds_the_ceiling() -> None:
    far = Plane(shift=-3.0)
    for n in (10, 500):
        _, radius = run(far, a_split(20), n=n, alpha=0.01)
        assert float(radius.max()) <= radius_ceiling(SIGMA, n, 0.01) + 1e-12
        assert float(radius.min()) > 0.9 * radius_ceiling(SIGMA, n, 0.01)


def test_it_abstains_where_the_vote_is_open() -> None:
    grey = Split(torch.full((50, 1, 4, 4), 1, dtype=torch.uint8), torch.zeros(50, dtype=torch.int64), 2)
    prediction, radius = run(Plane(), grey)
    assert set(prediction.tolist()) == {smoothing.ABSTAIN}
    assert not radius.any()


def test_logits_that_decide_nothing_vote_for_nothing() -> None:
    for logits in ((torch.nan, 0.0, 1.0), (torch.inf, torch.inf, 1.0)):
        prediction, radius = run(Constant(*logits), a_split(3))
        assert prediction.tolist() == [-1, -1, -1]
        assert not radius.any()


def test_a_masked_class_takes_no_votes() -> None:
    few, many = Constant(0.0, 1.0), Constant(0.0, 1.0, -torch.inf)
    for found, wanted in zip(run(many, a_split(3)), run(few, a_split(3)), strict=True):
        assert torch.equal(found, wanted) and found.all()


@pytest.mark.parametrize("p", [0.5, 0.8])
def test_the_radius_is_too_large_in_alpha_of_the_cases(p: float) -> None:
    """A thousand images with the same known probability; at p = 1/2 no radius is right."""
    count, alpha, n = 1000, 0.2, 60
    grey = Split(torch.full((count, 1, 4, 4), 1, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64), 2)
    distance = SIGMA * float(stats.norm.ppf(p))
    prediction, radius = run(Plane(shift=-distance), grey, n0=n, n=n, alpha=alpha)
    wrong = ((radius > distance) | (prediction == 1)).sum().item()
    votes = np.arange(n + 1)
    rate = float(stats.binom.pmf(votes, n, p)[lower_bound(votes, n, alpha) > p].sum())
    assert 0.5 * alpha < rate <= alpha
    assert abs(wrong - rate * count) < 4 * (rate * count) ** 0.5


def test_the_bound_covers_every_probability() -> None:
    """P(bound > p) <= alpha, summed over all outcomes."""
    for n, alpha in ((15, 0.1), (200, 0.01)):
        votes = np.arange(n + 1)
        bound = lower_bound(votes, n, alpha)
        for p in np.linspace(0.01, 0.99, 50):
            assert stats.binom.pmf(votes, n, p)[bound > p].sum() <= alpha + 1e-12


@pytest.mark.parametrize("share", [1, 3])
def test_neither_the_batch_nor_the_other_images_change_a_result(share: int) -> None:
    torch.manual_seed(0)
    mean = torch.full((1,), 0.5)
    net = make_net("mlp", 16, (1, 4, 4), 3, mean, mean).double().requires_grad_(False).eval()

    class Doubled(nn.Module):  # no rounding that depends on the size of the batch
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = net(x.double())
            return logits

    test, n = a_split(7), smoothing.BLOCK * 2 + 30
    head = Split(test.x[:4], test.y[:4], 255)
    prediction, radius = run(Doubled(), test, n=n, share=share)
    assert len(set(prediction.tolist())) > 1 and len(set(radius.tolist())) > 3
    for rows in (1, 3 * smoothing.BLOCK, 100 * smoothing.BLOCK):
        again = run(Doubled(), test, n=n, share=share, rows=rows)
        assert torch.equal(again[0], prediction) and torch.equal(again[1], radius)
    others = Split(torch.cat([a_split(3, seed=1).x, test.x[3:]]), test.y, 255)
    for rows in (1, 5 * smoothing.BLOCK):
        assert torch.equal(run(Doubled(), others, n=n, share=share, rows=rows)[1][3:], radius[3:])
        assert torch.equal(run(Doubled(), head, n=n, share=share, rows=rows)[1], radius[:4])
    assert not torch.equal(run(Doubled(), test, seed=1, n=n, share=share)[1], radius)


def test_the_noise_is_gaussian_unclipped_and_never_used_twice() -> None:
    test, spy, n0, n = a_split(3), Spy(Plane()), 70, smoothing.BLOCK + 90
    run(spy, test, n0=n0, n=n, rows=3 * smoothing.BLOCK)
    first, *rest = (seen.unflatten(0, (3, -1)) for seen in spy.seen[1:])  # the first: is there memory?
    assert first.shape[1] == n0 and sum(seen.shape[1] for seen in rest) == n
    noise = torch.cat([first, *rest], 1) - test.images(slice(None))[:, None]
    flat = (noise / SIGMA).flatten()
    assert stats.kstest(flat.numpy().astype(float), "norm").pvalue > 0.01
    assert float(noise.abs().max()) > 3 * SIGMA
    copies = noise.flatten(0, 1).flatten(1).mul(1000).round()
    assert len(copies.unique(dim=0)) == len(copies)
    table = np.corrcoef(noise.flatten(2).transpose(0, 1).flatten(1).T.numpy())  # of pixels, over copies
    assert np.abs(table - np.eye(len(table))).max() < 5 / (n0 + n) ** 0.5


def test_images_that_share_noise_get_the_same() -> None:
    test, spy, n = a_split(5), Spy(Plane()), smoothing.BLOCK + 40
    run(spy, test, n=n, share=2, rows=3 * smoothing.BLOCK)
    images = test.images(slice(None))
    for first, second in (spy.seen[1:3], spy.seen[3:5], spy.seen[5:]):  # selection, then two blocks of estimation
        noise = torch.cat([first.unflatten(0, (3, -1)), second.unflatten(0, (2, -1))]) - images[:, None]
        for one, other in ((0, 1), (2, 3)):  # the second pair lies in two batches
            torch.testing.assert_close(noise[one], noise[other])
        for one, other in ((0, 2), (0, 4), (2, 4)):
            assert float((noise[one] - noise[other]).abs().mean()) > SIGMA


def test_metrics_by_hand() -> None:
    arrays = {
        "label": np.array([0, 0, 1, 1, 2]),
        "smoothed_prediction": np.array([0, 0, 0, -1, 2]),
        "smoothed_radius": np.array([0.5, 0.1, 0.9, 0.0, 0.3]),
    }
    probe = Smoothing(sigma=0.25, n=1)
    assert probe.metrics(arrays, {"l2": 0.3, "linf": 0.1}) == pytest.approx(
        {
            "smoothed_accuracy": 3 / 5,
            "smoothed_certified_accuracy_l2": 2 / 5,
            "smoothed_abstention": 1 / 5,
            "smoothed_radius_l2": 0.9 / 5,
        }
    )


@pytest.mark.parametrize("mutant", ["raw frequency", "samples reused", "noise without sigma", "radius without sigma"])
def test_a_broken_certificate_is_noticed(monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    votes, radius = smoothing._votes, smoothing._radius
    if mutant == "raw frequency":
        monkeypatch.setattr(smoothing, "lower_bound", lambda count, n, alpha: count / n)
    elif mutant == "samples reused":

        def reused(net: nn.Module, x: Tensor, noise: smoothing.Noise, *rest: Any) -> Tensor:
            for stream in noise.streams:
                stream.manual_seed(stream.initial_seed())
            return votes(net, x, noise, *rest)

        monkeypatch.setattr(smoothing, "_votes", reused)
    elif mutant == "noise without sigma":
        monkeypatch.setattr(
            smoothing, "_votes", lambda net, x, noise, *rest: votes(net, x, replace(noise, sigma=1.0), *rest)
        )
    else:
        monkeypatch.setattr(smoothing, "_radius", lambda lower, sigma: radius(lower, 1.0))
    with pytest.raises(AssertionError):
        if mutant == "samples reused":
            test_the_radius_is_too_large_in_alpha_of_the_cases(0.5)
        else:
            test_on_a_linear_network_the_radius_is_the_distance_to_the_plane()
