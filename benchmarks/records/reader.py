"""Reading records: one file, its arrays, or all below some folders."""

import hashlib
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marginbench.benchmarks.machine.files import digest
from marginbench.benchmarks.records.current import precedence
from marginbench.benchmarks.records.older import UPGRADES
from marginbench.benchmarks.records.record import SCHEMA, SEAL, Record
from marginbench.benchmarks.records.typed import WrongValueError, build
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import Problems
from marginbench.methods.words import counted

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

USUAL = 1000  # calls that Python nests
AGAIN = "delete it, or repeat the run: `run-all --retry`, `evaluate --fresh`"
RESULTS = Path("results/local")  # where records are written and read unless a folder is named


@dataclass(frozen=True)
class Reading:
    """What was found below some folders."""

    records: dict[Path, Record]  # by file; of a run that appears twice, the better one
    problems: dict[Path, str]  # files that are no readable records, and why

    def where(self, suits: Callable[[Record], bool]) -> "Reading":
        """The records that suit."""
        return Reading({path: record for path, record in self.records.items() if suits(record)}, self.problems)

    def warn(self) -> None:
        """One warning for all files that were skipped."""
        if self.problems:
            skipped = counted(len(self.problems), "record")
            log.warning("skipped %s that cannot be read:\n%s", skipped, "\n".join(self.problems.values()))


def read_record(path: str | Path, *, check_arrays: bool = True) -> Record:
    """Read one record.

    The id must be the digest of the identity, and the name of the file. A hash protects all that the file says, and
    another one the arrays. Older records have none for the file: of these, what cannot be measured is refused.

    Args:
        check_arrays: compare the arrays' file with its hash. It takes most of the time, and tables read no arrays;
            `read_arrays` compares it in any case.

    Raises:
        MarginbenchError: there is no such file; it is cut, changed, renamed, or written by a newer marginbench; its
            arrays are cut, changed or missing.
    """
    path = Path(path).expanduser()
    values = json_object(path)
    seal, content = values.pop(SEAL, None), values
    try:
        schema = _schema(values)
        if schema > SCHEMA:
            raise MarginbenchError(
                f"record {path}: schema_version {schema} is newer than {SCHEMA}, the newest that this"
                " marginbench reads: upgrade marginbench"
            )
        for older in range(schema, SCHEMA):
            values = UPGRADES[older](values)
        record = build(Record, values)
        _check_id(record, path)
        _check_numbers(record)
        check_seal(SEAL, seal, content)
    except WrongValueError as error:
        raise MarginbenchError(f"record {path}: {error}: {AGAIN}") from None
    if check_arrays and record.arrays_sha256 is not None:
        _array_bytes(path, record)
    return record


