"""Records of schema 1, which said nothing about the method, the doubts or the probes beside the numbers themselves."""

from collections.abc import Mapping
from typing import Any

from marginbench.benchmarks.records.column import Column

_PROBES = ("rejection_", "smoothed_", "clever_")  # how their metrics began; all there were
_ASCENDING = ("rejection_rate", "smoothed_abstention")


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
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


def _names(table: Any) -> list[str]:
    return list(table) if isinstance(table, Mapping) else []  # the reader complains of what is no table


def _column(name: str) -> dict[str, Any]:
    return vars(Column(name, name.replace("_", " "), ascending=name in _ASCENDING))
