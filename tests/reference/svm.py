"""Three multi-class hinge losses, one example at a time."""

from support import head_weight
from torch import Tensor

from marginbench.methods import Net


def hinge(z: Tensor, label: int, form: str) -> Tensor:
    """The loss of one example with logits z [K]."""
    zero = 0 * z[0]
    rivals = [k for k in range(len(z)) if k != label]
    if form == "crammer_singer":
        return max(zero, 1 - z[label] + max(z[k] for k in rivals))
    if form == "weston_watkins":
        return sum((max(zero, 1 - z[label] + z[k]) for k in rivals), zero)
    machines = [1 - z[k] if k == label else 1 + z[k] for k in range(len(z))]
    return sum((max(zero, shortfall) ** 2 for shortfall in machines), zero)


def loss(net: Net, x: Tensor, y: Tensor, *, form: str, weight_penalty: float) -> Tensor:
    """Mean hinge plus the penalty on every entry of the head's weight."""
    zero = x.new_zeros(())
    total = sum((hinge(z, label, form) for z, label in zip(net(x), y.tolist(), strict=True)), zero)
    squares = sum((value**2 for value in head_weight(net).flatten()), zero)
    return total / len(y) + weight_penalty * squares
