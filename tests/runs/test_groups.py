"""Runs of a plan in groups, as on a GPU: the records of runs alone, whatever happens to one of them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from marginbench.benchmarks import RunOptions
from marginbench.benchmarks.contract.tape import Tape
from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.records.training import Training, find_training
from marginbench.benchmarks.runs import groups
from marginbench.benchmarks.runs.forecast import shared
from marginbench.benchmarks.runs.groups import Grouping, run_in_groups
from marginbench.benchmarks.runs.job import Job
from marginbench.benchmarks.runs.locks import holders, lock
from marginbench.benchmarks.runs.plan import Cell, make_plan
from marginbench.benchmarks.runs.work import Work
from marginbench.benchmarks.runs.workers import bundles
from marginbench.benchmarks.runs.workplace import Workplace, order
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.training.choice import Alone
from marginbench.benchmarks.training.together import train_together
from marginbench.methods import create, spec_of

Begun = list[list[str]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Alone]:
    """What trials find; trainings are recorded on tapes."""
    found: dict[str, Alone] = {}
    monkeypatch.setattr(groups.trial, "alone", lambda method, *_, compile: found.get(spec_of(method), Alone(1.0, 1)))
    monkeypatch.setattr(groups.trial, "growth", lambda _, __, ___, most: dict.fromkeys(range(1, most + 1), 1.0))
    monkeypatch.setattr(groups, "train_together", partial(train_together, recorder=Tape))
    return found


class Plan:
    """Cells of the tiny suite in a folder."""

    def __init__(self, tiny: Path, folder: Path, methods: str, seeds: int = 1, **options: Any) -> None:
        options = {"jobs": None, "only": "train", **options}
        self.job = Job(RunOptions(**options), load_suite(str(tiny)), folder / "runs", folder / "networks")
        self.data: Dataset = self.job.suite.load_data().to(torch.device("cpu"))
        specs = [create(spec) for spec in methods.split()]
        self.cells = make_plan(self.job.suite, specs, range(seeds), self.data.fingerprint)
        self.job.runs.mkdir(parents=True)
        self.told: list[tuple[str, str]] = []

    def run(self, cells: list[Cell] | None = None) -> tuple[dict[str, Record | Training], Begun]:
        """The records by row and seed, and the groups."""
        begun: Begun = []
        names = {cell.id: f"{spec_of(cell.method)} {cell.repetition}" for cell in self.cells}

        def note(run_id: str, where: str) -> None:
            self.told.append((names[run_id], where))

        found = run_in_groups([cells or self.cells], self.job, self.data, note, begun.append)
        records = {names[run_id]: record for run_id, record in found if record is not None}
        return records, [[names[run_id] for run_id in group] for group in begun]


def test_the_records_are_those_of_runs_alone(tiny: Path, tmp_path: Path, measured: dict[str, Alone]) -> None:
    measured["arcface"] = Alone(obstacle="it waits")
    together, apart = (Plan(tiny, tmp_path / name, "ce pmm arcface", 2) for name in ("together", "apart"))
    records, begun = together.run()
    assert begun == [["ce 0", "ce 1", "pmm 0", "pmm 1"], ["arcface 0"], ["arcface 1"]]
    alone = {name: record for cell in apart.cells for name, record in apart.run([cell])[0].items()}
    assert records.keys() == alone.keys()
    for name, record in records.items():
        assert record.losses == pytest.approx(alone[name].losses, rel=1e-4), "tensors for numbers of the schedule"
        assert record.cost["forward"] == alone[name].cost["forward"]
        assert record.cost["together"] == (1.0 if name.startswith("arcface") else 4.0)
    assert {name for name, where in together.told if where == "in epoch 2 of 2"} == records.keys()
    assert not list(tmp_path.rglob("*.lock")) and not list(tmp_path.rglob("*.ckpt"))


def test_a_run_that_has_ended_or_is_held_elsewhere_is_left_out(
    tiny: Path, tmp_path: Path, measured: dict[str, Alone]
) -> None:
    plan = Plan(tiny, tmp_path, "ce pmm", 2)
    plan.run(plan.cells[:1])
    held = next(cell for cell in plan.cells if spec_of(cell.method) == "pmm" and cell.repetition == 0)
    plan.job.networks.mkdir(exist_ok=True)
    with lock(plan.job.networks, held.training.id, "pmm", 0):
        records, begun = plan.run()
    assert begun[0] == ["ce 0"] and len(begun[1]) == 3
    assert records.keys() == {"ce 0", "ce 1", "pmm 1"}
    assert records["ce 1"].cost["together"] == 2.0
    assert plan.run()[0].keys() == {"ce 0", "ce 1", "pmm 0", "pmm 1"}


@pytest.mark.parametrize("options", [{"eager": True}, {"only": "evaluate"}])
def test_some_options_leave_nothing_to_group(
    tiny: Path, tmp_path: Path, measured: dict[str, Alone], options: dict[str, Any]
) -> None:
    plan = Plan(tiny, tmp_path, "ce pmm", **options)
    assert [len(Grouping(plan.job, plan.data).next(plan.cells[i:])) for i in (0, 1)] == [1, 1]


def test_jobs_limit_a_group(tiny: Path, tmp_path: Path, measured: dict[str, Alone]) -> None:
    plan = Plan(tiny, tmp_path, "ce", 5)
    for jobs, size in ((1, 1), (3, 3), (None, 5)):
        job = Job(RunOptions(jobs=jobs, only="train"), plan.job.suite, plan.job.runs, plan.job.networks)
        assert len(Grouping(job, plan.data).next(plan.cells)) == size


def test_a_deadline_counts_what_a_run_is_charged_for(tiny: Path, tmp_path: Path, measured: dict[str, Alone]) -> None:
    """Its training has failed as alone, and so has its run."""
    plan = Plan(tiny, tmp_path, "ce pmm", only=None, deadline=1e-9)
    records, _ = plan.run()
    assert all(record.status == "failed" and "in epoch 1 of 2" in str(record.error) for record in records.values())
    assert len(list(plan.job.networks.glob("*.ckpt"))) == 2, "with more time they go on from there"


def test_locks_say_how_many_are_together(
    tiny: Path, tmp_path: Path, measured: dict[str, Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plan = Plan(tiny, tmp_path, "ce pmm")

    def look(*arguments: Any) -> Any:
        seen.extend(holder.together for holder in holders(plan.job.networks).values())
        return iter(())

    monkeypatch.setattr(groups, "train_together", look)
    plan.run()
    assert seen[:2] == [2, 2]


def test_without_a_result_of_the_group_a_run_is_done_alone(
    tiny: Path, tmp_path: Path, measured: dict[str, Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when memory ran out beside the others."""
    monkeypatch.setattr(groups, "train_together", lambda *_: iter(()))
    records, _ = Plan(tiny, tmp_path, "ce pmm").run()
    assert [record.cost["together"] for record in records.values()] == [1.0, 1.0]


