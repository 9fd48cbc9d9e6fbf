"""A terminal that is too narrow for a table loses columns, the least interesting ones first, and not their letters."""

import pytest

from marginbench.benchmarks.tables.render import fitting

TABLE = [
    ["method", "n", "points", "clean %", "robust % L2 0.5", "margin L2", "cost", "doubts"],
    ["ce", "3", "360", "97.3 ± 2.0", "49.8 ± 2.0", "[0.270,\n0.486]", "1.00", "none"],
    ["jacobian_reg", "3", "360", "97.6 ± 1.1", "65.9 ± 1.4", "[0.337,\n0.611]", "2.17", "FAILED 1x: diverged: loss"],
]


@pytest.mark.parametrize(
    ("width", "lost"),
    [
        (200, set()),
        (90, set()),
        (80, {"points"}),
        (72, {"points", "n"}),
        (66, {"points", "n", "cost"}),
        (60, {"points", "n", "cost", "margin L2"}),
        (10, {"points", "n", "cost", "margin L2"}),
    ],
)
def test_columns_are_left_out_until_the_rest_fits(width: int, lost: set[str]) -> None:
    header, *lines = fitting(TABLE, width)
    assert set(TABLE[0]) - set(header) == lost
    for line, whole in zip(lines, TABLE[1:], strict=True):
        assert line == [cell for cell, name in zip(whole, TABLE[0], strict=True) if name not in lost]
