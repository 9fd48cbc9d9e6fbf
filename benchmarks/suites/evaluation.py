"""The section [evaluation] of a suite: radii, points, attacks, certificates, and probes under their own keys."""

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PositiveFloat,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails

from marginbench.benchmarks.attacks.from_file import versioned, without_folder
from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.attacks.scan import ATTACKS, configured_attacks
from marginbench.benchmarks.certificates.scan import CERTIFICATES, OWN, configured_certificates
from marginbench.benchmarks.probes.scan import PROBES, Probe
from marginbench.benchmarks.section import Count, Section, Settings
from marginbench.benchmarks.tables import columns
from marginbench.methods import NORMS, MarginbenchError, Norm
from marginbench.methods.errors import Problems, suggest

RADII = "give one radius for each norm in pixels of [0, 1], as in { linf = 0.1, l2 = 0.5 }"


def in_pixels(radius: float) -> str:
    """A hint for a radius that is too large: perhaps it is one of 255 levels."""
    return f": for {radius:g}/255 write {radius / 255:.4g}" if radius <= 255 * 255 else ""


OF_IMAGES = ("epsilon", "attacks", "certificates")
"""Keys without which margins of images cannot be enclosed; sentences have no use for them."""


class Evaluation(Section):
    """A section [evaluation.KEY] for the key of a probe adds that measurement and its columns."""

    epsilon: dict[Norm, PositiveFloat] = Field(default_factory=dict)  # this and the tables: of images alone
    points: Count  # test images: all, or a sample in which every class has its share
    attacks: dict[str, Settings] = Field(default_factory=dict)  # the name of a preset stands for its table
    certificates: dict[str, Settings] = Field(default_factory=dict)  # name to settings
    _sections: dict[str, Settings] = PrivateAttr(default_factory=dict)  # of probes, without their classes: see `probes`

    @model_validator(mode="wrap")
    @classmethod
    def _with_sections(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, dict):
            return handler(values)
        given = {key: values[key] for key in probe_keys() if values.get(key) is not None}
        sections = {key: _probe(key, section).model_dump() for key, section in given.items()}
        made = handler({key: value for key, value in values.items() if key not in PROBES})
        made._sections = sections
        return made

    @property
    def probes(self) -> dict[str, Probe]:
        """Key to probe, in the order of their columns.

        They are built at every call: another process can read the suite before it has loaded the plug-ins.
        """
        return {key: _probe(key, section) for key, section in self._sections.items()}

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Probes as sections; None for those that there are not."""
        out: dict[str, Any] = handler(self)
        probes = self.probes
        for key in probe_keys():
            if key in probes:
                out[key] = probes[key].model_dump(mode=info.mode, exclude_none=info.exclude_none)
            elif not info.exclude_none:
                out[key] = None
        return out

    @field_validator("epsilon", mode="before")
    @classmethod
    def _by_norm(cls, epsilon: Any) -> Any:
        if not isinstance(epsilon, dict):
            raise ValueError(RADII)
        return epsilon

    @field_validator("epsilon")
    @classmethod
    def _both_norms(cls, epsilon: dict[Norm, float]) -> dict[Norm, float]:
        if not epsilon:  # of sentences; a suite of images needs them, see `schema.make_suite`
            return epsilon
        if set(epsilon) != set(NORMS):
            raise ValueError(RADII)
        if (radius := epsilon["linf"]) >= 1:
            raise ValueError(f"linf={radius:g} reaches every image, since pixels are in [0, 1]{in_pixels(radius)}")
        return epsilon

    @field_validator("attacks", mode="before")
    @classmethod
    def _preset(cls, attacks: Any) -> Any:
        if not isinstance(attacks, str):
            return attacks
        if attacks not in PRESETS:
            raise ValueError(f"unknown preset: {suggest(attacks, PRESETS)}; or give a table of attacks")
        return copy.deepcopy(PRESETS[attacks])

    @field_validator("attacks")
    @classmethod
    def _versioned(cls, attacks: dict[str, Settings]) -> dict[str, Settings]:
        return {name: versioned(settings) for name, settings in attacks.items()}

    @field_serializer("attacks")
    def _without_folders(self, attacks: dict[str, Settings]) -> dict[str, Settings]:
        return {name: without_folder(settings) for name, settings in attacks.items()}

    def sources(self) -> dict[str, str]:
        """Hashes of the files that named attacks, certificates and probes come from, without those built in."""
        named = {"attacks": (ATTACKS, self.attacks), "certificates": (CERTIFICATES, self.certificates)}
        tables: dict[str, tuple[Any, Mapping[str, Any]]] = {**named, "probes": (PROBES, self._sections)}
        found = {
            f"{kind}.{name}": registry.source(name)
            for kind, (registry, table) in tables.items()
            for name in table
            if name in registry
        }
        return {name: source for name, source in found.items() if source is not None}


def probe_keys() -> list[str]:
    """The keys of all probes, in the order of their columns."""
    return sorted(PROBES, key=lambda key: (PROBES[key].rank, key))


def _probe(key: str, values: Any) -> Probe:
    try:
        return PROBES[key].model_validate(values)
    except ValidationError as error:  # with the key in its place
        details = [
            InitErrorDetails(type=one["type"], loc=(key, *one["loc"]), input=one["input"], ctx=one.get("ctx", {}))
            for one in error.errors()
        ]
        raise ValidationError.from_exception_data("Evaluation", details) from None


def check_estimators(evaluation: Evaluation, problems: Problems) -> None:
    """Do all attacks and certificates exist, and take their settings? Have the columns of probes names of their own?

    Args:
        problems: collects what is wrong; each message begins with its key.
    """
    for name in sorted(evaluation.attacks.keys() & {*evaluation.certificates, OWN}):  # their arrays would be one
        problems.add(f"evaluation.attacks.{name}: a certificate has this name: choose another")
    for name, settings in evaluation.attacks.items():
        with problems.collected():
            if "file" in settings:
                _check_file(name, settings)
            else:
                _check("attacks", name, settings, ATTACKS, configured_attacks)
    for name, settings in evaluation.certificates.items():
        with problems.collected():
            _check("certificates", name, settings, CERTIFICATES, configured_certificates)
    _check_columns(evaluation, problems)


def _check_columns(evaluation: Evaluation, problems: Problems) -> None:
    taken = columns.taken()
    for key, probe in evaluation.probes.items():
        own = {text for column in probe.columns for text in (column.name, column.header)}
        for text in sorted(own & taken):
            problems.add(
                f"evaluation.{key}: tables have a column {text!r} already: let the probe call its own otherwise"
            )
        taken |= own


def _check_file(name: str, settings: Settings) -> None:
    if name in ATTACKS or not re.fullmatch("[A-Za-z0-9_]+", name):
        problem = f"choose another name: letters, digits and _, and none of {', '.join(ATTACKS)}"
        raise MarginbenchError(f"evaluation.attacks.{name}: {problem}")
    try:
        configured_attacks({name: settings})
    except MarginbenchError as error:
        raise MarginbenchError(f"evaluation.attacks.{name}: {error}") from None


def _check(kind: str, name: str, settings: Settings, known: Mapping[str, Any], configured: Callable[..., Any]) -> None:
    if name not in known:
        raise MarginbenchError(f"evaluation.{kind}.{name}: unknown: {suggest(name, known)}")
    try:
        configured({name: settings})
    except MarginbenchError as error:
        raise MarginbenchError(f"evaluation.{kind}.{error}") from None
