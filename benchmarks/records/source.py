"""What functions for notebooks take records from: folders, a frame of them, or records themselves."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from marginbench.benchmarks.records.current import distinct
from marginbench.benchmarks.records.reader import Reading, read_folders, read_record
from marginbench.benchmarks.records.record import Record
from marginbench.methods.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd

Source: TypeAlias = "str | Path | Iterable[str | Path] | Iterable[Record] | pd.DataFrame | Reading"


def reading_of(source: Source, *, strict: bool = False, arrays: bool = False) -> Reading:
    """The records of a source, with a warning where files cannot be read.

    Args:
        source: an output folder, several of them, a frame of `load`, records, such as those of the outcome of
            `run_all`, or what `read_folders` gives. Of records it is not known where their arrays lie: they have none.
        strict: raise where a file cannot be read, and check the files of all arrays.
        arrays: they are needed, so records alone will not do.

    Raises:
        MarginbenchError: no such folder; with `strict`, a record that cannot be read.
        ParameterError: `source` is something else, or records alone where arrays are needed.
    """
    import pandas as pd

    if isinstance(source, Reading):
        return source
    if isinstance(source, pd.DataFrame):
        if "path" not in source:
            raise ParameterError("source", "DataFrame", "this frame has no column `path`, as those of `load` have")
        return Reading({Path(path): read_record(path, check_arrays=strict) for path in source["path"]}, {})
    items = list(source) if isinstance(source, Iterable) and not isinstance(source, str) else [source]
    folders = [item for item in items if isinstance(item, str | Path)]
    records = [item for item in items if isinstance(item, Record)]
    if len(folders) == len(items):
        found = read_folders(folders, strict=strict)
        found.warn()
        return found
    if len(records) == len(items):
        if arrays:
            raise ParameterError("source", "records", "the arrays beside them are needed: pass their folder")
        return Reading({Path(item.id): replace(item, arrays_sha256=None) for item in distinct(records)}, {})
    problem = "should be folders, a frame of `load`, or records, as in leaderboard('results/local')"
    raise ParameterError("source", type(source).__name__, problem)
