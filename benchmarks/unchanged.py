"""Is a network still what it was before somebody was asked about it?"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FEW = 8  # images on which a network is asked whether it still answers the same


class NetworkState:
    """What those who are asked about a network must leave as it was.

    Buffers may differ where answers do not: some networks count calls. That a network is put into eval mode is no
    change: as a whole it is asked in that.
    """

    def __init__(self, net: nn.Module) -> None:
        self.modes = {name: module.training for name, module in net.named_modules()}
        self.weights = {name: p.detach().clone() for name, p in net.named_parameters()}
        self.buffers = {name: b.detach().clone() for name, b in net.named_buffers()}

    def differs_from(self, net: nn.Module, x: Tensor) -> str | None:
        """What is not as it was, in a word, or None; images x [B, C, H, W] are asked about, a few of them."""
        if any(module.training and not self.modes.get(name, True) for name, module in net.named_modules()):
            return "modes"
        weights = dict(net.named_parameters())
        if weights.keys() != self.weights.keys() or not all(
            equal(p, self.weights[name]) for name, p in weights.items()
        ):
            return "weights"
        pairs = [(b, self.buffers[name]) for name, b in net.named_buffers() if name in self.buffers]
        written = [pair for pair in pairs if not equal(*pair)]
        return "buffers" if written and _answers_otherwise(net, x[:FEW], written) else None


@torch.no_grad()
def _answers_otherwise(net: nn.Module, x: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Whether the buffers as they were give other logits. A network that answers itself otherwise has no say."""
    if any(now.shape != was.shape for now, was in pairs):
        return True
    held = [now.clone() for now, _ in pairs]
    first, second = net(x), net(x)
    for now, was in pairs:
        now.copy_(was)
    before = net(x)
    for (now, _), value in zip(pairs, held, strict=True):
        now.copy_(value)
    return _close(first, second) and not _close(first, before)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6 * float(a.abs().nan_to_num(posinf=0).max()), equal_nan=True)


def equal(a: Tensor, b: Tensor) -> bool:
    """The same type and values; NaN equals NaN."""
    return a.dtype == b.dtype and (torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num()))
