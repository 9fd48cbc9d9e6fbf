"""Logits that are not finite: -inf is a class that never wins, NaN is no class at all."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_support import evaluated, no_certificate
from torch import Tensor, nn

from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.contract.fixtures import small_data
from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.evaluation.evaluated import Evaluated
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.probes.clever import Clever
from marginbench.benchmarks.probes.constrained_margin import ConstrainedMargin
from marginbench.benchmarks.probes.linearised_margin import LinearisedMargin
from marginbench.benchmarks.probes.probe import Probe, Subject
from marginbench.benchmarks.probes.rejection import Rejection
from marginbench.benchmarks.probes.smoothing import Smoothing
from marginbench.benchmarks.records.metrics import summarise
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.methods import NORMS, Net, logit_margin, predicted_class

NAN, INF = torch.nan, torch.inf
EPSILON: Any = {"linf": 0.05, "l2": 0.25}
SETTINGS = Evaluation(
    points=24,
    epsilon=EPSILON,
    attacks={name: {"steps": 8} if "steps" in of.settings else {} for name, of in ATTACKS.items()}
    | {"apgd_ce": {"original": True, "steps": 8}, "square": {"original": True}},
    certificates={"crown": {}, "ibp": {}, "lipschitz": {}},
)
PROBES: tuple[Probe, ...] = (
    Rejection(tpr=0.9, steps=5),
    Smoothing(sigma=0.1, n=50, n0=10),
    Clever(radius={"linf": 0.1, "l2": 0.5}, points=8, batches=5, samples=8),
    LinearisedMargin(points=40),
    ConstrainedMargin(points=20, sample=40),
)


def test_what_logits_predict() -> None:
    rows = [[0, 1, 2], [0, -INF, -1], [NAN, 1, 2], [0, INF, 1], [INF, 1, INF], [-INF, -INF, -INF], [INF, NAN, 0]]
    logits = torch.tensor(rows)
    assert predicted_class(logits).tolist() == [2, 0, -1, 1, -1, -1, -1]
    margin = logit_margin(logits, torch.tensor([2, 0, 2, 1, 0, 0, 0]))
    assert margin[:2].tolist() == [1, 1] and margin[3] == INF
    assert margin.isnan().tolist() == [False, False, True, False, True, True, True]


class Masked(nn.Module):
    """Code of its own that masks a class."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, z: Tensor) -> Tensor:
        return z.index_fill(1, torch.tensor([self.index], device=z.device), -INF)


def with_masked_class(net: Net, index: int, in_bias: bool) -> Net:
    """The network with a further class, of -inf."""
    old = net.get_parameter("head.weight"), net.get_parameter("head.bias")
    classes, width = old[0].shape
    head = nn.Linear(width, classes + 1)
    kept = torch.arange(classes + 1) != index
    with torch.no_grad():
        head.weight[kept], head.bias[kept] = old
        head.bias[index] = -INF if in_bias else 50.0
    return Net(net.normalise, net.body, head if in_bias else nn.Sequential(head, Masked(index))).eval()


def relabelled(data: Dataset, index: int) -> Dataset:
    """The data with an empty class at the index."""

    def shifted(split: Split) -> Split:
        return replace(split, y=split.y + (split.y >= index).long())

    splits = {name: shifted(getattr(data, name)) for name in ("train", "validation", "test")}
    return replace(data, **splits, num_classes=data.num_classes + 1)


@pytest.fixture(scope="module")
def plain(trained: Net) -> Evaluated:
    return evaluate(trained, no_certificate, small_data(), SETTINGS, "test")


@pytest.mark.parametrize(("index", "in_bias"), [(5, True), (0, True), (2, False)])
def test_a_masked_class_counts_as_removed(trained: Net, plain: Evaluated, index: int, in_bias: bool) -> None:
    net = with_masked_class(trained, index, in_bias)
    found = evaluate(net, no_certificate, relabelled(small_data(), index), SETTINGS, "test")
    assert found.doubts == plain.doubts == {}
    for name, wanted in plain.arrays.items():
        if name in ("label", "prediction") or (not in_bias and name.startswith(("lower", "feature"))):
            continue
        np.testing.assert_allclose(found.arrays[name], wanted, rtol=5e-3, atol=1e-5, err_msg=name)
    if not in_bias:
        reasons = {name: of.get("not_applicable", "") for name, of in found.estimators.items() if "ibp" in name}
        assert all("-inf" in reason for reason in reasons.values()), reasons


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.key)
def test_a_masked_class_counts_as_removed_by_probes(trained: Net, probe: Probe) -> None:
    def measured(net: Net, data: Dataset) -> dict[str, Tensor]:
        subject = Subject(net.requires_grad_(False), data.test, data.validation, data.train, EPSILON, 0)
        return {name: values for name, values in probe.measure(subject).items() if name != "smoothed_prediction"}

    wanted, data = measured(trained, small_data()), relabelled(small_data(), 0)
    others = small_data().num_classes - 1
    for name, values in measured(with_masked_class(trained, 0, in_bias=True), data).items():
        relative = "confidence" in name or "threshold" in name  # to a guess: they contain log(K - 1)
        same = values - math.log((others + 1) / others) if relative else values
        torch.testing.assert_close(same, wanted[name], equal_nan=True, rtol=1e-3, atol=1e-4, msg=name)


