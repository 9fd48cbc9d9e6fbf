"""The packages that a run may depend on: marginbench, what it requires, and what those require, as far as installed."""

import re
from collections.abc import Iterator
from functools import cache
from importlib import metadata

OPTIONAL = "auto-lirpa"  # no requirement, but numbers depend on whether it is there
_REQUIREMENT = re.compile(r"\s*([\w.-]+)\s*(?:\[([^\]]*)\])?")  # name, extras
_EXTRA = re.compile(r"""extra\s*==\s*["']([\w.-]+)["']""")
_PLUGINS = "marginbench.plugins"  # entry points


@cache
def installed() -> dict[str, str | None]:
    """Version by name, as pip knows it; None for auto-LiRPA where that is not installed.

    Tools that happen to be in the same environment are left out, and so are extras that nobody asked for.
    """
    found: dict[str, str | None] = {OPTIONAL: None}
    plugins = [point.dist.name for point in metadata.entry_points(group=_PLUGINS) if point.dist is not None]
    left = [(name, frozenset[str]()) for name in ("marginbench", OPTIONAL, *plugins)]
    seen = set(left)
    for name, extras in left:  # grows meanwhile
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[normal(name)] = package.version
        for wanted in _required(package, None if name == "marginbench" else extras):
            if wanted not in seen:
                seen.add(wanted)
                left.append(wanted)
    return dict(sorted(found.items()))


def normal(name: str) -> str:
    """The one spelling of a package's name: lower case, with hyphens (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _required(package: metadata.Distribution, extras: frozenset[str] | None) -> Iterator[tuple[str, frozenset[str]]]:
    """Name and extras of each requirement. Of other markers, only being installed counts.

    Args:
        extras: of the package that are asked for; None: all of them.
    """
    for line in package.requires or ():
        requirement, _, marker = line.partition(";")
        of = {normal(extra) for extra in _EXTRA.findall(marker)}
        if of and extras is not None and not of & extras:
            continue
        if match := _REQUIREMENT.match(requirement):
            words = (match[2] or "").split(",")
            yield normal(match[1]), frozenset(normal(word.strip()) for word in words if word.strip())
