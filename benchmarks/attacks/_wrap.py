"""What foreign code must not do is prevented or undone here: it gets a wrapped network, in an isolated block."""

import contextlib
import random
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import attached
from marginbench.methods import Norm, predicted_class
from marginbench.methods.method import UNDECIDED

LIBRARY_NORM: dict[Norm, str] = {"l2": "L2", "linf": "Linf"}
"""How torchattacks, AutoAttack and others spell the norms."""
FAR = 1e4  # times the largest finite logit: what infinite logits become

MASK = 100  # times the largest gap between the two largest logits: a class as far below in all images is masked


class Logits(nn.Module):
    """The network as foreign attacks see it: images to logits [B, K], always finite, always with a graph to the image.

    With `standardised`, logits are centred and divided by their largest absolute value, per image: the order of
    the classes stays. The losses of libraries need it: cross-entropy saturates on large logits, and the denominator
    of DLR, with its + 1e-12, is wrong for tiny ones. Of two classes it would leave 1 and -1, however near the boundary
    an image is, and no loss would show the way: these are divided by the largest absolute value of the first call.
    `net` is the network itself.

    Infinite logits take no part in that, nor classes masked by a large negative number, of which the first images
    tell: beside -1e9 the digits of the others would be lost. They become so low that softmax gives them 0, +inf as
    high. Rows that decide nothing, see `predicted_class`, become constant; with `nowhere` a further class K wins there,
    which is as low as -inf elsewhere. Gradients that are not finite become 0.
    """

    def __init__(self, net: nn.Module, device: torch.device, standardised: bool = True, nowhere: bool = False) -> None:
        super().__init__()
        self.net = net
        self.standardised = standardised
        self.nowhere = nowhere
        self._columns: Tensor | None = None
        self._size: Tensor | None = None
        # Libraries read the device off the first parameter; torchattacks prints a complaint where there is none.
        self.register_parameter("anchor", nn.Parameter(torch.empty(0, device=device), requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x = x.clone()
            x.register_hook(lambda gradient: gradient.nan_to_num(0.0, 0.0, 0.0))
        logits = attached(self.net, x)  # libraries differentiate whatever the network does
        values = logits.detach()
        decided, finite = (predicted_class(values) != UNDECIDED)[:, None], values.isfinite() & ~self._masked(values)
        logits = logits.where(finite & decided, 0.0)
        if self.standardised:
            count = finite.sum(1, keepdim=True).clamp(min=1)
            centred = (logits - logits.detach().sum(1, keepdim=True) / count) * finite
            scale = centred.detach().abs().amax(1, keepdim=True)
            scale = torch.where((count == 2) & (scale > 0), self._largest(scale), scale)
            logits = centred / scale.where(scale > 0, 1.0)
        far = FAR * logits.detach().abs().amax(1, keepdim=True).clamp(min=1)
        infinite = torch.where(values.isposinf(), far, -far) * decided
        logits = torch.where(finite, logits, infinite)
        return torch.cat([logits, torch.where(decided, -far, 1.0)], 1) if self.nowhere else logits

    def _largest(self, scale: Tensor) -> Tensor:
        """Of the first call in which it is not 0."""
        if self._size is None or not bool(self._size > 0):
            self._size = scale.max() if len(scale) else scale.new_zeros(())
        return self._size

    def _masked(self, values: Tensor) -> Tensor:
        """[K] bool, classes that for all of the first images lie far below, by the largest gap to a runner-up."""
        if self._columns is None:
            gaps = (values.amax(1, keepdim=True) - values)[predicted_class(values) != UNDECIDED]
            if not len(gaps):
                return values.new_zeros(values.shape[1], dtype=torch.bool)
            self._columns = (gaps > MASK * gaps.topk(min(2, gaps.shape[1]), 1, largest=False).values.max()).all(0)
        return self._columns

    def train(self, mode: bool = True) -> "Logits":
        """Nothing: the network keeps its modes, whatever a library asks for."""
        return self


@contextlib.contextmanager
def isolated(net: nn.Module, generator: torch.Generator) -> Iterator[int]:
    """A block in which the random state of torch, numpy and Python is seeded, and parameters are frozen.

    Random states, gradients and the parameters' `requires_grad` are as before after it. Warnings are not shown.

    Args:
        generator: source of the seed, on the device of the images.

    Yields:
        The seed, for libraries that seed themselves.
    """
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    free = [parameter for parameter in net.parameters() if parameter.requires_grad]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=devices):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        for parameter in free:
            parameter.requires_grad_(False)
        try:
            yield seed
        finally:
            for parameter in free:
                parameter.requires_grad_(True)
            random.setstate(python_state)
            np.random.set_state(numpy_state)
