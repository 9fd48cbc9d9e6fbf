"""The order of runs: a table of all rows first, and within it what is cheap."""

from pathlib import Path

import pytest
import torch

from marginbench.benchmarks.contract.new_method import write_template
from marginbench.benchmarks.plugins import load_plugin
from marginbench.benchmarks.runs.order import in_order, operations
from marginbench.benchmarks.runs.plan import Cell, make_plan, take_shard
from marginbench.benchmarks.runs.rounds import Rounds
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import create, rows, spec_of

SPECS = ["mma", "pgd_at(steps=3)", "pgd_at", "ce", "arcface", "jacobian_reg"]
CHEAP_FIRST = ["ce", "arcface", "jacobian_reg", "pgd_at(steps=3)", "pgd_at", "mma"]


def plan(tiny: Path, specs: list[str], seeds: int) -> list[Cell]:
    return make_plan(load_suite(str(tiny)), [create(spec) for spec in specs], range(seeds), "data")


def names(cells: list[Cell]) -> list[tuple[int, str]]:
    return [(cell.repetition, spec_of(cell.method)) for cell in cells]


def test_cheap_rows_come_first_in_each_repetition(tiny: Path) -> None:
    expected = [(repetition, spec) for repetition in range(2) for spec in CHEAP_FIRST]
    assert names(in_order(plan(tiny, SPECS, 2))) == expected
    assert names(in_order(plan(tiny, SPECS[::-1], 2))) == expected


def test_shares_are_dealt_before_and_make_one_plan(tiny: Path) -> None:
    """None of the machines counts on the others' finding the same order."""
    cells = plan(tiny, SPECS, 3)
    parts = [in_order(take_shard(cells, f"{i}/4")) for i in range(1, 5)]
    assert sorted(cell.id for part in parts for cell in part) == sorted(cell.id for cell in cells)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_methods_of_the_user_follow_ce_and_are_not_executed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SystemExit("it may do anything")

    (cls,) = load_plugin(write_template("mine", tmp_path))
    monkeypatch.setattr(cls, "loss", refuse)
    assert operations(cls()) == 0
    order = [name for _, name in names(in_order(plan(tiny, ["pgd_at", "mine", "arcface", "ce"], 1)))]
    assert order == ["ce", "mine", "arcface", "pgd_at"]


def test_every_method_has_a_cost_and_counting_draws_nothing() -> None:
    before = torch.get_rng_state()
    costs = {spec: operations(create(spec)) for spec in rows()}
    assert torch.equal(before, torch.get_rng_state())
    assert min(costs.values()) == costs["ce"] > 0
    assert costs["convex_polytope"] > costs["crown_ibp"] > costs["ibp"] > costs["ce"], "bounds count too"


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_round_ends_with_its_last_row(tiny: Path, seeds: int) -> None:
    cells = plan(tiny, ["ce", "arcface"], seeds)
    rounds = Rounds(cells)
    told = [rounds.completed(cell) for cell in cells]  # type: ignore[arg-type]  # it asks for the repetition alone
    assert told == [False, True] * (seeds - 1) + [False, False], "the last one ends the call, which shows its table"
