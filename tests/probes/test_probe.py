"""What every probe keeps to: arrays of a value for each image, a column for each metric, a note of a sentence."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from marginbench.benchmarks.contract.fixtures import small_suite
from marginbench.benchmarks.evaluation.canaries import linear
from marginbench.benchmarks.probes.scan import PROBES, Probe, Subject, probe
from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.runs.measure import derived_metrics
from marginbench.benchmarks.suites.evaluation import Evaluation, check_estimators
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import MarginbenchError, Net, Norm
from marginbench.methods.errors import Problems

EPSILON: dict[Norm, float] = {"linf": 0.05, "l2": 0.25}
SETTINGS: dict[str, dict[str, Any]] = {
    # in the order of their columns
    "rejection": {"tpr": 0.9, "steps": 3},
    "smoothing": {"sigma": 0.1, "n": 50},
    "clever": {"radius": EPSILON, "points": 5, "batches": 10, "samples": 4},
    "linearised_margin": {"points": 30},
    "constrained_margin": {"points": 20, "sample": 40},
}


@pytest.mark.parametrize("key", SETTINGS)
def test_arrays_metrics_columns_and_note_fit(key: str) -> None:
    canary = linear()
    subject = Subject(canary.net.requires_grad_(False), *[canary.data.test] * 3, EPSILON, seed=1)
    made = PROBES[key](**SETTINGS[key])
    found, again = made.measure(subject), made.measure(subject)
    for name, values in found.items():
        assert values.shape in ((), (64,)) or name.endswith(("_train", "_held_out")), name
        torch.testing.assert_close(values, again[name], equal_nan=True)
    with torch.no_grad():
        prediction = canary.net(canary.data.test.images(slice(None))).argmax(1)
    arrays = {name: values.numpy() for name, values in found.items()}
    metrics = made.metrics(arrays | {"label": canary.data.test.y.numpy(), "prediction": prediction.numpy()}, EPSILON)
    assert set(metrics) >= {column.name for column in made.columns}
    assert all(column.header.format(**EPSILON) and column.meaning.endswith(".") for column in made.columns)
    if any(column.on_page for column in made.columns):
        assert made.note(EPSILON).endswith(".")


class Constant(nn.Module):
    """The same logits for every image, without a graph to it."""

    def forward(self, phi: Tensor) -> Tensor:
        return torch.eye(4)[0].expand(len(phi), 4)


@pytest.mark.parametrize("key", SETTINGS)
def test_a_network_that_ignores_its_input_is_measured(key: str) -> None:
    canary = linear()
    net = Net(canary.net.normalise, canary.net.body, Constant()).eval()
    test = replace(canary.data.test, y=torch.zeros_like(canary.data.test.y))
    found = PROBES[key](**SETTINGS[key]).measure(Subject(net, test, test, test, EPSILON, seed=1))
    assert found and all(
        values.shape in ((), (64,)) or name.endswith(("_train", "_held_out")) for name, values in found.items()
    )


@pytest.mark.parametrize("name", ["digits", "digits_exact", "digits_smooth"])
def test_pages_show_the_headers_and_the_note(name: str) -> None:
    page = (Path(__file__).parents[2] / "results" / "reference" / name / "leaderboard.md").read_text()
    evaluation = load_suite(name).evaluation
    probes = evaluation.probes.values()
    notes = [note for made in probes if (note := made.note(evaluation.epsilon))]
    assert notes and all(f"- {note}\n" in page for note in notes)
    columns = [column for made in probes for column in made.columns if column.on_page]
    headers = [column.header.format(**evaluation.epsilon) for column in columns]
    assert len(headers) >= 2 and all(header in page for header in headers)


def test_their_columns_have_an_order() -> None:
    assert sorted(SETTINGS, key=lambda key: PROBES[key].rank) == list(SETTINGS)


def test_a_probe_without_columns_is_refused() -> None:
    class Bare(Probe):
        key = "bare"

    with pytest.raises(MarginbenchError, match="Bare: a probe has columns"):
        probe(Bare)
    assert "bare" not in PROBES


class Single(Probe):
    """One metric, which is what the test says."""

    key = "single"
    columns = (Column("single_value", "single"),)
    value: Any = None

    def metrics(self, arrays: Any, epsilon: Any) -> Any:
        return {"single_value": self.value}


ARRAYS = {
    "label": np.zeros(2, int),
    "prediction": np.zeros(2, int),
    "output_margin": np.ones(2),
    "feature_margin": np.ones(2),
} | {f"{end}_{norm}": np.ones(2) for end in ("upper", "lower") for norm in ("l2", "linf")}


def with_probe(monkeypatch: pytest.MonkeyPatch, made: type[Probe], **settings: Any) -> Evaluation:
    monkeypatch.setitem(PROBES, made.key, made)
    return Evaluation(**small_suite().evaluation.model_dump(exclude_none=True), **{made.key: settings})


@pytest.mark.parametrize("value", [2, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0)])
def test_a_metric_is_a_number_of_any_library(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    found = derived_metrics(ARRAYS, with_probe(monkeypatch, Single, value=value), {})["single_value"]
    assert type(found) is float and found == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "None"), (True, "a bool"), ("much", "a str"), (torch.ones(2), r"a tensor \[2\] float32")],
)
def test_a_metric_that_is_no_number_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: Any, words: str) -> None:
    evaluation = with_probe(monkeypatch, Single, value=value)
    with pytest.raises(MarginbenchError, match=rf"^probe 'single': the metric 'single_value' is {words}: it must be"):
        derived_metrics(ARRAYS, evaluation, {})


@pytest.mark.parametrize(("found", "words"), [(None, "None"), ({"another": 1.0}, "another")])
def test_a_column_without_its_metric_is_named(monkeypatch: pytest.MonkeyPatch, found: Any, words: str) -> None:
    monkeypatch.setattr(Single, "metrics", lambda *_: found)
    with pytest.raises(MarginbenchError, match=rf"^probe 'single': metrics\(\) gives {words}, and not single_value,"):
        derived_metrics(ARRAYS, with_probe(monkeypatch, Single), {})


@pytest.mark.parametrize(
    ("name", "header", "taken"),
    [
        ("rank", "my rank", "rank"),
        ("my_rank", "rank", "rank"),
        ("my_cost", "to ce", "to ce"),
        ("cost", "my cost", "cost"),
        ("n", "my n", "n"),
        ("robust_accuracy_l2_p", "my p", "robust_accuracy_l2_p"),
        ("clean_accuracy_ci95", "width", "clean_accuracy_ci95"),
        ("clever_l2", "mine", "clever_l2"),
    ],
)
def test_columns_that_tables_have_already_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, header: str, taken: str
) -> None:
    """Their values would be dropped, or take the meaning of the other."""

    class Named(Probe):
        key = "named"
        columns = (Column(name, header),)

    monkeypatch.setitem(PROBES, "named", Named)
    given = load_suite("digits_exact").evaluation.model_dump(exclude_none=True)
    problems = Problems()
    check_estimators(Evaluation(**given, named={}), problems)
    with pytest.raises(MarginbenchError, match=rf"^evaluation\.named: tables have a column '{taken}' already"):
        problems.report()