def test_each_gpu_begins_elsewhere_and_may_do_all(tiny: Path, tmp_path: Path) -> None:
    cells = Plan(tiny, tmp_path, "ce pmm", 2).cells
    gpu = torch.device("cuda")
    assert bundles(cells, 2, gpu) == [cells, cells[2:] + cells[:2]]
    assert bundles(cells, 1, torch.device("cpu")) == [[cell] for cell in cells]
    assert bundles([], 2, gpu) == []


def test_a_worker_tells_what_it_begins(tiny: Path, tmp_path: Path) -> None:
    plan, begun = Plan(tiny, tmp_path, "ce pmm"), list[list[str]]()
    place = Workplace(plan.job, plan.data)
    records = dict(place.work_all([order(cell) for cell in plan.cells], begun.append, lambda *_: None))
    assert begun == [[cell.id] for cell in plan.cells] and records.keys() == {cell.id for cell in plan.cells}
    assert all(find_training(plan.job.networks, cell.training.id) is not None for cell in plan.cells)


def test_a_forecast_divides_the_time_of_a_group(
    tiny: Path, tmp_path: Path, measured: dict[str, Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups.trial, "growth", lambda *_: {1: 4.0, 2: 5.0, 3: 6.0})
    measured |= {"ce": Alone(1.0, 10**9), "pmm": Alone(1.0, 10**9), "arcface": Alone(obstacle="it waits")}
    plan = Plan(tiny, tmp_path, "ce pmm arcface")
    monkeypatch.setattr(groups, "available", lambda _: 10**10)
    work = Work(plan.job, plan.data, plan.data.train.device, tmp_path, plan.cells, plan.cells, {})
    grouping = Grouping(plan.job, plan.data)
    words = "2 trainings at once, 1.6 times as fast as one by one, with 2 GB"
    assert shared(16.0, plan.cells[1], work, grouping) == (10.0, words)
    assert shared(16.0, plan.cells[2], work, grouping) == (16.0, "")
