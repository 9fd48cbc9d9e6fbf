"""The optimiser and the learning rates of a suite."""

import inspect
import math
from collections.abc import Collection, Iterable, Set
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.suites.training import Training
from marginbench.methods import MarginbenchError, Method, Net
from marginbench.methods.hooks import HookError, holding, in_words, place_of, returned

WARM_UP = 0.3  # share of the one-cycle schedule in which the learning rate rises


def replayable(settings: Training) -> bool:
    """Whether a step of the optimiser can be recorded on a GPU: its state is on the device, its rate a tensor."""
    return settings.optimiser_class is torch.optim.SGD or "capturable" in _arguments(settings)


def make_optimiser(method: Method, settings: Training, net: Net, replayed: bool = False) -> torch.optim.Optimizer:
    """The optimiser of a suite for the method's groups of parameters.

    Weights that the suite's `no_decay` names become groups of their own, unless the method's group has a weight decay.

    Args:
        replayed: its learning rate may be a tensor, and its state stays on the device.

    Raises:
        MarginbenchError: torch's class refuses these parameters.
        HookError: the method gives no groups.
    """
    how: dict[str, Any] = {}
    if settings.optimiser == "adam":
        how["fused"] = True
    if settings.optimiser_class is torch.optim.SGD:
        how["fused"] = replayed or None
    if "capturable" in _arguments(settings):
        how["capturable"] = replayed and next(net.parameters()).is_cuda
    with holding(method.param_groups):
        groups = method.param_groups(net)
    returned(method.param_groups, groups, list, "a list of dicts as torch.optim takes them")
    if any(not isinstance(group, dict) or "params" not in group for group in groups):
        came = ", ".join(map(in_words, groups))
        raise HookError(place_of(method.param_groups), f"returned a list of {came}, needed dicts with the key 'params'")
    if settings.no_decay is not None:
        groups = _without_decay(groups, _spared(net, settings.no_decay))
    try:
        return settings.optimiser_class(groups, **settings.optimiser_arguments, **how)
    except (TypeError, ValueError) as error:
        raise MarginbenchError(f"training.optimiser={settings.optimiser!r}: {error}") from None


def lr_factor(settings: Training, progress: float) -> float:
    """Factor on the learning rate, at a share `progress` of the training.

    `one_cycle`: rises linearly, then falls to 0 as a half cosine. `drops`: 1, then the factor of the last drop.
    `linear`: falls to 0 in a straight line, from the end of the warm-up on.
    """
    if settings.schedule == "one_cycle":
        if progress < WARM_UP:
            return 0.05 + 0.95 * progress / WARM_UP
        return 0.5 + 0.5 * math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))
    epoch = progress * settings.epochs
    passed = [factor for start, factor in settings.drops or () if epoch >= start - 1e-9]
    rise = 1.0 if settings.warm_up is None else min(1.0, epoch / settings.warm_up)
    if settings.schedule == "linear" and rise == 1.0:
        start = (settings.warm_up or 0.0) / settings.epochs
        return (1 - progress) / (1 - start) if start < 1 else 1.0
    return (passed[-1] if passed else 1.0) * rise


def decay(settings: Training, progress: float) -> float:
    """The learning rate as a share of its peak, and 1 until the last time it is there: `Context.decay`.

    1 - progress where it never falls.
    """
    if settings.schedule == "one_cycle":
        return 1.0 if progress < WARM_UP else lr_factor(settings, progress)
    if settings.schedule == "linear":
        return 1.0 if progress * settings.epochs < (settings.warm_up or 0.0) else lr_factor(settings, progress)
    factors = dict([(0.0, 1.0), *((drop[0], drop[1]) for drop in settings.drops or ())])
    peak = max(factors.values())
    last = max(start for start, factor in factors.items() if factor == peak)
    falls = [start for start in factors if start > last]
    if not falls:
        return 1 - progress
    return 1.0 if progress * settings.epochs < falls[0] - 1e-9 else lr_factor(settings, progress) / peak


def _arguments(settings: Training) -> list[str]:
    return list(inspect.signature(settings.optimiser_class).parameters)


def _spared(net: Net, kinds: Collection[str]) -> set[Tensor]:
    """The parameters of these kinds.

    vectors: biases, and the scales and shifts of norms; depthwise: kernels of convolutions with a filter per channel.
    """
    found: set[Tensor] = set()
    if "vectors" in kinds:
        found |= {parameter for parameter in net.parameters() if parameter.dim() <= 1}
    if "depthwise" in kinds:
        convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
        found |= {layer.weight for layer in convolutions if layer.groups == layer.in_channels > 1}
    return found


def _without_decay(groups: Iterable[dict[str, Any]], spared: Set[Tensor]) -> list[dict[str, Any]]:
    """The groups, with the spared parameters in groups without weight decay."""
    split = []
    for group in groups:
        if "weight_decay" in group:  # the method's own
            split.append(group)
            continue
        parameters = list(group["params"])
        kept = [parameter for parameter in parameters if parameter not in spared]
        left = [parameter for parameter in parameters if parameter in spared]
        split += [{**group, "params": kept}] if kept else []
        split += [{**group, "params": left, "weight_decay": 0.0}] if left else []
    return split
