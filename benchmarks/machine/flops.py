"""The operations of matrix products and convolutions, counted."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Flops(TorchDispatchMode):
    """Counts the operations of matrix products and convolutions inside its block.

    torch's own FlopCounterMode hooks modules, which `autograd.grad` does not allow.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        out = function(*args, **(options or {}))
        if function._overloadpacket in flop_registry:
            self.total += int(flop_registry[function._overloadpacket](*args, **(options or {}), out_val=out))
        return out
