"""The network that methods train, and the modules that bounds can see through."""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.methods.errors import MarginbenchError
from marginbench.methods.held import modes_kept


class Net(nn.Module):
    """The network a method trains: normalisation, body, head. Images in [0, 1] in, logits out.

    Attributes:
        normalise: images [B, C, H, W] in [0, 1] to standardised ones; every radius is therefore in pixels.
        body: those to features [B, d]; the suite chooses it.
        head: features to logits [B, K], an nn.Linear until `build` replaces it.
    """

    def __init__(self, normalise: nn.Module, body: nn.Sequential, head: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.body = body
        self.head = head

    def features(self, x: Tensor) -> Tensor:
        """[B, C, H, W] images in [0, 1] to [B, d] penultimate features."""
        out: Tensor = self.body(self.normalise(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] images in [0, 1] to [B, K] logits."""
        out: Tensor = self.head(self.features(x))
        return out

    def decision_net(self) -> nn.Sequential:
        """The same classifier up to a positive factor per image, without feature normalisation.

        A certificate of this network's predicted class holds for the network itself, and linear bounds on it are
        tighter. A head may offer `decision_layer() -> nn.Linear`; otherwise it is used as it is.
        """
        make_layer: Any = getattr(self.head, "decision_layer", None)
        return nn.Sequential(self.normalise, *self.body, make_layer() if make_layer else self.head)


def as_net(module: nn.Module, x: Tensor) -> Net:
    """A `Net` that shares the layers of a classifier, for methods in a training loop of one's own.

    Training the `Net` trains the module, except for a head that a method has replaced: use the `Net` afterwards.

    Args:
        module: images to logits [B, K]; what it returns is the output of an nn.Linear.
        x: [B, C, H, W] images in [0, 1], to find that layer with; in eval mode.

    Raises:
        MarginbenchError: the output is that of another layer, or the features in front of it are not [B, d].
    """
    calls: list[tuple[str, Tensor, Tensor]] = []

    def note(name: str, layer: nn.Module, inputs: tuple[Tensor], out: Tensor) -> None:
        calls.append((name, inputs[0], out))

    layers = [(name, layer) for name, layer in module.named_modules() if name and type(layer) is nn.Linear]
    handles = [layer.register_forward_hook(partial(note, name)) for name, layer in layers]
    try:
        with modes_kept(module), torch.no_grad():
            logits = module.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
    heads = [name for name, features, out in calls if out is logits and features.dim() == 2]
    if not heads:
        raise MarginbenchError(f"{type(module).__name__}: its output must be that of an nn.Linear on features [B, d]")
    body = _replaced(module, heads[0].split("."), nn.Identity())
    head = module.get_submodule(heads[0])
    return Net(nn.Identity(), body if isinstance(body, nn.Sequential) else nn.Sequential(body), head)


def _replaced(module: nn.Module, path: list[str], layer: nn.Module) -> nn.Module:
    """The module with another layer at the path: what lies on the path is copied, the rest shared."""
    child = module.get_submodule(path[0])
    result = copy.copy(module)
    result._modules = {**module._modules, path[0]: _replaced(child, path[1:], layer) if path[1:] else layer}
    return result


class Normalise(nn.Module):
    """(x - mean) / std per channel: the first layer, so that every radius is in pixels of [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Scale(nn.Module):
    """factor * x, with a constant factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Residual(nn.Module):
    """shortcut(x) + branch(x): bodies with residual sums are made of these, so that bounds can see the sum."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.branch(x)
        return out


class Subsample(nn.Module):
    """Shortcut "option A": every second pixel, and zeros for the channels that the input does not have.

    Of He, Zhang, Ren, Sun (CVPR 2016, section 4.1). A 1x1 convolution, which certificates know, but not an
    `nn.Conv2d`, which methods would train.
    """

    kernel: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.eye(outputs, inputs)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=2)
