"""What an attack or a certificate is asked about a margin, and what it answers."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from marginbench.benchmarks.unchanged import NetworkState, equal
from marginbench.methods import MarginbenchError, Net, Norm, NotApplicable, Radii
from marginbench.methods.errors import suggest
from marginbench.methods.hooks import HookError, holding, place_of, returned
from marginbench.methods.words import counted

Certify = Callable[[Net, Tensor, Norm], Radii | NotApplicable]
"""A method's certificate of its own networks, for images [B, C, H, W]: see `Method.certify`."""
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


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
    fitting: int | None = None  # images that memory holds at once, as far as that is known to be few

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
    points: Tensor | None = None  # [B, C, H, W] such images, else x: a certificate's `upper` is measured on them
    solved: Tensor | None = None  # [B] bool: the margin is known exactly
    reason: str = ""  # why the estimator does not apply to this network or norm


def ask(certify: Certify, net: Net, x: Tensor, norm: Norm) -> Answer:
    """The answer of a method's own certificate.

    Raises:
        HookError: it returned something else, or not one radius for each image, or set something on its method.
    """
    with holding(certify):
        found = certify(net, x, norm)
    if isinstance(found, NotApplicable):
        return Answer(reason=found.reason)
    radius = returned(certify, found, Radii, "end it with `return Radii(radius)`, or NotApplicable(reason)").radius
    if len(radius) != len(x):
        raise HookError(
            place_of(certify), f"gave {counted(len(radius), 'radius', 'radii')} for {counted(len(x), 'image')}"
        )
    return Answer(lower=radius)


@dataclass(frozen=True)
class Estimator:
    """A function of a query and of settings: keyword-only arguments with defaults, which a suite may change.

    Their annotations say which values a suite may give, as in `steps: PositiveInt = 30` with the types of pydantic;
    without annotation those of the type of the default.
    """

    name: str
    function: Callable[..., Any]

    @property
    def settings(self) -> dict[str, Any]:
        """Names and defaults."""
        return {p.name: p.default for p in _settings(self.function)}

    def configured(self, settings: Mapping[str, Any]) -> Self:
        """The same with other defaults. A list fits where the default is a tuple: TOML has no tuples.

        Raises:
            MarginbenchError: unknown setting, or a value that its annotation does not allow.
        """
        known = {p.name: p for p in _settings(self.function)}
        values = {}
        for key, value in settings.items():
            if key not in known:
                raise MarginbenchError(f"{self.name}.{key}: unknown setting: {suggest(key, known)}")
            default = known[key].default
            values[key] = tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value
            try:
                TypeAdapter(_allowed(known[key]), config=STRICT).validate_python(values[key])
            except ValidationError as error:
                problem = "; ".join(one["msg"][0].lower() + one["msg"][1:] for one in error.errors())
                raise MarginbenchError(f"{self.name}.{key}={value!r}: {problem}; default: {default!r}") from None
        return replace(self, function=partial(self.function, **values))

    def _ask(self, q: Query, settings: Mapping[str, Any]) -> Any:
        """Call the function; others are asked about the same images after it.

        Raises:
            MarginbenchError: it wrote into the query, or left the network in train mode, with other weights, or with
                buffers with which it answers otherwise: that would change every number after it.
        """
        what = f"{type(self).__name__.lower()} {self.name!r}"
        before, network = _Contents(q), NetworkState(q.net)
        answer = self.function(q, **settings)
        if (name := before.written()) is not None:
            raise MarginbenchError(f"{what} writes into the {name} that it is given: work on q.{_FIELDS[name]}.clone()")
        if (part := network.differs_from(q.net, q.x)) is not None:
            raise MarginbenchError(f"{what} leaves the network with other {part}: work on copy.deepcopy(q.net)")
        return answer


_FIELDS = {"images": "x", "labels": "y", "distances": "upper", "radii": "at", "reference images": "reference"}


class _Contents:
    """The tensors of a query. Of the reference images, which are many, only what torch counts as written is seen."""

    def __init__(self, q: Query) -> None:
        found: dict[str, Tensor | None] = {name: getattr(q, field) for name, field in _FIELDS.items()}
        self.given = {name: (value, value._version) for name, value in found.items() if value is not None}
        copied = (name for name in self.given if name != "reference images")
        self.were = {name: self.given[name][0].detach().clone() for name in copied}

    def written(self) -> str | None:
        """The first that is not as it was."""
        for name, (value, version) in self.given.items():
            if value._version != version or (name in self.were and not equal(value, self.were[name])):
                return name
        return None


def check_signature(function: Callable[..., Any]) -> None:
    """Raise a MarginbenchError unless the function can be an estimator."""
    parameters = list(inspect.signature(function).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    settings = parameters[1:]
    if (
        not parameters
        or parameters[0].kind not in positional
        or any(p.kind is not p.KEYWORD_ONLY or p.default is p.empty for p in settings)
    ):
        raise MarginbenchError(
            f"{function.__module__}.{function.__qualname__}: write (q: Query, *, setting=default, ...):"
            " settings are keyword-only arguments with defaults"
        )


def _settings(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except NameError:  # an annotation for type checkers alone
        parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY]


def _allowed(setting: inspect.Parameter) -> Any:
    if setting.annotation is setting.empty or isinstance(setting.annotation, str):
        return Any if setting.default is None else type(setting.default)
    return setting.annotation
