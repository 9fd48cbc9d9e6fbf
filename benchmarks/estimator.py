"""What an attack or a certificate is asked about a margin, and what it answers."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from marginbench.methods import MarginbenchError, Net, Norm, NotApplicable, Radii
from marginbench.methods.errors import suggest

Certify = Callable[[Net, Tensor, Norm], Radii | NotApplicable]
"""A method's certificate of its own networks, for images [B, C, H, W]: see `Method.certify`."""


@dataclass(frozen=True)
class Query:
    """Images, a network, and what may be needed to enclose their margins. Nothing in it may be changed."""

    net: nn.Module
    """Images [B, C, H, W] in [0, 1] to logits [B, K], in eval mode. Certificates get its layers, `Net.decision_net()`:
    an nn.Sequential with the same decisions."""
    x: Tensor  # [B, C, H, W] float32 in [0, 1], or float64 as the network is
    y: Tensor  # [B] int64, the true classes
    norm: Norm
    epsilon: float  # the suite's radius in this norm, in pixels of [0, 1]
    reference: Tensor  # [N, C, H, W] float32, other images, to walk towards
    generator: torch.Generator  # on the device of x, the only source of randomness
    upper: Tensor | None = None  # [B] float32, distances of adversarial images known so far, inf where there is none
    at: Tensor | None = None  # [B], radii to check, in the place of a search; the answer is these, or 0

    @property
    def layers(self) -> nn.Sequential:
        """The network, where it is an nn.Sequential: certificates are asked about no other."""
        if not isinstance(self.net, nn.Sequential):
            raise TypeError(f"{type(self.net).__name__}: certificates take nn.Sequential, as of Net.decision_net()")
        return self.net

    def rows(self, index: slice | Tensor) -> Self:
        """The same query about some of the images."""
        upper, at = (None if values is None else values[index] for values in (self.upper, self.at))
        return replace(self, x=self.x[index], y=self.y[index], upper=upper, at=at)


@dataclass(frozen=True)
class Answer:
    """What is known about the margins of B images; None where an estimator does not look."""

    lower: Tensor | None = None  # [B] certified radii, 0 where nothing is certified, inf for the whole box
    upper: Tensor | None = None  # [B] distances of adversarial images, inf where none was found
    solved: Tensor | None = None  # [B] bool: the margin is known exactly
    reason: str = ""  # why the estimator does not apply to this network or norm


def ask(certify: Certify, net: Net, x: Tensor, norm: Norm) -> Answer:
    """The answer of a method's own certificate."""
    found = certify(net, x, norm)
    return Answer(reason=found.reason) if isinstance(found, NotApplicable) else Answer(lower=found.radius)


@dataclass(frozen=True)
class Estimator:
    """A function of a query and of settings: keyword-only arguments with defaults, which a suite may change."""

    name: str
    function: Callable[..., Any]

    @property
    def settings(self) -> dict[str, Any]:
        """Names and defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def configured(self, settings: Mapping[str, Any]) -> Self:
        """The same with other defaults.

        Raises:
            MarginbenchError: unknown setting, or a value of another type than its default.
        """
        known = self.settings
        for key, value in settings.items():
            if key not in known:
                raise MarginbenchError(f"{self.name}.{key}: unknown setting: {suggest(key, known)}")
            wanted = type(known[key])
            if type(value) is not wanted and not (wanted is float and type(value) is int):
                raise MarginbenchError(f"{self.name}.{key}={value!r}: should be like {known[key]!r}")
        return replace(self, function=partial(self.function, **settings))


def check_signature(function: Callable[..., Any]) -> None:
    """Raise a MarginbenchError unless the function can be an estimator."""
    parameters = list(inspect.signature(function).parameters.values())
    settings = parameters[1:]
    if not parameters or any(p.kind is not p.KEYWORD_ONLY or p.default is p.empty for p in settings):
        raise MarginbenchError(
            f"{function.__module__}.{function.__qualname__}: write (q: Query, *, setting=default, ...):"
            " settings are keyword-only arguments with defaults"
        )
