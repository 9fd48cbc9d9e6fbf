"""The row that is known: what it expects is right, and faults anywhere on the way to the table are named."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from mutants import mutated
from torch import Tensor

from marginbench.benchmarks.certificates.scan import CERTIFICATES, Needs
from marginbench.benchmarks.data import dataset, sources
from marginbench.benchmarks.estimator import Answer
from marginbench.benchmarks.evaluation.evidence import Evidence
from marginbench.benchmarks.models import known_numbers, known_row
from marginbench.benchmarks.models.known_numbers import examine_numbers
from marginbench.benchmarks.models.known_row import examine_row, expected
from marginbench.benchmarks.probes import (
    _confident_attack,
    clever,
    constrained_margin,
    linearised_margin,
    rejection,
    smoothing,
)
from marginbench.benchmarks.records import metrics
from marginbench.benchmarks.runs import measure
from marginbench.benchmarks.statistics import pairwise
from marginbench.benchmarks.tables import cells, columns, leaderboard
from marginbench.methods.net import Normalise

CPU = torch.device("cpu")
Plant = Callable[[pytest.MonkeyPatch], None]


def faults() -> dict[str, str]:
    return {r.estimator: r.verdict for r in examine_row(CPU) if r.verdict != "pass"}


def test_nothing_is_wrong() -> None:
    results = list(examine_row(CPU))
    assert [r.verdict for r in results] == ["pass"] * len(results)
    assert {"robust_accuracy_l2", "smoothed_radius_l2", "clever_linf", "page, clean %", "at the radius itself"} <= {
        r.estimator for r in results
    }


def test_without_the_package_of_a_certificate_its_cells_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = Needs("no_such_package", "install it")
    without = replace(CERTIFICATES["ibp"], needs=needs, function=lambda q: Answer(reason=needs.advice))
    monkeypatch.setitem(CERTIFICATES, "ibp", without)
    results = {r.estimator: r.verdict for r in examine_row(CPU)}
    assert set(results.values()) == {"pass"}
    assert "certified_accuracy_l2" not in results and "page, margin L2" in results


def test_every_number_is_another() -> None:
    """Two columns that are swapped show, except where a number is 0."""
    cells = [cell for name, cell in expected().items() if name not in ("failed", "unattacked_l2", "unattacked_linf")]
    overlapping = [(a, b) for i, a in enumerate(cells) for b in cells[i + 1 :] if a[0] <= b[1] and b[0] <= a[1]]
    smoothed = [
        expected()[name] for name in ("smoothed_accuracy", "smoothed_certified_accuracy_l2", "smoothed_radius_l2")
    ]
    assert [pair for pair in overlapping if pair[0] not in smoothed and pair[1] not in smoothed] == []


def swapped(where: Any, name: str, one: str, two: str) -> Plant:
    """A function that returns a dict gives the values of two keys for each other, in both norms."""
    honest = getattr(where, name)

    def plant(patch: pytest.MonkeyPatch) -> None:
        def swap(*arguments: Any, **rest: Any) -> Any:
            out = honest(*arguments, **rest)
            for end in ("_l2", "_linf") if not one.endswith(("l2", "linf")) else ("",):
                out[one + end], out[two + end] = out[two + end], out[one + end]
            return out

        patch.setattr(where, name, swap)

    return plant


def twin(where: Any, name: str, old: str, new: str) -> Plant:
    return lambda patch: patch.setattr(where, name, mutated(getattr(where, name), old, new))


def wrong_norms_of_a_table(patch: pytest.MonkeyPatch) -> None:
    honest = leaderboard.Row.mean
    other = {"l2": "linf", "linf": "l2"}

    def mean(self: Any, name: str) -> Any:
        stem, _, norm = name.rpartition("_")
        return honest(self, f"{stem}_{other[norm]}" if norm in other else name)

    patch.setattr(leaderboard.Row, "mean", mean)


def shown_under_wrong_heads(patch: pytest.MonkeyPatch) -> None:
    honest = cells._measured

    def measured(ends: Any, board: Any, epsilon: Any) -> Any:
        return honest(ends[::-1], board, epsilon)

    patch.setattr(cells, "_measured", measured)


def wrong_normalisation(patch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return (x - self.std) / self.mean

    patch.setattr(Normalise, "forward", forward)


def other_channels(patch: pytest.MonkeyPatch) -> None:
    honest = sources.find

    def find(*arguments: Any) -> Any:
        found = honest(*arguments)
        found.x_test[:] = found.x_test[:, ::-1].copy()
        return found

    patch.setattr(dataset, "find", find)


def shifted_labels(patch: pytest.MonkeyPatch) -> None:
    honest = sources.find

    def find(*arguments: Any) -> Any:
        found = honest(*arguments)
        found.y_test[:] = (found.y_test + 1) % 2
        return found

    patch.setattr(dataset, "find", find)


MUTANTS: dict[str, tuple[Plant, str]] = {
    "robust accuracies swapped": (
        swapped(measure, "summarise", "robust_accuracy_l2", "robust_accuracy_linf"),
        "robust_accuracy_l2",
    ),
    "robust and certified swapped": (
        swapped(measure, "summarise", "robust_accuracy", "certified_accuracy"),
        "certified_accuracy_linf",
    ),
    "lower and upper swapped": (swapped(measure, "summarise", "margin_lower", "margin_upper"), "margin_upper_l2"),
    "wrong points keep their distance": (
        twin(
            metrics, "per_point", 'out[f"margin_upper_{norm}"] = upper', 'out[f"margin_upper_{norm}"] = upper[correct]'
        ),
        "margin_upper_linf",
    ),
    "robust at the radius itself": (twin(metrics, "per_point", "upper > epsilon", "upper >= epsilon"), "at the radius"),
    "not certified at the radius itself": (
        twin(metrics, "per_point", "lower >= epsilon", "lower > epsilon"),
        "at the radius",
    ),
    "sigma squared in the radius": (
        twin(smoothing, "_radius", "sigma * norm.ppf", "sigma**2 * norm.ppf"),
        "smoothed_radius_l2",
    ),
    "sigma squared in the noise": (
        twin(smoothing, "_votes", "block.normal_(0, noise.sigma", "block.normal_(0, noise.sigma**2"),
        "smoothed_radius_l2",
    ),
    "no confidence bound of the votes": (
        lambda patch: patch.setattr(smoothing, "lower_bound", lambda count, n, alpha: count / (n + 1)),
        "smoothed_radius_l2",
    ),
    "CLEVER in the wrong norm": (
        lambda patch: patch.setattr(
            clever.Clever, "_score", mutated(clever.Clever._score, 'norm == "linf" else 2', 'norm == "l2" else 2')
        ),
        "clever_linf",
    ),
    "the threshold of rejection": (
        lambda patch: patch.setattr(rejection, "threshold", lambda confidence, tpr: confidence.min() * 0.5),
        "rejection_rate",
    ),
    "rejection attacked with half the radius": (
        twin(_confident_attack, "_radius", "q.epsilon", "q.epsilon / 2"),
        "rejection_robust_accuracy_linf",
    ),
    "images divided by 256": (
        lambda patch: patch.setattr(
            dataset.Split, "images", mutated(dataset.Split.images, "/ self.levels", "/ (self.levels + 1)")
        ),
        "margin_upper_l2",
    ),
    "channels in another order": (other_channels, "output_margin"),
    "labels shifted by one": (shifted_labels, "clean_accuracy"),
    "mean and std swapped": (wrong_normalisation, "output_margin"),
    "norms swapped in the table": (wrong_norms_of_a_table, "robust_accuracy_l2"),
    "ends of an interval swapped on the page": (shown_under_wrong_heads, "page, margin L2"),
}


NUMBERS: dict[str, tuple[Plant, str]] = {
    "feature margins doubled": (
        twin(known_numbers, "output_margins", '"feature_margin"] = gap', '"feature_margin"] = 2 * gap'),
        "linear, feature_margin",
    ),
    "norms of linearised margins swapped": (
        twin(linearised_margin, "_length", 'norm == "linf"', 'norm == "l2"'),
        "linear, linearised_l2",
    ),
    "as many degrees of freedom as seeds": (
        twin(known_numbers, "mean_and_interval", "/ 2, n - 1)", "/ 2, n)"),
        "mean of three",
    ),
    "half of an interval of a difference": (
        twin(pairwise, "_cochran_cox", "half = critical(0.05)", "half = critical(0.05) / 2"),
        "difference of two rows",
    ),
    "no correction of p": (
        twin(known_numbers, "holm", "(len(tested) - rank) * p", "1 * p"),
        "Holm's correction",
    ),
    "twice the error of a bound": (
        twin(known_numbers, "lower_bound", "beta.ppf(alpha", "beta.ppf(2 * alpha"),
        "Clopper-Pearson",
    ),
    "components of images that are not centred": (
        twin(constrained_margin, "principal_components", "flat - flat.mean(0)", "flat"),
        "linear, constrained_train",
    ),
    "a caller of the bound with twice the error": (
        twin(smoothing, "smoothing_arrays", "n, alpha)", "n, 2 * alpha)"),
        "linear, smoothed_radius",
    ),
    "the mean gradient of a batch in CLEVER": (
        twin(clever.Clever, "_score", "dim=1).max()", "dim=1).mean()"),
        "a kink, clever_l2",
    ),
    "an attack on the reject option that need not win": (
        twin(_confident_attack, "sureness", "behind > 0", "behind > -torch.inf"),
        "small logits, wrong_confidence",
    ),
    "momentum down the slope": (
        twin(known_numbers, "settled", "steepest(velocity, q.norm)", "-steepest(velocity, q.norm)"),
        "small logits, wrong_confidence by momentum",
    ),
    "CLEVER in balls of a fifth of the radius": (
        twin(clever.Clever, "_score", "(self.samples,), radius)", "(self.samples,), 0.2 * radius)"),
        "a kink, clever_linf",
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_fault_in_a_number_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, cell = NUMBERS[name]
    assert {result.verdict for result in examine_numbers()} == {"pass"}
    plant(monkeypatch)
    assert cell in {result.estimator for result in examine_numbers() if result.verdict != "pass"}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_on_the_way_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, cell = MUTANTS[name]
    plant(monkeypatch)
    assert [found for found in faults() if found.startswith(cell)], faults()


@pytest.mark.parametrize(("module", "faulty"), [("marginbench.benchmarks.evaluation", True), ("my_doubt", False)])
def test_a_doubt_about_the_row_is_a_fault_unless_it_is_the_users(
    module: str, faulty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mine(_: Evidence) -> str:
        return "seen"

    mine.__module__ = module
    monkeypatch.setattr("marginbench.benchmarks.evaluation.evidence.DOUBTS", {"mine": mine})
    monkeypatch.setattr("marginbench.benchmarks.evaluation.sandwich.explanation", lambda name: "A doubt.")
    assert ("mine" in faults().get("doubts", "")) == faulty


def test_the_columns_checked_are_those_of_the_page() -> None:
    """A column that a page gains must be known too."""
    suite_columns = [column for column in columns.paged() if column.name != columns.COST.name]
    assert {column.name for column in suite_columns} <= expected().keys()
    assert known_row.ACTIVE == 72
