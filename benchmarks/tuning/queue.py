"""The trials that can be done now: one of each row in progress, since the next one depends on it."""

import glob
import logging
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from marginbench.benchmarks.machine.files import digest
from marginbench.benchmarks.records.choice import choose
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.settings import SETTINGS, write_setting
from marginbench.benchmarks.records.training import Training
from marginbench.benchmarks.records.tuning import Trial, Tuning
from marginbench.benchmarks.runs.job import now
from marginbench.benchmarks.runs.plan import Cell, Row
from marginbench.benchmarks.tuning.judge import Judge
from marginbench.benchmarks.tuning.progress import TrialProgress
from marginbench.benchmarks.tuning.setting import About, setting_of
from marginbench.benchmarks.tuning.space import Space, space_of
from marginbench.benchmarks.tuning.study import Protocol, Study
from marginbench.benchmarks.tuning.work import STUDIES, Work
from marginbench.methods import MarginbenchError, Method, spec_of
from marginbench.methods.code import source_of

log = logging.getLogger(__name__)
UNLIKE = "another version of the suite or the method, or another floor"
PAUSE = 1.0  # seconds until a trial that another process holds is looked at again


@dataclass
class _Open:
    """A row in progress, which this process holds."""

    protocol: Protocol
    space: Space
    study: Study
    held: ExitStack  # its lock
    first: dict[str, Trial] = field(default_factory=dict)  # by setting, the trial that had it first
    point: dict[str, Any] = field(default_factory=dict)  # of the trial in progress
    trial: Trial | None = None  # the trial in progress, without what came out

    @property
    def name(self) -> str:
        return self.protocol.row


