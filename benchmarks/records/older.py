"""Records of earlier schemas.

Schema 1 said nothing about the method, the doubts or the probes beside the numbers themselves. In schema 2 null stood
for every number that JSON does not know. Schema 3 said less of the
environment, and its networks were not kept.
"""

from collections.abc import Mapping
from typing import Any

from marginbench.benchmarks.records.column import Column

_PROBES = ("rejection_", "smoothed_", "clever_")  # how their metrics began; all there were
_ASCENDING = ("rejection_rate", "smoothed_abstention")


def from_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same record in schema 2.

    Nothing is invented: the method has no title, paper or claims, doubts have no explanation, and the columns of
    probes have the names of their metrics as headers, with the plain numbers below.
    """
    metrics, doubts = (_names(values.get(key)) for key in ("metrics", "doubts"))
    return {
        **values,
        "schema_version": 2,
        "explanations": dict.fromkeys(doubts, "..."),
        "columns": [_column(name) for name in metrics if name.startswith(_PROBES)],
    }


def from_2(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same record in schema 3. Of the means, only that of distances can be infinite; the others were NaN."""
    metrics = values.get("metrics")
    if not isinstance(metrics, Mapping):
        return {**values, "schema_version": 3}
    found = {
        name: "nan" if value is None and not name.startswith("margin_upper_") else value
        for name, value in metrics.items()
    }
    return {**values, "schema_version": 3, "metrics": found}


def from_3(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same record in schema 4: what is not known of its environment stays empty."""
    return {**values, "schema_version": 4}


UPGRADES = {1: from_1, 2: from_2, 3: from_3}  # to the next one


def _names(table: Any) -> list[str]:
    return list(table) if isinstance(table, Mapping) else []  # the reader complains of what is no table


def _column(name: str) -> dict[str, Any]:
    return vars(Column(name, name.replace("_", " "), ascending=name in _ASCENDING))