class Torn(nn.Module):
    """NaN for images of which the last pixel lies above a threshold."""

    def __init__(self, net: Net, threshold: float) -> None:
        super().__init__()
        self.net, self.threshold = net, threshold

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        return torch.where(x[:, 0, -1, -1:] > self.threshold, NAN, z)


def torn(net: Net, threshold: float) -> Net:
    return Net(nn.Identity(), nn.Sequential(Torn(net, threshold)), nn.Identity()).eval()


def test_an_image_in_no_class_is_misclassified_and_near_it_nothing_is_robust(trained: Net) -> None:
    data = small_data()
    pixel = data.test.images(slice(64))[:, 0, -1, -1].numpy()
    middle = float(np.median(pixel))
    found = evaluated(torn(trained, middle))
    broken = pixel > middle
    assert (found.arrays["prediction"][broken] == -1).all() and broken.any()
    metrics = summarise(found.arrays, EPSILON)
    assert np.isnan(metrics["output_margin"]) and metrics["clean_accuracy"] <= float((~broken).mean())
    for norm in NORMS:
        assert (found.arrays[f"upper_{norm}"][broken] == 0).all()
    assert f"not finite for {int(broken.sum())} " in found.doubts["collapse"]


class Undefined(nn.Module):
    """NaN near the boundaries between classes."""

    def __init__(self, net: nn.Module, width: float) -> None:
        super().__init__()
        self.net, self.width = net, width

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        first, second = z.topk(2, dim=1).values.unbind(1)
        return torch.where((first - second < self.width)[:, None], NAN, z)


def test_nan_in_the_ball_is_an_adversarial_example(trained: Net, plain: Evaluated) -> None:
    width = float(np.median(plain.arrays["output_margin"])) / 2
    net = Net(nn.Identity(), nn.Sequential(Undefined(trained, width)), nn.Identity()).eval()
    found = evaluate(net, no_certificate, small_data(), SETTINGS, "test").arrays
    safe = found["prediction"] >= 0
    assert safe.sum() > 12
    for norm in NORMS:
        for name in ("_fmn", "_cw", ""):
            upper, before = found[f"upper_{norm}{name}"][safe], plain.arrays[f"upper_{norm}{name}"][safe]
            assert (upper < 0.9 * before).mean() >= 0.5, name


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.key)
def test_where_there_is_no_class_probes_credit_nothing(trained: Net, probe: Probe) -> None:
    data, nowhere = small_data(), torn(trained, -1.0).requires_grad_(False)
    arrays = probe.measure(Subject(nowhere, data.test, data.validation, data.train, EPSILON, 0))
    with torch.no_grad():
        prediction = predicted_class(nowhere(data.test.images(slice(None))))
    own = {name: values.numpy() for name, values in arrays.items()}
    metrics = probe.metrics({**own, "label": data.test.y.numpy(), "prediction": prediction.numpy()}, EPSILON)
    for name, value in metrics.items():
        wanted = 1.0 if name in ("rejection_rate", "smoothed_abstention") else 0.0
        assert np.isnan(value) if name.startswith("rejection_") and not wanted else value == wanted, name


class Viewing(nn.Flatten):
    """It cannot be asked about no images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


def test_a_network_that_is_always_wrong_is_a_row_of_zeros(trained: Net) -> None:
    data = small_data()
    body = (Viewing() if isinstance(layer, nn.Flatten) else layer for layer in trained.body)
    trained = Net(trained.normalise, nn.Sequential(*body), trained.head).eval()
    with torch.no_grad():
        wrong = (trained(data.test.images(slice(None))).argmax(1) + 1) % data.num_classes
    probes = {probe.key: probe.model_dump() for probe in PROBES}
    settings = Evaluation(
        points=24,
        epsilon=EPSILON,
        attacks={name: {} for name in ATTACKS},
        certificates={"crown": {}, "milp": {}, "lipschitz": {}},
        **probes,
    )
    found = evaluate(trained, no_certificate, replace(data, test=replace(data.test, y=wrong)), settings, "test")
    metrics = summarise(found.arrays, EPSILON)
    for probe in PROBES:
        metrics |= probe.metrics(found.arrays, EPSILON)
    zero = ("robust_accuracy", "certified_accuracy", "margin_lower", "margin_upper", "rejection_robust_accuracy")
    names = [f"{kind}_{norm}" for norm in NORMS for kind in (*zero, "clever")]
    for name in ("clean_accuracy", "rejection_accuracy", "smoothed_certified_accuracy_l2", *names):
        assert metrics[name] == 0, name
