"""Association of two numbers over networks: against scipy, slow loops, and data of which the answer is known."""

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy import stats

from marginbench.benchmarks.statistics.association import (
    across,
    chance_across,
    chance_linear,
    chance_within,
    held_out_errors,
    information,
    interval,
    kendall,
    r2,
    resampled,
    within,
)

METHODS, SEEDS = 30, 3
GROUPS = np.repeat(np.arange(METHODS), SEEDS)
BLOCKS = np.tile(np.arange(SEEDS), METHODS)
NONE = np.zeros_like(GROUPS)


def draw(seed: int, size: int = METHODS * SEEDS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size)


def test_tau_is_scipys_with_ties_and_with_repeated_networks() -> None:
    x, y = draw(0).round(1), (draw(0) + draw(1)).round(1)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    weights = resampled(len(x), draws=5)
    for found, w in zip(kendall(x, y, weights), weights, strict=True):
        chosen = np.repeat(np.arange(len(x)), w.astype(int))
        assert found == pytest.approx(stats.kendalltau(x[chosen], y[chosen]).statistic)
    assert math.isnan(kendall(x, np.ones_like(x)))
    assert kendall(np.array([1.0, np.inf, np.inf, 2.0]), np.array([1.0, 3.0, 3.0, 2.0])) == 1


def test_granulated_coefficients_are_means_of_taus() -> None:
    x, y = draw(2), draw(2) + draw(3)
    inside = [stats.kendalltau(x[g == GROUPS], y[g == GROUPS]).statistic for g in range(METHODS)]
    assert within(x, y, GROUPS) == pytest.approx(np.mean(inside))
    between = [stats.kendalltau(x[b == BLOCKS], y[b == BLOCKS]).statistic for b in range(SEEDS)]
    assert across(x, y, GROUPS, BLOCKS) == pytest.approx(np.mean(between))
    weights = resampled(METHODS, draws=4)
    assert within(x, y, GROUPS, weights) == pytest.approx((weights @ np.array(inside)) / METHODS)
    assert across(x, y, GROUPS, BLOCKS, np.ones((2, METHODS))) == pytest.approx([np.mean(between)] * 2)


def test_perfect_order_is_one() -> None:
    x = draw(4)
    y = np.exp(x)
    for tau in (kendall(x, y), within(x, y, GROUPS), across(x, y, GROUPS, BLOCKS)):
        assert tau == pytest.approx(1)
    assert information(x, y, [NONE, GROUPS, BLOCKS]) == pytest.approx(1)
    assert information(x, -y, [NONE, GROUPS, BLOCKS]) == pytest.approx(1), "the wrong way round tells as much"
    assert r2(*held_out_errors(x[:, None], 3 * x - 1, GROUPS)) == pytest.approx(1)


def test_independence_is_near_zero_and_its_intervals_hold_zero() -> None:
    x, y = draw(5), draw(6)
    weights = resampled(METHODS, draws=400)
    for low, high in (
        interval(kendall(x, y, weights[:, GROUPS]), METHODS),
        interval(within(x, y, GROUPS, weights), METHODS),
        interval(across(x, y, GROUPS, BLOCKS, weights), METHODS),
    ):
        assert low < 0 < high
    assert abs(float(kendall(x, y))) < 0.2
    assert information(x, y, [NONE, BLOCKS]) < 0.05
    assert r2(*held_out_errors(x[:, None], y, GROUPS)) < 0.05


def test_simpsons_paradox_is_seen() -> None:
    """Within every method more x is more y; across methods more x is less y."""
    of_method = draw(7, METHODS)[GROUPS] * 10
    inside = draw(8)
    x, y = of_method + inside, -of_method + inside
    assert within(x, y, GROUPS) == pytest.approx(1)
    assert across(x, y, GROUPS, BLOCKS) < -0.6 and kendall(x, y) < -0.6