class Queue:
    """The rows of a tuning, some of them in progress.

    Args:
        most: rows in progress at a time: another process may take the others.
    """

    def __init__(self, work: Work, judge: Judge, progress: TrialProgress, most: int) -> None:
        self._work, self._judge, self._progress, self._most = work, judge, progress, most
        self._waiting = deque(work.rows)
        self._active: dict[str, tuple[Cell, list[_Open]]] = {}  # by id of the cell
        self._about = About(work.options, work.suite, judge, work.repetition)
        self.todo: deque[Cell] = deque()
        self.done = 0  # trials
        self.settings: list[Tuning] = []
        self.files: list[Path] = []
        self.elsewhere: list[str] = []
        self.hopeless: dict[str, str] = {}

    def __enter__(self) -> "Queue":
        self._fill()
        return self

    def __exit__(self, *_: object) -> None:
        for row in self._rows():
            row.held.close()

    def ended(self, record: Record | Training | None) -> None:
        """Take the record of a trial, and put what it makes possible into `todo`.

        Args:
            record: None for one that another process holds.
        """
        if record is None:
            time.sleep(PAUSE)
            waiting = {cell.id for cell in self.todo}
            self.todo.extend(cell for cell, _ in self._active.values() if cell.id not in waiting)
            return
        assert isinstance(record, Record)
        _, rows = self._active.pop(record.id, (None, []))
        for row in rows:
            self._tell(row, record)
            self._go_on(row)
        self._fill()

    def _rows(self) -> Iterator[_Open]:
        for _, rows in self._active.values():
            yield from rows

    def _fill(self) -> None:
        while self._waiting and len(list(self._rows())) < self._most:
            method, held = self._waiting.popleft(), ExitStack()
            name = spec_of(method)
            if not held.enter_context(self._work.lock(name)):
                self.elsewhere.append(name)
                self._progress.dropped(name)
                continue
            try:
                row = self._open(method, held)
                self._go_on(row)
            except BaseException:
                held.close()
                raise

    def _open(self, method: Method, held: ExitStack) -> _Open:
        options, suite = self._work.options, self._work.suite
        space = space_of(method, suite, options.recipe)
        protocol = Protocol(
            row=spec_of(method),
            **self._work.rules,
            revision=method.info.revision,
            source=source_of(type(method)),
            objective=options.objective,
            norm=options.norm_asked,
            floor=self._judge.floor if options.objective == "robust_accuracy" else None,
            directions=self._judge.directions,
            sampler=options.sampler,
            seed=options.seed,
            space=space.in_words(),
            default=dict(space.default),
        )
        name = file_name(protocol.row)
        path = self._work.folder / STUDIES / f"{name}-{protocol.id[:8]}.journal"
        if not path.exists() and (others := [*path.parent.glob(f"{glob.escape(name)}-????????.journal")]):
            log.warning("row %s: begun anew, as the trials in %s had %s", protocol.row, others[0], UNLIKE)
        row = _Open(protocol, space, Study(path, protocol, space), held)
        for trial in row.study.ended:
            row.first.setdefault(trial.setting, trial)
            if trial.number < options.trials:
                self._progress.known(row.name, trial)
        return row

    def _go_on(self, row: _Open) -> None:
        """Draw trials until one has to be done, or there are as many as were asked for."""
        while True:
            number, row.point = row.study.next()
            if number >= self._work.options.trials:
                self._close(row)
                return
            row.trial = Trial(number=number, method=f"{row.name} with {row.point}", status="failed", finished=now())
            try:
                method, recipe = row.space.setting(row.point)
            except MarginbenchError as error:
                self._add(row, replace(row.trial, error=str(error)))
                continue
            row.trial = replace(row.trial, method=spec_of(method), recipe=recipe)
            before = row.first.get(row.trial.setting)
            if before is not None:
                same = replace(before, number=number, seconds=0.0, passes=0.0, repeats=before.number, finished=now())
                self._add(row, same)
                continue
            cell = self._work.cell(Row(method, recipe))
            record = self._work.known(cell)
            if record is None:
                if cell.id not in self._active:
                    self._active[cell.id] = cell, []
                    self.todo.append(cell)
                self._active[cell.id][1].append(row)
                return
            self._tell(row, record)

    def _tell(self, row: _Open, record: Record) -> None:
        assert row.trial is not None
        if record.status == "failed":
            self._add(row, replace(row.trial, error=record.error, seconds=record.total_seconds, finished=now()))
            return
        clean, robust = self._judge.accuracies(record)
        cost = record.cost
        passes = ((cost.get("forward") or 0.0) + (cost.get("backward") or 0.0)) * (cost.get("steps") or 0.0)
        values = self._judge.values(clean, robust)
        done = replace(
            row.trial,
            status="done",
            value=values[0] if len(values) == 1 else None,
            clean_accuracy=clean,
            robust_accuracy=robust,
            seconds=round(record.total_seconds, 3),
            passes=passes,
            finished=now(),
        )
        self._add(row, done)

    def _add(self, row: _Open, trial: Trial) -> None:
        if trial.status == "failed":
            values: Sequence[float] = self._judge.failed
        else:
            assert trial.clean_accuracy is not None
            values = self._judge.values(trial.clean_accuracy, trial.robust_accuracy)
        row.study.tell(trial, row.point, values)
        row.first.setdefault(trial.setting, trial)
        self.done += 1
        best = None
        if any(known.status == "done" for known in row.study.ended):
            judge = self._judge
            best, _ = choose(row.study.ended, judge.objective, judge.floor, self._work.options.rule)
        self._progress.ended(row.name, trial, best)

    def _close(self, row: _Open) -> None:
        try:
            tuning = setting_of(row.study, row.protocol, row.space, self._about)
        except MarginbenchError as error:
            self.hopeless[row.name] = str(error)
        else:
            path = self._work.folder / SETTINGS / f"{file_name(row.name)}.toml"
            write_setting(path, tuning)
            self.settings.append(tuning)
            self.files.append(path)
        row.held.close()


def file_name(row: str) -> str:
    """The name of a row as that of a file, without suffix."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", row)
    return plain if plain == row else f"{plain[:60]}-{digest(row)[:8]}"
