"""What all sections of a suite file share, those of probes and transforms too."""

from collections.abc import Iterable
from math import isfinite
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Read-only; an unknown key is an error, and so is a value of another type, infinity or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _finite(settings: dict[str, Any]) -> dict[str, Any]:
    for key, value in settings.items():
        if not all(map(isfinite, _floats(value))):
            raise ValueError(f"{key}={value!r}: must be finite")
    return settings


def _floats(value: Any) -> Iterable[float]:
    if isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _floats(item)
    elif isinstance(value, float):
        yield value


Count = Annotated[int, Field(gt=0, lt=2**31)]
"""A number of epochs, images, ...: larger ones are slips, and overflow somewhere or never end."""

Settings = Annotated[dict[str, Any], AfterValidator(_finite)]
"""Keys that are checked elsewhere, by what they are settings of."""