def test_what_a_condition_explains_is_no_information() -> None:
    """x and y know of each other what the family says and nothing else."""
    family = np.repeat(np.arange(3), 30)
    x, y = 100.0 * family + draw(9), 100.0 * family + draw(10)
    assert information(x, y, [NONE]) > 0.3 and information(x, y, [NONE, family]) < 0.02


def test_information_is_that_of_a_slow_count() -> None:
    x, y = draw(11, 12).round(), (draw(11, 12) + draw(12, 12)).round(1)
    condition = np.arange(12) % 3
    cells: dict[tuple[int, int], Counter[tuple[float, float]]] = defaultdict(Counter)
    for i, j in itertools.permutations(range(12), 2):
        if y[i] != y[j]:
            cells[int(condition[i]), int(condition[j])][np.sign(x[i] - x[j]), np.sign(y[i] - y[j])] += 1
    mutual = entropy = 0.0
    for cell in cells.values():
        total = cell.total()
        px, py = Counter[float](), Counter[float]()
        for (a, b), k in cell.items():
            px[a] += k
            py[b] += k
        mutual += sum(k * math.log(k * total / (px[a] * py[b])) for (a, b), k in cell.items())
        entropy -= sum(k * math.log(k / total) for k in py.values())
    assert information(x, y, [condition]) == pytest.approx(mutual / entropy)
    doubled = information(np.tile(x, 2), np.tile(y, 2), [np.tile(condition, 2)])
    assert information(x, y, [condition], np.full((3, 12), 2.0)) == pytest.approx([float(doubled)] * 3)


def test_r2_is_that_of_one_fit_for_each_method_left_out() -> None:
    features = np.column_stack([draw(13), draw(14)])
    y = features @ np.array([1.0, -2.0]) + draw(15)
    errors = baseline = 0.0
    for g in range(METHODS):
        rest = g != GROUPS
        design = np.column_stack([np.ones(len(y)), features])
        fit = np.linalg.solve(design[rest].T @ design[rest], design[rest].T @ y[rest])
        errors += float(((y - design @ fit)[~rest] ** 2).sum())
        baseline += float(((y - y[rest].mean())[~rest] ** 2).sum())
    assert r2(*held_out_errors(features, y, GROUPS)) == pytest.approx(1 - errors / baseline)


def test_chance_is_the_share_of_orders_that_do_as_well() -> None:
    """By all permutations where there are few."""
    x, y = draw(20, 15), draw(20, 15) + draw(21, 15)
    groups, blocks = np.repeat(np.arange(5), 3), np.tile(np.arange(3), 5)
    seen = abs(float(across(x, y, groups, blocks)))
    dealt = [x.reshape(5, 3)[list(order)].reshape(-1) for order in itertools.permutations(range(5))]
    wanted = np.mean([abs(float(across(z, y, groups, blocks))) >= seen - 1e-9 for z in dealt])
    assert chance_across(x, y, groups, blocks, draws=4000) == pytest.approx(wanted, abs=0.03)
    two = np.repeat(np.arange(4), 2)
    rising = np.tile([0.0, 1.0], 4) + 10.0 * np.arange(8)
    assert chance_within(rising, rising, two, draws=4000) == pytest.approx(2 / 2**4, abs=0.02), "four of four agree"
    assert chance_within(draw(22), draw(23), GROUPS) > 0.05 and chance_across(draw(22), draw(23), GROUPS, BLOCKS) > 0.05
    assert chance_across(draw(22), draw(22), GROUPS, BLOCKS) == pytest.approx(1 / 1001)
    tied = np.ones(15)
    assert math.isnan(chance_within(x, tied, groups)) and math.isnan(chance_across(x, tied, groups, blocks))


