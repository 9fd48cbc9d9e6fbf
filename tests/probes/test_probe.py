"""What every probe keeps to: arrays of a value for each image, a column for each metric, a note of a sentence."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from marginbench.benchmarks.evaluation.canaries import linear
from marginbench.benchmarks.probes.scan import PROBES, Probe, Subject, probe
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import MarginbenchError, Net, Norm

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
        assert values.shape in ((), (64,)) or name.endswith("_train"), name
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
    assert found and all(values.shape in ((), (64,)) or name.endswith("_train") for name, values in found.items())


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
