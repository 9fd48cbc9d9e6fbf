"""The trials of another machine: what a tuning there has done counts here."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from marginbench.benchmarks.machine.files import write_atomically
from marginbench.benchmarks.records.training import NETWORKS
from marginbench.benchmarks.tuning.study import ended_in, protocol_in
from marginbench.benchmarks.tuning.work import STUDIES, TRIALS, TUNING, Work
from marginbench.methods.errors import ParameterError
from marginbench.methods.words import counted

log = logging.getLogger(__name__)
ONGOING = (".lock", ".ckpt", ".partial")  # ends of the names of files that runs in progress leave
MEANS = {  # of what studies of one tuning have in common
    "trained_by": "the data, the network or the recipe",
    "data": "the images",
    "judged_by": "what is measured on validation images",
}


def merge(other: Path, work: Work) -> None:
    """Take over the studies of another output folder, with the records and networks of their trials.

    Trials depend on the row, the options and their number alone: of a row that both have, the longer study counts.

    Raises:
        ParameterError: there is no such folder, or no tuning in it with the suite and the options of this one.
        MarginbenchError: a study cannot be read, or the folder here cannot be written.
    """
    ours, suite = work.folder, work.suite.name
    theirs = other / suite / TUNING / ours.name
    if not other.is_dir():
        raise ParameterError("merge", str(other), "no such folder")
    if not (theirs / STUDIES).is_dir():
        raise ParameterError("merge", str(other), _without(other, suite, ours.name))
    journals = sorted((theirs / STUDIES).glob("*.journal"))
    _check(other, [protocol_in(journal) for journal in journals], work)
    for source, target in ((theirs / TRIALS, ours / TRIALS), (theirs.parent / NETWORKS, ours.parent / NETWORKS)):
        for file in sorted(source.glob("[!.]*")):
            if file.suffix not in ONGOING and not (target / file.name).exists():
                write_atomically(target / file.name, file.read_bytes())
    taken = 0
    for journal in journals:
        here = ours / STUDIES / journal.name
        if not here.exists() or ended_in(here) < ended_in(journal):
            write_atomically(here, journal.read_bytes())
            taken += 1
    log.info("took over %s of %s", counted(taken, "study", "studies"), theirs)


def _without(other: Path, suite: str, name: str) -> str:
    """What is in a folder that has not the tuning, and what to give instead."""
    there = sorted(path.parent.relative_to(other) for path in other.glob(f"*/{TUNING}/*/{STUDIES}"))
    if not there:
        return "holds no tuning: name the folder that was --out of `marginbench tune` there"
    of_suite = [path.name for path in there if path.parts[0] == suite]
    if not of_suite:
        names = ", ".join(dict.fromkeys(path.parts[0] for path in there))
        return f"holds tunings of suite {names}, and this one is of {suite}: give the same --suite and --set"
    return f"holds {', '.join(of_suite)} of suite {suite}, and this tuning is {name}: give the same options as there"


def _check(other: Path, theirs: Sequence[Mapping[str, object]], work: Work) -> None:
    """Complain where all studies have other rules, and would count for nothing here."""
    unlike = [[name for name, value in work.rules.items() if one.get(name) != value] for one in theirs if one]
    if unlike and all(unlike):
        problem = f"was tuned with another version of suite {work.suite.name}, in {MEANS[unlike[0][0]]}"
        raise ParameterError("merge", str(other), f"{problem}: tune both with the same files")
