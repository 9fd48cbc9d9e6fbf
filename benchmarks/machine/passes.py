"""Counts forward and backward passes, in images, so that cost is measured and not declared."""

from types import TracebackType

from torch import Tensor, nn

from marginbench.methods import Net


class PassCounter:
    """Inside the block, counts the images that went forward and backward through the body of a network."""

    def __init__(self, net: Net) -> None:
        self.forward = 0
        self.backward = 0
        self._body = net.body

    def __enter__(self) -> "PassCounter":
        self._handle = self._body.register_forward_hook(self._count)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._handle.remove()

    def _count(self, body: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.forward += len(output)
        if output.requires_grad:
            output.register_hook(self._count_backward)

    def _count_backward(self, grad: Tensor) -> None:
        self.backward += len(grad)
