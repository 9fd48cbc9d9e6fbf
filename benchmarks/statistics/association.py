"""How well one number orders or predicts another over networks, within groups of them and across groups.

Every statistic takes weights [..., n] or [..., G]: with those of `resampled` it is a bootstrap over whole groups, since
networks of one method are no independent draws. What cannot be said is NaN.
"""

import math
from collections.abc import Sequence

import numpy as np

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
    w = np.ones(len(x)) if weights is None else weights
    s, t = _signs(x), _signs(y)

    def over(pairs: np.ndarray) -> np.ndarray:
        total: np.ndarray = ((w @ pairs) * w).sum(-1)
        return total

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
    n = len(x)
    w = np.ones(n) if weights is None else weights
    s, t = _signs(x).astype(np.int64), _signs(y).astype(np.int64)
    i, j = np.nonzero(t)
    if not len(i):
        return np.full(w.shape[:-1], np.nan)
    of_pair = w[..., i] * w[..., j]
    answer = 2 * (s[i, j] + 1) + (t[i, j] > 0)  # 0 .. 5
    scores = []
    for c in conditions:
        _, cell = np.unique(c[i] * (int(c.max()) + 1) + c[j], return_inverse=True)
        code = 6 * cell + answer
        order = np.argsort(code, kind="stable")
        codes, starts = np.unique(code[order], return_index=True)
        counts = np.zeros((*w.shape[:-1], 6 * (int(cell.max()) + 1)))
        counts[..., codes] = np.add.reduceat(of_pair[..., order], starts, axis=-1)
        joint = counts.reshape(*counts.shape[:-1], -1, 3, 2)
        h_y, h_x, h_xy = (
            _entropies(part) for part in (joint.sum(-2), joint.sum(-1), joint.reshape(*joint.shape[:-2], 6))
        )
        open_ = h_y.sum(-1)
        scores.append(_ratio((h_y + h_x - h_xy).sum(-1), np.where(open_ > 1e-9 * counts.sum(-1), open_, 0.0)))
    stacked = np.stack(scores)
    none = np.isnan(stacked).all(0)
    return np.where(none, np.nan, np.where(np.isnan(stacked), np.inf, stacked).min(0).clip(0, 1))


def held_out_errors(features: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors [n] of a linear predictor that has not seen the group, and of the mean of the others.

    Least squares with an intercept on standardised features. NaN where a fit has fewer than two networks to spare for
    each coefficient.

    Args:
        features: [n, p]; y: [n]; both finite.
        groups: [n] int64; each is left out in turn.
    """
    errors, baseline = np.full(len(y), np.nan), np.full(len(y), np.nan)
    for out in _each(groups):
        rest = ~out
        if rest.sum() < 2 * (features.shape[1] + 1):
            continue
        middle, spread = features[rest].mean(0), features[rest].std(0)
        scaled = (features - middle) / np.where(spread > 0, spread, 1.0)
        design = np.column_stack([np.ones(len(y)), scaled])
        fit = np.linalg.lstsq(design[rest], y[rest], rcond=None)[0]
        errors[out] = (y[out] - design[out] @ fit) ** 2
        baseline[out] = (y[out] - y[rest].mean()) ** 2
    return errors, baseline


def r2(errors: np.ndarray, baseline: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """1 - sum w e / sum w b, [...] for weights [..., n] of the networks: below 0 where the mean predicts better."""
    w = np.ones(len(errors)) if weights is None else weights
    return 1 - _ratio(w @ errors, w @ baseline)


def _signs(values: np.ndarray) -> np.ndarray:
    """[n, n] float64 signs of v_i - v_j."""
    later = (values[:, None] > values[None]).astype(float)
    return later - later.T


def _each(codes: np.ndarray) -> list[np.ndarray]:
    return [codes == code for code in np.unique(codes)]


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is 0."""
    return np.asarray(part, dtype=float) / np.where(np.asarray(whole) == 0, np.nan, whole)


def _entropies(counts: np.ndarray) -> np.ndarray:
    """[..., cells] entropies of counts [..., cells, values], times the number in each cell."""
    total = counts.sum(-1, keepdims=True)
    share = counts / np.where(total > 0, total, 1.0)
    return -(counts * np.log(np.where(share > 0, share, 1.0))).sum(-1)
