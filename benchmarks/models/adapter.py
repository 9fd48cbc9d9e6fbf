"""Any module as a `Net`, which attacks, certificates and doubts need of a network that was not built here."""

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor, nn

from marginbench.benchmarks.certificates._record import Unbounded
from marginbench.benchmarks.certificates._simplify import simplified
from marginbench.benchmarks.unchanged import disturbed
from marginbench.methods import Net
from marginbench.methods.held import is_linear, unaltered


class Copied(nn.Identity):
    """A copy of the images, in the layout of a new tensor.

    For models that write into their input, and for `view` behind a convolution: images of one channel may count as
    channels_last, and convolutions would answer in that layout.
    """

    def forward(self, input: Tensor) -> Tensor:
        return input.clone(memory_format=torch.contiguous_format)


class Adapted(Net):
    """Attacks see the module as it is, certificates the same function in layers that they know, where there are such.

    These are made of the module anew when they are asked for, in the type that it has then: what is computed in
    float64 is computed from its own weights.
    """

    example: Tensor  # some images [B, C, H, W]

    def __init__(self, normalise: nn.Module, layers: nn.Sequential, head: nn.Module, example: Tensor) -> None:
        super().__init__(normalise, layers, head)
        self.register_buffer("example", example)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] images in [0, 1] to [B, K] logits."""
        out: Tensor = self.head(super().features(x))
        return out

    def features(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, d], what enters the last layer of `decision_net`."""
        if is_linear(self.head):
            return super().features(x)
        out: Tensor = self.decision_net()[:-1](x)
        return out

    def decision_net(self) -> nn.Sequential:
        """In simple layers; as it is where that fails: certificates find the same reason then."""
        layers = super().decision_net()
        try:
            return simplified(layers, self.example)
        except Unbounded:
            return layers


def adapt(model: nn.Module, normalise: nn.Module, x: Tensor) -> Net:
    """A `Net` with the logits of the model behind the normalisation.

    The layers of an nn.Sequential, and of those inside it, become the body and a last linear layer the head: features
    are what enters the head. Any other module is a body of one layer.

    Args:
        model: in eval mode, with frozen parameters.
        x: some images, on which the `Net` must agree with the model, and its simple layers with the `Net`. On
            disturbed ones it must agree, too.
    """
    if type(model) is Net and unaltered(model):
        head, layers = model.head, [model.normalise, *model.body]
    else:
        layers = list(_layers(model))
        head = layers.pop() if layers and is_linear(layers[-1]) else nn.Identity()
    net = Adapted(normalise, nn.Sequential(Copied(), *layers), head, x).eval()
    given = nn.Sequential(normalise, Copied(), model)
    with torch.no_grad(), suppress(Exception):  # whatever the model raises for noise
        if all(
            torch.allclose(net(z), given(z), rtol=1e-4, atol=1e-5, equal_nan=True) for z in (x, *disturbed(x).chunk(2))
        ):
            return net
    return Adapted(normalise, nn.Sequential(Copied(), model), nn.Identity(), x).eval()


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential) and _is_a_chain(module):
        for child in module:  # a module that stands in two places comes twice
            yield from _layers(child)
    else:
        yield module


def _is_a_chain(module: nn.Sequential) -> bool:
    return type(module).forward is nn.Sequential.forward and unaltered(module)
