"""The report of a suite, written anew while its runs are done, as seeds become complete."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from marginbench.methods.errors import one_line

if TYPE_CHECKING:
    from marginbench.benchmarks.runs.work import Work

log = logging.getLogger(__name__)
NAME = "report.html"


class ReportFile:
    """`report.html` in the folder of a suite. A failure to write it is a warning: the runs go on.

    It is written between two runs by the process that shares them out, so that it never takes time of a measured one
    where there is no other process.
    """

    def __init__(self, work: "Work") -> None:
        self.path = work.folder / NAME
        self._folder, self._data_dir = work.folder, work.job.options.data_dir

    def write(self, features: Sequence[str] | None = None) -> Path | None:
        """Write it now.

        Args:
            features: rows whose features are shown, see `report`; their maps take longer, and can wait for the end.

        Returns:
            Its path; None where that failed.
        """
        from marginbench.benchmarks.reports.make import report

        try:
            return Path(report([self._folder], features=features, data_dir=self._data_dir).save(self.path))
        except Exception as error:  # it shows what is kept elsewhere
            log.warning("%s was not written: %s", self.path, one_line(error))
            return None