def test_groups_of_one_cluster_are_dealt_out_together() -> None:
    """To clusters of as many groups: by all permutations. 0 and 1 are one, 2 and 3, 4 and 5, and 6 alone."""
    x, y = draw(20, 21), draw(20, 21) + draw(21, 21)
    groups, blocks, clusters = np.repeat(np.arange(7), 3), np.tile(np.arange(3), 7), np.array([0, 0, 1, 1, 2, 2, 3])
    seen = abs(float(across(x, y, groups, blocks)))
    pairs = x[:18].reshape(3, 2, 3)
    dealt = [np.concatenate([pairs[list(order)].reshape(-1), x[18:]]) for order in itertools.permutations(range(3))]
    wanted = np.mean([abs(float(across(z, y, groups, blocks))) >= seen - 1e-9 for z in dealt])
    assert chance_across(x, y, groups, blocks, clusters, draws=4000) == pytest.approx(wanted, abs=0.03)


def test_chance_of_a_linear_fit_is_the_share_of_orders_that_fit_as_well() -> None:
    many = np.column_stack([draw(24), draw(25)])
    assert chance_linear(many, many[:, 0] + 0.1 * draw(26), GROUPS) == pytest.approx(1 / 1001)
    independent = [chance_linear(many, draw(100 + i), GROUPS, draws=200) for i in range(200)]
    assert stats.kstest(independent, "uniform").pvalue > 0.01
    x, y, groups = draw(20, 15), draw(20, 15) + draw(21, 15), np.repeat(np.arange(5), 3)
    everything = np.random.default_rng(0).normal(size=(15, 6))
    assert chance_linear(everything, x, groups) == 1, "six coefficients fit five means always"
    means = x.reshape(5, 3).mean(1), y.reshape(5, 3).mean(1)
    fits = [abs(np.corrcoef(means[0], np.array(order))[0, 1]) for order in itertools.permutations(means[1])]
    share = np.mean(np.array(fits) >= abs(np.corrcoef(*means)[0, 1]) - 1e-9)
    assert chance_linear(x[:, None], y, groups, draws=4000) == pytest.approx(share, abs=0.03)


def test_what_cannot_be_said_is_nan() -> None:
    x = draw(16, 3)
    assert math.isnan(within(x, x, np.arange(3))), "one network of each method"
    assert math.isnan(information(x, np.ones(3), [np.zeros(3, dtype=np.int64)]))
    assert math.isnan(information(x, x, [np.arange(3)])), "the condition leaves nothing open"
    assert np.isnan(held_out_errors(x[:, None], x, np.arange(3))[0]).all(), "two networks for two coefficients"
    assert all(map(math.isnan, interval(np.ones(100), groups=4)))
    for unknown, said in ((10, True), (11, False)):  # a tenth of the draws
        known = interval(np.where(np.arange(100) < unknown, math.nan, 1.0), groups=5)
        assert math.isfinite(known[0]) == said
    low, high = interval(np.arange(101.0), groups=5)
    assert (low, high) == pytest.approx((2.5, 97.5))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Method effects of correlation 0.6 under seeds' noise: tau across methods, 150 times."""
    truth, hits = 0.0, []
    many = np.random.default_rng(1)
    a = many.normal(size=(20_000, 2)) @ np.linalg.cholesky(np.array([[1.0, 0.6], [0.6, 1.0]])).T
    noisy = a + 0.3 * many.normal(size=a.shape)
    truth = float(stats.kendalltau(noisy[:, 0], noisy[:, 1]).statistic)
    for trial in range(150):
        rng = np.random.default_rng(trial)
        of_method = rng.normal(size=(METHODS, 2)) @ np.linalg.cholesky(np.array([[1.0, 0.6], [0.6, 1.0]])).T
        values = of_method[GROUPS] + 0.3 * rng.normal(size=(METHODS * SEEDS, 2))
        weights = resampled(METHODS, draws=200, seed=trial)
        low, high = interval(across(values[:, 0], values[:, 1], GROUPS, BLOCKS, weights), METHODS)
        hits.append(low <= truth <= high)
    assert 0.88 <= np.mean(hits) <= 0.99
