"""The optimiser and the learning rates of a suite."""

import inspect
import math
from typing import Any

import torch

from marginbench.benchmarks.suites.training import Training
from marginbench.methods import MarginbenchError, Method, Net
from marginbench.methods.hooks import HookError, in_words, place_of, returned

WARM_UP = 0.3  # share of the one-cycle schedule in which the learning rate rises


def replayable(settings: Training) -> bool:
    """Whether a step of the optimiser can be recorded on a GPU: its state is on the device, its rate a tensor."""
    return settings.optimiser_class is torch.optim.SGD or "capturable" in _arguments(settings)


def make_optimiser(method: Method, settings: Training, net: Net, replayed: bool = False) -> torch.optim.Optimizer:
    """The optimiser of a suite for the method's groups of parameters.

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
    groups = returned(method.param_groups, method.param_groups(net), list, "a list of dicts as torch.optim takes them")
    if any(not isinstance(group, dict) or "params" not in group for group in groups):
        came = ", ".join(map(in_words, groups))
        raise HookError(place_of(method.param_groups), f"returned a list of {came}, needed dicts with the key 'params'")
    try:
        return settings.optimiser_class(groups, **settings.optimiser_arguments, **how)
    except (TypeError, ValueError) as error:
        raise MarginbenchError(f"training.optimiser={settings.optimiser!r}: {error}") from None


def lr_factor(settings: Training, progress: float) -> float:
    """Factor on the learning rate, at a share `progress` of the training.

    `one_cycle`: rises linearly, then falls to 0 as a half cosine. `drops`: 1, then the factor of the last drop.
    """
    if settings.schedule == "one_cycle":
        if progress < WARM_UP:
            return 0.05 + 0.95 * progress / WARM_UP
        return 0.5 + 0.5 * math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))
    epoch = progress * settings.epochs
    passed = [factor for start, factor in settings.drops or () if epoch >= start - 1e-9]
    rise = 1.0 if settings.warm_up is None else min(1.0, epoch / settings.warm_up)
    return (passed[-1] if passed else 1.0) * rise


def decay(settings: Training, progress: float) -> float:
    """The learning rate as a share of its peak, and 1 until the last time it is there: `Context.decay`.

    1 - progress where it never falls.
    """
    if settings.schedule == "one_cycle":
        return 1.0 if progress < WARM_UP else lr_factor(settings, progress)
    factors = dict([(0.0, 1.0), *((drop[0], drop[1]) for drop in settings.drops or ())])
    peak = max(factors.values())
    last = max(start for start, factor in factors.items() if factor == peak)
    falls = [start for start in factors if start > last]
    if not falls:
        return 1 - progress
    return 1.0 if progress * settings.epochs < falls[0] - 1e-9 else lr_factor(settings, progress) / peak


def _arguments(settings: Training) -> list[str]:
    return list(inspect.signature(settings.optimiser_class).parameters)
