"""The network of a run, where it was kept, with the images that it was evaluated on."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marginbench.benchmarks.figures.rows import Rows
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import NETWORKS as FOLDER
from marginbench.methods import MarginbenchError

if TYPE_CHECKING:
    from torch import Tensor

    from marginbench.benchmarks.data.dataset import Dataset
    from marginbench.benchmarks.suites.schema import Suite
    from marginbench.methods import Net


@dataclass(frozen=True)
class Kept:
    """Networks of one suite, and its data, which are loaded once."""

    rows: Rows
    data_dir: str | Path | None = None

    @cached_property
    def suite(self) -> "Suite":
        """As the records hold it."""
        from marginbench.benchmarks.suites.remake import remake

        return remake(self._record.suite.settings, Path())

    @cached_property
    def data(self) -> "Dataset":
        """The data set of the records.

        Raises:
            MarginbenchError: it is not found, or is another one.
        """
        data = self.suite.load_data(self.data_dir)
        if data.fingerprint != self._record.identity.data:
            raise MarginbenchError(
                f"suite {self.rows.suite}: the data here are not those of the records: see --data-dir"
            )
        return data

    def net(self, record: Record) -> "Net":
        """The network of a run.

        Raises:
            MarginbenchError: it was not kept; the message says how to get it.
        """
        from marginbench.benchmarks.training.load import load_network

        if missing := self.missing([record]):
            raise MarginbenchError(missing)
        return load_network(self._folder(record) / f"{record.identity.training}.json")[0]

    def missing(self, records: Sequence[Record]) -> str:
        """Which networks were not kept, and the command that trains them again; nothing where all were."""
        lost = [record for record in records if not self._is_kept(record)]
        if not lost:
            return ""
        names = " and ".join(dict.fromkeys(record.method for record in lost))
        what = (
            f"the network of {names}, seed {lost[0].repetition}, is" if len(lost) == 1 else f"networks of {names} are"
        )
        again = f"`{self._command(lost)}` trains {'it' if len(lost) == 1 else 'them'} again"
        return f"{what} not in {self._folder(lost[0])}: {again}"

    def _is_kept(self, record: Record) -> bool:
        training = record.identity.training
        return training is not None and (self._folder(record) / f"{training}.safetensors").is_file()

    def images(self, record: Record, places: Sequence[int] | None = None) -> "tuple[Tensor, Tensor]":
        """Images [n, C, H, W] float32 in [0, 1] of the evaluation, and labels [n] int64.

        Args:
            places: in the arrays of the record. Default: all.
        """
        import torch

        arrays = self.rows.arrays(record)
        index = torch.as_tensor(arrays["index"]) if "index" in arrays else torch.arange(len(arrays["label"]))
        test = self.data.test.rows(index if places is None else index[torch.as_tensor(places)])
        return test.images(slice(None)), test.y

    @property
    def _record(self) -> Record:
        return next(iter(self.rows.runs.values()))[0]

    def _folder(self, record: Record) -> Path:
        """`networks` of the output folder: beside the suites, whose `runs` hold the records."""
        path = self.rows.paths[record.id]
        homes = [parent / FOLDER for parent in path.parents[:3]]
        return next((home for home in homes if home.is_dir()), path.parents[min(2, len(path.parents) - 1)] / FOLDER)

    def _command(self, records: Sequence[Record]) -> str:
        name, *changes = records[0].suite.name.split("+")
        settings = [word for change in changes for word in ("--set", change)]
        tuned = any(record.tuning is not None for record in records)
        settings += ["--tuned", "DIR"] if tuned else []  # where `tune` has put its settings
        names = (record.method if record.tuning is None else record.tuning.row for record in records)
        methods = ["--methods", ",".join(dict.fromkeys(names))]
        seeds = ["--seeds", str(max(record.repetition for record in records) + 1)]
        out = ["--out", str(self._folder(records[0]).parent)]
        words = ["marginbench", "run-all", "--suite", name, *settings, *methods, *seeds, *out]
        return shlex.join([*words, "--only", "train"])


def common_seed(rows: Rows, names: Sequence[str]) -> Mapping[str, Record]:
    """Of each row the record of the first seed that all have.

    Raises:
        MarginbenchError: there is none.
    """
    runs: dict[str, dict[int, Record]] = {
        name: {record.repetition: record for record in rows.runs[name]} for name in names
    }
    common: Any = set.intersection(*(set(own) for own in runs.values()))
    if not common:
        raise MarginbenchError(f"suite {rows.suite}: {', '.join(names)} have no seed in common")
    return {name: own[min(common)] for name, own in runs.items()}
