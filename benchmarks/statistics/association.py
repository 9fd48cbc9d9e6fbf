"""How well one number orders or predicts another over networks, within groups of them and across groups.

Every statistic takes weights [..., n] or [..., G]: with those of `resampled` it is a bootstrap over whole groups, since
networks of one method are no independent draws. What cannot be said is NaN.
"""

import math
from collections.abc import Sequence

import numpy as np

from marginbench.benchmarks.statistics.level import level

DRAWS = 2000
SMALLEST = 5  # groups for an interval: fewer are too few to resample


def resampled(groups: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """[draws, groups] float64: how often each group is in each of the samples with replacement."""
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(float)


def interval(values: np.ndarray, groups: int, level: float = 0.95) -> tuple[float, float]:
    """Percentiles of the bootstrap values [draws]; NaN for few groups, or where a tenth of the draws has no value."""
    known = values[~np.isnan(values)]
    if groups < SMALLEST or len(known) < 0.9 * len(values):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Kendall's tau-b, [...] for weights [..., n]; NaN where all x or all y are tied.

        tau = sum_ij w_i w_j s_ij t_ij / sqrt(sum_ij w_i w_j s_ij^2  sum_ij w_i w_j t_ij^2)

    with s_ij = sign(x_i - x_j) and t_ij = sign(y_i - y_j): with whole weights, that of the sample in which network i
    stands w_i times. Infinite values are larger than all others and tied among themselves.

    Args:
        x, y: [n], without NaN.
        weights: all 1 by default.
    """
    w = (np.ones(len(x)) if weights is None else weights).astype(np.float32)
    s, t = (_signs(values).astype(np.float32) for values in (x, y))  # whole numbers: exact for 4,000 networks

    def over(pairs: np.ndarray) -> np.ndarray:
        return np.asarray(np.sum((w @ pairs) * w, axis=-1, dtype=np.float64))

    return _ratio(over(s * t), np.sqrt(over(s * s) * over(t * t)))


def within(x: np.ndarray, y: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over groups of the tau-b inside each, [...] for weights [..., G]; a group in which all are tied has none.

    The granulated coefficient of Jiang, Neyshabur, Mobahi, Krishnan, Bengio (Fantastic Generalization Measures, ICLR
    2020, arXiv 1912.02178, eq. 7) along the axis on which the members of a group differ, with tau-b for their tau-a:
    accuracies on few images are often tied.

    Args:
        x, y: [n], without NaN.
        groups: [n] int64 in 0 .. G-1.
        weights: of the groups, all 1 by default.
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    w = np.ones(count) if weights is None else weights
    taus = np.array([kendall(x[groups == g], y[groups == g]) for g in range(count)], dtype=float)
    known = ~np.isnan(taus)
    return _ratio(w[..., known] @ taus[known], w[..., known].sum(-1))


def across(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, blocks: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Mean over blocks of the tau-b of the groups inside each: the granulated coefficient along the axis of groups.

    Args:
        x, y: [n], without NaN.
        groups: [n] int64 in 0 .. G-1, of which each has one network in a block.
        blocks: [n] int64, as the seed.
        weights: [..., G] of the groups, all 1 by default.
    """
    w = np.ones(int(groups.max()) + 1) if weights is None else weights
    taus = np.stack([kendall(x[chosen], y[chosen], w[..., groups[chosen]]) for chosen in _each(blocks)])
    known = ~np.isnan(taus)
    return _ratio(np.where(known, taus, 0.0).sum(0), known.sum(0).astype(float))


def chance_within(x: np.ndarray, y: np.ndarray, groups: np.ndarray, draws: int = 1000) -> float:
    """Two-sided p of `within` where x is shuffled inside every group: (1 + #{|tau| >= seen}) / (draws + 1).

    A bootstrap of few groups that agree has no width; this knows that they may agree by chance.
    """
    stream = np.random.default_rng(0)
    seen, drawn = [], []
    for chosen in _each(groups):
        tau = float(kendall(x[chosen], y[chosen]))
        if not math.isnan(tau):
            s, t = _signs(x[chosen]), _signs(y[chosen])
            orders = stream.permuted(np.tile(np.arange(len(t)), (draws, 1)), axis=1)
            shuffled = s[orders[:, :, None], orders[:, None, :]]
            seen.append(tau)
            drawn.append((shuffled * t).sum((1, 2)) / math.sqrt((s * s).sum() * (t * t).sum()))
    return _share_beyond(np.mean(drawn, axis=0), float(np.mean(seen))) if seen else math.nan


def chance_across(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    blocks: np.ndarray,
    clusters: np.ndarray | None = None,
    draws: int = 1000,
) -> float:
    """Two-sided p of `across` where the x of the groups are dealt out anew, all of a group to one group.

    Over the groups that are in every block; NaN without any.

    Args:
        clusters: [G] int64, groups of one cluster are no independent draws: the x of a cluster go to one with as many
            groups. Default: each group is one.
    """
    present = np.zeros((int(groups.max()) + 1, len(_each(blocks))), dtype=bool)
    present[groups, np.unique(blocks, return_inverse=True)[1]] = True
    whole = np.asarray(present.all(axis=1))
    clusters = (np.arange(len(present)) if clusters is None else clusters)[whole]
    kept = whole[groups]
    x, y, groups, blocks = (values[kept] for values in (x, y, groups, blocks))
    s_of, t_of = [], []
    for chosen in _each(blocks):
        order = np.argsort(groups[chosen])
        s, t = _signs(x[chosen][order]), _signs(y[chosen][order])
        if size := math.sqrt((s * s).sum() * (t * t).sum()):
            s_of.append(s)
            t_of.append(t / size)
    if not s_of:
        return math.nan
    s, t, stream = np.stack(s_of), np.stack(t_of), np.random.default_rng(0)
    drawn = np.empty(draws)
    for draw in range(draws):
        order = _dealt(clusters, stream)
        drawn[draw] = np.vdot(s[:, order][:, :, order], t)
    return _share_beyond(drawn / len(s), float(np.vdot(s, t)) / len(s))


def _dealt(clusters: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """[G] whose values each group gets, where clusters [G] swap theirs with others of as many groups."""
    order = np.arange(len(clusters))
    members = [np.flatnonzero(of) for of in _each(clusters)]
    for size in {len(own) for own in members}:
        alike = np.stack([own for own in members if len(own) == size])
        order[alike] = stream.permutation(alike)
    return order


def chance_linear(features: np.ndarray, y: np.ndarray, groups: np.ndarray, draws: int = 1000) -> float:
    """p of a linear fit to the means of the groups where the means of y are dealt out anew: it fits as well by chance.

    Args:
        features: [n, p]; y: [n]; both finite.
        groups: [n] int64 in 0 .. G-1, each with a member.
    """
    count = np.bincount(groups)
    means = np.stack([np.bincount(groups, column) / count for column in (*features.T, y)], axis=1)
    means -= means.mean(0)
    span, sizes, _ = np.linalg.svd(means[:, :-1], full_matrices=False)
    span = span[:, sizes > 1e-9 * max(float(sizes.max()), 1e-300)]
    stream = np.random.default_rng(0)
    dealt = stream.permuted(np.tile(means[:, -1], (draws, 1)), axis=1)
    fitted = ((dealt @ span) ** 2).sum(1)
    return _share_beyond(fitted, float(((means[:, -1] @ span) ** 2).sum()))


def information(
    x: np.ndarray, y: np.ndarray, conditions: Sequence[np.ndarray], weights: np.ndarray | None = None
) -> np.ndarray:
    """The score of the competition PGDL: what the order of two networks by x tells about that by y, in [0, 1].

        min over conditions c of  I(sign(x_i - x_j); sign(y_i - y_j) | c_i, c_j) / H(sign(y_i - y_j) | c_i, c_j)

    over all pairs i, j with y_i != y_j (Jiang et al., ICLR 2020, section 4.3; NeurIPS 2020 competition, arXiv
    2012.07976, section 4). 0 says that what x knows of y is known from a condition, or nothing. It is no sign: a
    measure that orders the networks the wrong way round scores as well. Conditions that leave nothing open are passed
    over. Cells of few pairs make the estimate too large.

    Args:
        x, y: [n], without NaN.
        conditions: each [n] int64 from 0; zeros for no condition.
        weights: [..., n] of the networks, all 1 by default.
    """
    w = np.ones(len(x)) if weights is None else weights
    i, j = np.nonzero(_signs(y) > 0)
    if not len(i):
        return np.full(w.shape[:-1], np.nan)
    of_pair, order_by_x = w[..., i] * w[..., j], _signs(x)[i, j].astype(np.int64)
    scores = np.stack([_explained(order_by_x, c[i], c[j], of_pair) for c in conditions])
    none = np.isnan(scores).all(0)
    return np.where(none, np.nan, np.where(np.isnan(scores), np.inf, scores).min(0).clip(0, 1))


def _explained(signs: np.ndarray, first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """I / H of `information` under one condition, from the pairs of which the first network has the larger y.

    A pair and the same pair in the other order are in cells that mirror each other, and tell the same: one of both is
    counted, that with the smaller condition first; where both are in one cell, each counts as a half.

    Args:
        signs: [pairs] of x_i - x_j; first, second: [pairs] conditions of i and j; weights: [..., pairs].
    """
    turned = first > second
    low, high = np.where(turned, second, first), np.where(turned, first, second)
    _, cell = np.unique(low * (int(high.max()) + 1) + high, return_inverse=True)
    here = 6 * cell + 2 * (np.where(turned, -signs, signs) + 1) + np.where(turned, 0, 1)
    both = np.flatnonzero(first == second)
    there = 6 * cell[both] + 2 * (1 - signs[both])
    half = np.where(first == second, 0.5, 1.0)
    code = np.concatenate([here, there])
    order = np.argsort(code, kind="stable")
    codes, starts = np.unique(code[order], return_index=True)
    counts = np.zeros((*weights.shape[:-1], 6 * (int(cell.max()) + 1)))
    everything = np.concatenate([weights * half, 0.5 * weights[..., both]], axis=-1)
    counts[..., codes] = np.add.reduceat(everything[..., order], starts, axis=-1)
    joint = counts.reshape(*counts.shape[:-1], -1, 3, 2)
    by_y, by_x = joint.sum(-2), joint.sum(-1)
    total, x_alone, y_alone, together = (
        _n_log_n(part, weights.ndim - 1) for part in (by_y.sum(-1), by_x, by_y, counts[..., codes])
    )
    open_, mutual = total - y_alone, total + together - x_alone - y_alone
    return _ratio(mutual, np.where(open_ > 1e-9 * counts.sum(-1), open_, 0.0))


def held_out_errors(features: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors [n] of a linear predictor that has not seen the group, and of the mean of the others.

    Least squares with an intercept on standardised features. NaN where a fit has fewer than two networks to spare for
    each coefficient.

    Args:
        features: [n, p]; y: [n]; both finite.
        groups: [n] int64; each is left out in turn.
    """
    spread = features.std(0)
    design = np.column_stack([np.ones(len(y)), (features - features.mean(0)) / np.where(spread > 0, spread, 1.0)])
    codes = np.unique(groups, return_inverse=True)[1]
    each = np.zeros((int(codes.max()) + 1, len(y)))
    each[codes, np.arange(len(y))] = 1
    rest = 1 - each  # [G, n]: who is fitted when the group is left out
    gram = np.einsum("gn,np,nq->gpq", rest, design, design, optimize=True)
    fit = np.linalg.pinv(gram, hermitian=True) @ (rest @ (design * y[:, None]))[:, :, None]
    mean = (rest @ y) / rest.sum(1).clip(1)
    enough = np.where(rest.sum(1) >= 2 * design.shape[1], 1.0, np.nan)[codes]
    errors = enough * (y - (design * fit[codes, :, 0]).sum(1)) ** 2
    return errors, enough * (y - mean[codes]) ** 2


def r2(errors: np.ndarray, baseline: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """1 - sum w e / sum w b, [...] for weights [..., n] of the networks: below 0 where the mean predicts better."""
    w = np.ones(len(errors)) if weights is None else weights
    return 1 - _ratio(w @ errors, w @ baseline)


def _share_beyond(drawn: np.ndarray, seen: float) -> float:
    return float((1 + (np.abs(drawn) >= abs(seen) - 1e-9).sum()) / (len(drawn) + 1))


def _signs(values: np.ndarray) -> np.ndarray:
    """[n, n] float64 signs of v_i - v_j, 0 where these differ by rounding alone."""
    values = level(values)
    larger = (values[:, None] > values[None]).astype(float)
    return np.asarray(larger - larger.T)


def _each(codes: np.ndarray) -> list[np.ndarray]:
    return [codes == code for code in np.unique(codes)]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is 0."""
    return np.asarray(part, dtype=float) / np.where(np.asarray(whole) == 0, np.nan, whole)


def _n_log_n(counts: np.ndarray, draws: int) -> np.ndarray:
    """Sums of n log n over all axes behind the first `draws`."""
    terms = counts * np.log(np.where(counts > 0, counts, 1.0))
    return np.asarray(terms.sum(axis=tuple(range(draws, counts.ndim))))
