"""Two attacks of torchattacks at a given epsilon: APGD (white box) and Square (black box)."""

import contextlib
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import inside_box
from marginbench.methods import Norm

_NORM = {"l2": "L2", "linf": "Linf"}


class _Standardised(nn.Module):
    """The network with logits centred and divided by their largest absolute value, per image.

    The order of the classes stays. The library's losses need it: cross-entropy saturates on large logits, and
    the denominator of DLR, with its + 1e-12, is wrong for tiny ones.
    """

    def __init__(self, net: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.net = net
        # The library reads the device off the first parameter, and prints a complaint where there is none.
        self.register_parameter("anchor", nn.Parameter(torch.empty(0, device=device), requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        # The library differentiates even where the network ignores its input.
        logits: Tensor = self.net(x) + 0 * x.flatten(1).sum(1, keepdim=True)
        centred = logits - logits.detach().mean(1, keepdim=True)
        scale = centred.detach().abs().amax(1, keepdim=True)
        return (centred / scale.where(scale > 0, 1.0)).nan_to_num(0.0, 0.0, 0.0)


def apgd(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    *,
    epsilon: float,
    reference: Tensor,
    generator: torch.Generator,
    steps: int = 30,
    restarts: int = 1,
) -> Tensor:
    """torchattacks' Auto-PGD on the DLR loss at one epsilon (Croce and Hein, ICML 2020, arXiv 2003.01690).

    DLR = -(z_y - max_{j != y} z_j) / (z_pi1 - z_pi3) needs 4 classes. NOTE: with 2 or 3 classes the loss is
    the cross-entropy of the logits centred and divided by their largest absolute value, per image; like DLR
    it depends on neither shift nor scale of the logits, but it is another loss.

    Args:
        epsilon: radius of the ball, in pixels of [0, 1].
        reference: unused; the signature is common to all attacks.
        generator: source of the seed of the random starts.
        steps: backward passes per start, plus one; restarts: random starts.

    Returns:
        [B, C, H, W] float32: an adversarial point in the ball, x itself where none was found.
    """
    with _library(generator) as (torchattacks, seed), torch.no_grad():
        model = _Standardised(net, x.device)
        loss = "dlr" if net(x[:1]).shape[1] >= 4 else "ce"
        attack = torchattacks.APGD(
            model, norm=_NORM[norm], eps=epsilon, steps=steps, n_restarts=restarts, seed=seed, loss=loss
        )
        return _run(attack, x, y)


def square(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    *,
    epsilon: float,
    reference: Tensor,
    generator: torch.Generator,
    n_queries: int = 100,
) -> Tensor:
    """torchattacks' Square attack at one epsilon (Andriushchenko et al., ECCV 2020, arXiv 1912.00049).

    It only reads logits, so hidden gradients do not stop it. The library's version needs square images, of at
    least 5x5 pixels in L2; for others this returns x, which counts as a failure.

    Args:
        epsilon: radius of the ball, in pixels of [0, 1].
        reference: unused; the signature is common to all attacks.
        generator: source of the seed.
        n_queries: forward passes; its schedule of square sizes is stretched to them.

    Returns:
        [B, C, H, W] float32: an adversarial point in the ball, x itself where none was found.
    """
    height, width = x.shape[2:]
    if height != width or (norm == "l2" and height < 5):
        return x.clone()
    with _library(generator) as (torchattacks, seed), torch.no_grad():
        model = _Standardised(net, x.device)
        attack = torchattacks.Square(
            model, norm=_NORM[norm], eps=epsilon, n_queries=n_queries, n_restarts=1, seed=seed, loss="margin"
        )
        return _run(attack, x, y)


@contextlib.contextmanager
def _library(generator: torch.Generator) -> Iterator[tuple[ModuleType, int]]:
    """torchattacks and a seed. The library seeds the global generators: they are put back afterwards."""
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with warnings.catch_warnings(), torch.random.fork_rng(devices=devices):
        warnings.simplefilter("ignore")
        import torchattacks

        yield torchattacks, seed


def _run(attack: Any, x: Tensor, y: Tensor) -> Tensor:
    # Not attack(x, y): that would switch the network to eval mode and back to the wrapper's mode.
    found: Tensor = attack.forward(x.contiguous(), y)
    return inside_box(found, x).detach()
