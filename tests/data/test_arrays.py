"""Which images are used: the long tail, and slices that are not copied."""

import numpy as np

from marginbench.benchmarks.data.arrays import long_tail, take


def test_the_long_tail_is_that_of_the_ldam_paper() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
    kept = long_tail(labels, 100)
    assert np.bincount(labels[kept]).tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert (np.diff(kept) > 0).all()
    for c in range(10):  # the first of each class
        wanted = np.flatnonzero(labels == c)[: (labels[kept] == c).sum()]
        assert np.array_equal(kept[labels[kept] == c], wanted)
    assert np.array_equal(long_tail(labels, 1), np.arange(50_000))
    uneven = np.repeat([0, 1, 2], [90, 300, 9])
    assert np.bincount(uneven[long_tail(uneven, 100)]).tolist() == [90, 9]
    assert np.bincount(uneven[long_tail(uneven, 10)]).tolist() == [90, 28, 9]


def test_neighbours_are_not_copied() -> None:
    array = np.arange(20).reshape(10, 2)
    assert np.shares_memory(take(array, np.arange(3, 7)), array) and take(array, np.arange(3, 7))[0, 0] == 6
    assert take(array, np.array([1, 4, 2]))[:, 0].tolist() == [2, 8, 4]
    assert take(array, np.array([], dtype=np.int64)).shape == (0, 2)
