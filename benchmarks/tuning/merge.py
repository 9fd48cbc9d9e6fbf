"""The trials of another machine: what a tuning there has done counts here."""

import logging
from pathlib import Path

from marginbench.benchmarks.machine.files import write_atomically
from marginbench.benchmarks.records.training import NETWORKS
from marginbench.benchmarks.tuning.study import ended_in
from marginbench.benchmarks.tuning.work import STUDIES, TRIALS
from marginbench.methods.errors import ParameterError

log = logging.getLogger(__name__)
ONGOING = (".lock", ".ckpt", ".partial")  # ends of the names of files that runs in progress leave


def merge(theirs: Path, ours: Path) -> None:
    """Take over the studies of another tuning folder, with the records and networks of their trials.

    Trials depend on the row, the options and their number alone: of a row that both have, the longer study counts.

    Args:
        theirs, ours: folders of tunings with the same options.

    Raises:
        ParameterError: there is no such tuning.
        MarginbenchError: a study cannot be read, or the folder here cannot be written.
    """
    if not (theirs / STUDIES).is_dir():
        problem = f"has no tuning with these options: there is no {theirs / STUDIES}"
        raise ParameterError("merge", str(theirs.parents[2]), problem)
    for source, target in ((theirs / TRIALS, ours / TRIALS), (theirs.parent / NETWORKS, ours.parent / NETWORKS)):
        for file in sorted(source.glob("[!.]*")):
            if file.suffix not in ONGOING and not (target / file.name).exists():
                write_atomically(target / file.name, file.read_bytes())
    taken = 0
    for journal in sorted((theirs / STUDIES).glob("*.journal")):
        here = ours / STUDIES / journal.name
        if not here.exists() or ended_in(here) < ended_in(journal):
            write_atomically(here, journal.read_bytes())
            taken += 1
    log.info("took over %d studies of %s", taken, theirs)
