"""A custom doubt. Every evaluation asks it."""

from marginbench.benchmarks import Evidence, doubt


@doubt
def few_points(e: Evidence) -> str | None:
    """Fewer than 100 points were evaluated: a share of them is off by up to ten per cent."""
    return f"{len(e.y)} points" if len(e.y) < 100 else None