def json_object(path: Path) -> dict[str, Any]:
    """The content of a record's file.

    Raises:
        MarginbenchError: there is no such file, or it holds something else.
    """
    try:
        content = path.read_bytes()
        with _shallow():
            values = json.loads(content)
    except OSError as error:
        raise MarginbenchError(f"record {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise MarginbenchError(f"record {path}: not a complete JSON object ({error}): {AGAIN}") from None
    if not isinstance(values, dict):
        raise MarginbenchError(f"record {path}: not a complete JSON object ({values!r:.40}): {AGAIN}")
    return values


@contextmanager
def _shallow() -> Iterator[None]:
    """A block in which Python refuses to nest deeper than usual: C code overflows where libraries allow it more."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(min(limit, USUAL))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _schema(values: Mapping[str, Any]) -> int:
    schema = values.get("schema_version")
    if schema is None:
        raise WrongValueError("schema_version", "is missing")
    if type(schema) is not int or schema < 1:
        raise WrongValueError("schema_version", f"should be a whole number from 1 to {SCHEMA}, not {schema!r:.40}")
    return schema


def _check_id(record: Record, path: Path) -> None:
    try:
        wanted = record.identity.id
    except ValueError as error:  # NaN and infinity, which records never hold
        raise WrongValueError("identity", f"has no digest ({error})") from None
    if record.id != wanted:
        raise WrongValueError("id", f"should be {wanted}, the digest of the identity, not {record.id!r:.66}")
    if path.stem != wanted:
        raise WrongValueError("id", f"should be the name of the file, not {record.id!r:.66}")


def _check_numbers(record: Record) -> None:
    for name in record.impossible:
        raise WrongValueError(f"metrics.{name}", f"cannot be {record.metrics[name]!r}")


def check_seal(key: str, seal: object, content: Mapping[str, Any]) -> None:
    """Refuse a file whose last key, the digest of all others, is not that; older files have none.

    Raises:
        WrongValueError: something in the file was changed.
    """
    try:
        changed = seal is not None and seal != digest(content)
    except ValueError:  # NaN and infinity, which records never hold
        changed = True
    if changed:
        raise WrongValueError(key, "is not the digest of the others: something in the file was changed by hand")


def read_arrays(path: str | Path) -> "dict[str, np.ndarray]":
    """The per-point arrays that belong to a record's JSON; none where the run failed.

    Raises:
        MarginbenchError: as `read_record`.
    """
    path = Path(path).expanduser()
    return dict(arrays_of(path, read_record(path, check_arrays=False)))


def arrays_of(path: Path, record: Record) -> "Mapping[str, np.ndarray]":
    """As `read_arrays`, of a record that was read from this path; each array is unpacked when it is asked for."""
    import numpy as np

    if record.arrays_sha256 is None:
        return {}
    file: Mapping[str, np.ndarray] = np.load(io.BytesIO(_array_bytes(path, record)), allow_pickle=False)
    return file


def _array_bytes(path: Path, record: Record) -> bytes:
    arrays = path.with_suffix(".npz")
    try:
        content = arrays.read_bytes()
    except OSError as error:
        raise MarginbenchError(f"record {path}: {arrays.name}: {error.strerror}: {AGAIN}") from None
    if hashlib.sha256(content).hexdigest() != record.arrays_sha256:
        raise MarginbenchError(f"record {path}: {arrays.name} is not the file that was written: {AGAIN}")
    return content


def record_paths(folders: Iterable[str | Path]) -> list[Path]:
    """All record files below the folders, sorted; a folder may be an output folder, a suite's or `runs` itself.

    Raises:
        MarginbenchError: no such folder.
    """
    found: set[Path] = set()
    for folder in (Path(folder).expanduser() for folder in folders):
        if not folder.is_dir():
            raise MarginbenchError(f"{folder}: {'is a file, no folder' if folder.exists() else 'no such folder'}")
        runs = [folder] if folder.name == "runs" else folder.rglob("runs")
        found.update(path for run in runs for path in run.glob("*.json") if not path.name.startswith("."))
    return sorted(found)


def read_folders(folders: Iterable[str | Path], *, strict: bool = False, check_arrays: bool = False) -> Reading:
    """Read all records below the folders. Of a run that appears twice, the first by `precedence` counts.

    Args:
        strict: raise if a file cannot be read, and check all arrays.
        check_arrays: see `read_record`.

    Raises:
        MarginbenchError: no such folder; with `strict`, a record that `read_record` refuses.
    """
    records: dict[str, tuple[Path, Record]] = {}
    problems = {}
    refused = Problems()
    for path in record_paths(folders):
        try:
            record = read_record(path, check_arrays=check_arrays or strict)
        except MarginbenchError as error:
            problems[path] = str(error)
            refused.add(str(error))
        else:
            _, known = records.get(record.id, (path, record))
            if precedence(record) >= precedence(known):
                records[record.id] = path, record
    if strict:
        refused.report()
    return Reading(dict(records.values()), problems)


def read_records(folders: Iterable[str | Path], *, strict: bool = False) -> list[Record]:
    """The records below the folders. Files that cannot be read are skipped, with one warning that names them all.

    Args:
        strict: raise if there are any, and check all arrays.

    Raises:
        MarginbenchError: no such folder; with `strict`, a record that cannot be read.
    """
    reading = read_folders(folders, strict=strict)
    reading.warn()
    return list(reading.records.values())
