"""Do convolutions compute the same in either memory layout here? A process of its own, which may crash: see `doctor`.

python -m marginbench.benchmarks.evaluation.layout
"""

import copy
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.nets.scan import NETWORKS

WIDTHS = (1, 2, 3, 4, 6, 8)
BATCH, SIZE = 24, 8
REPETITIONS = 10  # memory that was overwritten shows after a while
TOLERANCE = 1e-3  # of the norm of all gradients
LIMIT = 600  # seconds


def differences() -> Iterator[str]:
    """The convolutions of networks in channels_last whose gradients differ from those of a contiguous copy."""
    seen = set()
    for layer, shape in _convolutions():
        if (text := f"{layer} on {list(shape)}") not in seen:
            seen.add(text)
            plain = copy.deepcopy(layer).to(memory_format=torch.contiguous_format)
            for _ in range(REPETITIONS):
                x = torch.randn(BATCH, *shape).contiguous(memory_format=torch.channels_last)
                found, wanted = _gradients(layer, x), _gradients(plain, x.contiguous())
                if not bool((found - wanted).norm() <= TOLERANCE * wanted.norm()):
                    yield text
                    break


def _convolutions() -> Iterator[tuple[nn.Conv2d, torch.Size]]:
    """All convolutions of all networks that choose channels_last, with the shape of an input image."""
    entered: list[tuple[nn.Conv2d, torch.Size]] = []

    def note(layer: nn.Conv2d, inputs: tuple[Tensor, ...], _: Any) -> None:
        entered.append((layer, inputs[0].shape[1:]))

    for name, architecture in NETWORKS.items():
        for width in WIDTHS if architecture.channels_last and architecture.smallest <= SIZE else ():
            net = make_net(name, width, (3, SIZE, SIZE), 4, torch.zeros(3), torch.ones(3)).eval()
            layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
            if all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in layers):
                for layer in layers:
                    layer.register_forward_hook(note)
                with torch.no_grad():
                    net(torch.zeros(1, 3, SIZE, SIZE))
                yield from entered
                entered.clear()


def _gradients(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Of a sum of squares of the outputs, in x and all weights, as one vector."""
    x = x.detach().requires_grad_()
    gradients = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    return torch.cat([gradient.flatten() for gradient in gradients])


def examine() -> str:
    """What is wrong with the layouts on this machine, or nothing."""
    command = [sys.executable, "-m", "marginbench.benchmarks.evaluation.layout"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"the process did not end within {LIMIT} s"
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"the process ended with {done.returncode}: {reason}"
    return "; ".join(done.stdout.splitlines())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for difference in differences():
        print(difference)
