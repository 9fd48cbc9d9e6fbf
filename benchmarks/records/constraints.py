"""The versions that records were made with, as a constraints file for pip and uv."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from marginbench.benchmarks.records.current import current
from marginbench.benchmarks.records.reader import read_record, read_records
from marginbench.benchmarks.records.record import Environment
from marginbench.methods.errors import MarginbenchError

PRODUCT = "marginbench"  # installed from a checkout: named in a comment, and no constraint


def environments_in(where: Path) -> list[Environment]:
    """Those of the records in a folder that count, or that of one record, a JSON file.

    Raises:
        MarginbenchError: no such file or folder, none of them a record.
    """
    if where.suffix == ".json":
        return [read_record(where, check_arrays=False).environment]
    found = [record.environment for record in current(read_records([where]))]
    if not found:
        raise MarginbenchError(f"{where}: no records; make some with `marginbench run-all`")
    return found


def constraints(environments: Sequence[Environment], of: str) -> str:
    """One line `name==version` for each package; comments say what no constraint can.

    Args:
        of: where the environments were found, for an error message.

    Raises:
        MarginbenchError: they have different versions of a package.
    """
    versions: defaultdict[str, set[str | None]] = defaultdict(set)
    for environment in environments:
        for name, version in environment.versions.items():
            versions[name].add(version)
    products = versions.pop(PRODUCT, set())
    several = [f"{name} {_listed(found)}" for name, found in sorted(versions.items()) if len(found) > 1]
    if several:
        raise MarginbenchError(
            f"{of}: made with several versions of {'; '.join(several)}: name one record, a JSON file"
        )
    commits = {environment.commit for environment in environments}
    systems = {f"Python {environment.python} on {environment.system}" for environment in environments}
    pinned = {name: version for name, (version,) in sorted(versions.items())}
    head = [
        f"{PRODUCT} {_listed(products)}, commit {_listed(commits)}; {_listed(systems)}",
        *_on_torch(pinned.get("torch"), {environment.builds.get("torch") for environment in environments}),
        *(f"{name} was not installed" for name, version in pinned.items() if version is None),
    ]
    if not any(environment.builds for environment in environments):
        head.append(f"Records of an older {PRODUCT}: they name these packages alone")
    lines = [f"{name}=={version}" for name, version in pinned.items() if version is not None]
    return "\n".join([*(f"# {line}" for line in head), *lines, ""])


def _on_torch(version: str | None, builds: set[str | None]) -> list[str]:
    """PyPI has one build of each version; the others are on indexes of their own, and say so in their version."""
    known = {build for build in builds if build is not None}
    if not known:
        return []
    local = (version or "").partition("+")[2]
    index = f", with --extra-index-url https://download.pytorch.org/whl/{local}" if local else ", as on PyPI"
    return [f"torch is the build {_listed(known)}{index}"]


def _listed(values: set[str] | set[str | None]) -> str:
    return ", ".join(sorted(str(value or "unknown") for value in values)) or "unknown"
