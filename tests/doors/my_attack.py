"""A custom attack: the image with less light. The ray search finds how much less is enough."""

from torch import Tensor

from marginbench.benchmarks import Query, attack


@attack(gradient=False)
def darken(q: Query, *, strength: float = 0.5) -> Tensor:
    """x (1 - strength), for images x [B, C, H, W] in [0, 1]."""
    return (1 - strength) * q.x
