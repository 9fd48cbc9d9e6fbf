"""The three phases of dense-sparse-dense training as a plan for plain gradient descent."""


def plan(
    steps: int, rate: float, prune_at: int, restore_at: int, final_rate: float, sparsity: float
) -> tuple[list[float], dict[int, float]]:
    """Learning rate of every step, and what happens to the masks after which step (-1: all weights come back)."""
    rates = [rate * (final_rate if step >= restore_at else 1) for step in range(steps)]
    return rates, {prune_at: sparsity, restore_at: -1}
