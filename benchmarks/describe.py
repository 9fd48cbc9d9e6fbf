"""The registry and the suites in words: tables, and one method or suite in full."""

import inspect
import json
from collections.abc import Iterable
from dataclasses import asdict
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from marginbench.benchmarks.records.column import NORM_TEXT
from marginbench.benchmarks.suites.schema import WHICH, comment, load_suite, read_suite, suite_names
from marginbench.methods import NORMS, get, names

_LIMITS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}


def facts(key: str) -> dict[str, Any]:
    """All that the registry knows about a method, ready for JSON."""
    cls = get(key)
    info = cls.info
    return {
        "key": info.key,
        "title": info.title,
        "family": info.family,
        "paper": info.paper,
        "section": info.section,
        "year": info.year,
        "revision": info.revision,
        "formula": inspect.cleandoc(cls.__doc__ or ""),
        "fields": {name: _field(field) for name, field in cls.model_fields.items()},
        "claims": list(info.claims),
        "needs": sorted(info.needs),
        "neutral": info.neutral if isinstance(info.neutral, str) else dict(info.neutral),
        "deviations": list(info.deviations),
        "underfit": None if info.underfit is None else asdict(info.underfit),
        "presets": {name: dict(fields) for name, fields in info.presets.items()},
    }


def _field(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)  # checked at registration
    return {
        "default": field.default,
        "doc": field.description,
        "type": _type_text(field.annotation),
        "range": _limits(field.metadata),
        **extra,
    }


def _settings(fields: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in fields.items())


def _type_text(annotation: Any) -> str:
    """`int`, `number or none`, `'ce' or 'hinge'`: as one would say it."""
    if get_origin(annotation) is Literal:
        return " or ".join(repr(choice) for choice in get_args(annotation))
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        inside = [m for item in metadata for m in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return " ".join([_type_text(annotation), *_limits(inside)])
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(map(_type_text, get_args(annotation)))
    return {type(None): "none", float: "number"}.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limits(metadata: Iterable[Any]) -> list[str]:
    return [
        f"{sign} {getattr(limit, attribute):g}"
        for kind, (attribute, sign) in _LIMITS.items()
        for limit in metadata
        if isinstance(limit, kind)
    ]


def table() -> str:
    """Markdown table of all methods."""
    from tabulate import tabulate

    every = [facts(key) for key in names()]
    rows = [
        (
            ", ".join((f["key"], *f["presets"])),
            f["family"],
            f["title"],
            f["year"],
            ", ".join(f["claims"]).replace("_", " ") or "-",
            ", ".join(f["needs"]) or "-",
            ", ".join(f["fields"]) or "-",
        )
        for f in every
    ]
    return tabulate(rows, ("key", "family", "title", "year", "claims", "needs", "fields"), tablefmt="github")


def one(key: str) -> str:
    """One method in full, as text."""
    f = facts(key)
    neutral = f["neutral"]
    if not isinstance(neutral, str):
        neutral = f"{f['key']}({_settings(neutral)})" if neutral else f"{key} itself"
        neutral += " equals cross-entropy"
    lines = [
        f"{f['key']}: {f['title']}  ({f['family']}, revision {f['revision']})",
        f"Paper: {f['paper']}",
        f"Section: {f['section']}",
        "",
        f["formula"],
        "",
        f"Said to grow: {', '.join(f['claims']).replace('_', ' ') or 'nothing'}",
        f"Needs: {', '.join(f['needs']) or 'nothing beyond one forward and one backward pass'}",
        f"Neutral setting: {neutral}",
    ]
    for name, field in f["fields"].items():
        limits = " and ".join(field["range"])
        lines += [
            "",
            f"{name} = {field['default']}   [{field['unit']}]   {field['type']}{', ' + limits if limits else ''}",
            f"    {field['doc']}",
            f"    source: {field['source']}; worth trying: {', '.join(map(str, field['search']))}",
        ]
    if f["presets"]:
        lines += ["", "Presets, with rows of their own:"]
        lines += [f"- {name} = {f['key']}({_settings(fields)})" for name, fields in f["presets"].items()]
    if f["underfit"]:
        lines += ["", "Fits {accuracy:.0%} of 64 easy training images at least: {reason}".format(**f["underfit"])]
    if f["deviations"]:
        lines += ["", "Deviations from the paper:", *(f"- {text}" for text in f["deviations"])]
    return "\n".join(lines)


def suites() -> str:
    """Markdown table of the built-in suites."""
    from tabulate import tabulate

    rows = []
    for name in suite_names():
        suite = load_suite(name)
        epsilon = suite.evaluation.epsilon
        radii = ", ".join(f"{epsilon[norm]:g} {NORM_TEXT[norm]}" for norm in reversed(NORMS) if norm in epsilon) or "-"
        methods = len(suite.methods) if suite.methods else f"all but {len(suite.without)}" if suite.without else "all"
        rows.append((name, suite.title, methods, suite.seeds, suite.data.name, suite.network.label, radii))
    return tabulate(rows, ("suite", "title", "rows", "seeds", "data", "network", "radii"), tablefmt="github")


def suite_toml(name: str) -> str:
    """The file of a suite, to start one's own from.

    Raises:
        MarginbenchError: unknown suite.
    """
    path, text = read_suite(name)
    return (
        f"# Start of a suite of your own, from {path.name}: save it, change it, and give it another name below, since\n"
        f"# records and random numbers go by the name. Run it: marginbench run-all --suite FILE.toml\n\n{text}"
    )


def one_suite(name: str) -> str:
    """What a suite is for, and its settings, defaults included, as text.

    Raises:
        MarginbenchError: unknown suite.
    """
    suite = load_suite(name)
    settings = suite.model_dump(mode="json", exclude={"name", "title", *WHICH}, exclude_none=True)
    lines = [f"{suite.name}: {suite.title}", "", comment(name), ""]
    every = f"every method but {', '.join(suite.without)}" if suite.without else "every method"
    lines += [f"Rows: {', '.join(suite.methods) if suite.methods else every}; seeds: {suite.seeds}"]
    for section, values in settings.items():
        lines += ["", f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines)
