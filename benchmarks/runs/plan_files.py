"""Plans as files in a suite's folder, from which `status` knows what is left."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from marginbench.benchmarks.machine.files import digest, write_atomically
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.suites.schema import Suite

PLANS = "plans"


class Planned(NamedTuple):
    """A run of a plan."""

    method: str  # name of its row
    repetition: int
    training: str  # id


def write_plan(folder: Path, suite: Suite, cells: Iterable[Cell]) -> None:
    """Note in a suite's folder what is to be done. Each plan has its own file: several processes may be at work."""
    todo = {cell.id: [cell.row.name, cell.repetition, cell.training.id] for cell in cells}
    content = {"suite": suite.fingerprint, "cells": todo}
    path = folder / PLANS / f"{digest(content)[:12]}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def read_plans(folder: Path) -> dict[str, Planned]:
    """By id of the evaluation, of all plans for the suite as it was when the newest of them was made."""
    plans = []
    for path in (folder / PLANS).glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # it is none, or is cut
            plans.append((path.stat().st_mtime, *_read(path)))
    plans.sort(key=lambda plan: plan[0])
    cells = [cells for _, suite, cells in plans if suite == plans[-1][1]]
    return {run_id: run for part in cells for run_id, run in part.items()}


def _read(path: Path) -> tuple[str, dict[str, Planned]]:
    """The suite's fingerprint, and the runs by id."""
    plan = json.loads(path.read_text(encoding="utf-8"))
    return plan["suite"], {
        run_id: Planned(str(spec), int(number), str(training))
        for run_id, (spec, number, training) in plan["cells"].items()
    }
