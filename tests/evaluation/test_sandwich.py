"""Canaries: networks whose margins are known go through the same sandwich as any other."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_support import SETTINGS, evaluated, no_certificate
from torch import Tensor, nn

from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.attacks.scan import ATTACKS, Attack
from marginbench.benchmarks.certificates.scan import CERTIFICATES, Certificate
from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.benchmarks.evaluation import sandwich as margins
from marginbench.benchmarks.evaluation.evaluated import Facts, probed
from marginbench.benchmarks.evaluation.partial import Partial
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.machine.deadline import Deadline
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.probes.probe import Probe, Subject
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.benchmarks.training.loop import train
from marginbench.methods import MarginbenchError, Net, Norm, NotApplicable, Radii, create


def linear_canary() -> tuple[Net, Dataset, dict[Norm, np.ndarray]]:
    """A linear network on grey images far from the box's walls, with its exact margins."""
    stream = torch.Generator().manual_seed(1)
    net = make_net("linear", 1, (1, 4, 4), 3, torch.tensor([0.4]), torch.tensor([0.2]))
    x = 0.5 + 0.05 * torch.randn(64, 1, 4, 4, generator=stream)
    x = (255 * x).round() / 255
    with torch.no_grad():
        net.head.weight.copy_(torch.randn(3, 16, generator=stream))  # type: ignore[operator, union-attr]
        net.head.bias.zero_()  # type: ignore[operator, union-attr]
        y = net(x).argmax(1)
    split = Split((255 * x).round().to(torch.uint8), y, 255)
    weight = net.head.weight.detach().double() / 0.2  # type: ignore[operator, union-attr]
    z = net.double()(x.double()).detach()
    net.float()
    gaps = z.gather(1, y[:, None]) - z
    rows = weight[y][:, None] - weight
    exact: dict[Norm, np.ndarray] = {}
    for norm, order in (("l2", 2), ("linf", 1)):
        distance = gaps / rows.norm(p=order, dim=2).clamp_min(1e-12)
        distance[torch.arange(64), y] = torch.inf
        exact[norm] = distance.amin(1).numpy()  # type: ignore[index]
    return net, Dataset(split, split, split, 3, "linear"), exact


def test_every_estimator_brackets_the_exact_margin_of_a_linear_network() -> None:
    net, data, exact = linear_canary()
    result = evaluated(net, data)
    for norm, margin in exact.items():
        inside = margin < 0.2  # the box's walls are out of reach
        assert inside.mean() > 0.5
        for name, values in result.arrays.items():
            if name.startswith(f"upper_{norm}"):
                assert (values[inside] >= margin[inside] * (1 - 1e-5)).all(), name
            if name.startswith(f"lower_{norm}"):
                assert (values[inside] <= margin[inside] * (1 + 1e-6)).all(), name
        assert result.arrays[f"upper_{norm}_fmn"][inside] == pytest.approx(margin[inside], rel=1e-3)
        assert result.arrays[f"lower_{norm}_crown"][inside] == pytest.approx(
            margin[inside], rel=1e-2
        )  # the search's tolerance
    assert "contradiction" not in result.doubts


def test_a_relu_network_is_enclosed_without_contradiction(trained: Net) -> None:
    result = evaluated(trained)
    correct = result.arrays["prediction"] == result.arrays["label"]
    assert correct.mean() > 0.9
    for norm in ("l2", "linf"):
        lower, upper = result.arrays[f"lower_{norm}"], result.arrays[f"upper_{norm}"]
        assert (lower <= upper).all() and (lower[correct] > 0).all() and np.isfinite(upper).all()
        assert (lower[~correct] == 0).all() and (upper[~correct] == 0).all()
    assert result.doubts == {}


def test_the_longest_feature_is_that_of_all_images(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few of them go through the network at once."""
    whole = evaluated(trained).arrays["feature_margin"]
    monkeypatch.setattr(margins, "rows_at_once", lambda *_, **__: 8)
    np.testing.assert_allclose(evaluated(trained).arrays["feature_margin"], whole, rtol=1e-4)


def test_the_best_of_all_estimators_counts(trained: Net) -> None:
    arrays = evaluated(trained, certificates={"crown": {}, "lipschitz": {}}).arrays
    for norm in ("l2", "linf"):
        for kind, best in (("lower", np.fmax), ("upper", np.fmin)):
            each = [values for name, values in arrays.items() if name.startswith(f"{kind}_{norm}_")]
            assert len(each) > 1 and not any(np.array_equal(values, each[0]) for values in each[1:])
            np.testing.assert_array_equal(arrays[f"{kind}_{norm}"], best.reduce(each))


def test_the_same_names_give_the_same_numbers(trained: Net) -> None:
    first, second = evaluated(trained), evaluated(trained)
    for name, values in first.arrays.items():
        assert np.array_equal(values, second.arrays[name]), name


def test_nothing_is_evaluated_with_tf32(trained: Net) -> None:
    cudnn = torch.backends.cudnn
    seen = set()
    handle = trained.register_forward_hook(lambda *_: seen.add(cudnn.allow_tf32))
    cudnn.allow_tf32 = True
    evaluated(trained)
    handle.remove()
    assert seen == {False} and cudnn.allow_tf32


def test_no_attack_at_all_leaves_the_margin_unbounded(trained: Net) -> None:
    settings = SETTINGS.model_copy(update={"attacks": {}})
    result = evaluate(trained, no_certificate, small_data(), settings, "test")
    assert np.isinf(result.arrays["upper_l2"]).any() and "unattacked" in result.doubts


def test_a_missing_certificate_says_why(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Certificate("crown", lambda q: Answer(reason="install it"))
    monkeypatch.setitem(CERTIFICATES, "crown", absent)
    result = evaluated(trained)
    assert result.estimators["crown_l2"]["not_applicable"] == "install it"
    assert "lower_l2_crown" not in result.arrays


@pytest.mark.parametrize("wrong", [slice(32), slice(None)])
def test_a_chunk_without_correct_points_has_no_margins(monkeypatch: pytest.MonkeyPatch, wrong: slice) -> None:
    """Not every network can be asked about no images: those of other people often view their number."""

    class Viewing(nn.Flatten):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(len(x), -1)

    monkeypatch.setattr(margins, "ROWS", 32)
    data, trained = small_data(), train(create("ce"), small_suite(), small_data(), 0).net.eval()
    body = nn.Sequential(*(Viewing() if isinstance(layer, nn.Flatten) else layer for layer in trained.body))
    net = Net(trained.normalise, body, trained.head)
    with torch.no_grad():
        label = net(data.test.images(slice(None))).argmax(1)
    label[wrong] = (label[wrong] + 1) % 2
    data = replace(data, test=replace(data.test, y=label))
    settings = Evaluation(
        points=len(label), epsilon={"linf": 0.05, "l2": 0.25}, attacks={"deepfool": {}}, certificates={"crown": {}}
    )
    found = evaluate(net, lambda net, x, norm: NotApplicable("none"), data, settings, "test").arrays
    assert (found["upper_l2"][wrong] == 0).all() and (found["lower_l2"][wrong] == 0).all()
    assert "lower_l2_own" not in found and (found["lower_l2_crown"][wrong] == 0).all()
    if wrong.stop is not None:
        assert (found["lower_linf_crown"][32:] > 0).any() and (found["lower_linf_crown"][:32] == 0).all()


def test_a_certificate_that_applies_to_some_chunks_proves_nothing_about_the_others(
    trained: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither radii nor distances: those of the attacks must not stand in for them."""

    def moody(q: Query) -> Answer:
        calls.append(len(q.x))
        known = torch.full_like(q.y, 1, dtype=torch.float32)
        return Answer(reason="not today") if len(calls) > 2 else Answer(lower=0 * known, upper=9 * known)

    calls: list[int] = []
    monkeypatch.setattr(margins, "ROWS", 32)
    monkeypatch.setitem(CERTIFICATES, "crown", Certificate("crown", moody))
    data = small_data()
    label = data.test.y.clone()
    label[40:] = (label[40:] + 1) % 5
    found = evaluated(trained, replace(data, test=replace(data.test, y=label)))
    correct = found.arrays["label"] == found.arrays["prediction"]
    assert len(calls) == 4 and correct[32:].any() and not correct[32:].all()
    for norm in ("l2", "linf"):
        assert (found.arrays[f"lower_{norm}_crown"] == 0).all()
        assert np.isinf(found.arrays[f"upper_{norm}_crown"][32:][correct[32:]]).all()
        assert (found.arrays[f"upper_{norm}_crown"][~correct] == 0).all()
    assert "contradiction" not in found.doubts


@pytest.mark.parametrize(("share", "with_points"), [(0.97, False), (0.97, True), (-1.0, True)])
def test_distances_that_no_image_of_the_certificate_reaches_are_refused(
    trained: Net, monkeypatch: pytest.MonkeyPatch, share: float, with_points: bool
) -> None:
    """They would be the upper ends of margins, and nothing would have shown that there is such an image."""

    def boast(q: Query) -> Answer:
        assert q.upper is not None
        points = q.x.lerp(q.reference[: len(q.x)], 1e-3) if with_points else None
        return Answer(lower=0 * q.upper, upper=share * q.upper, points=points)

    monkeypatch.setitem(CERTIFICATES, "crown", Certificate("crown", boast))
    with pytest.raises(MarginbenchError, match=r"^certificate 'crown' gives \S+ as `upper` in l2, and the nearest"):
        evaluated(trained)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda q: None, "None: return radii"),
        (lambda q: Answer(), "an Answer with neither `lower` nor `reason`: return radii"),
        (lambda q: q.x.new_zeros(len(q.x), dtype=torch.complex64), "torch.complex64: real numbers are needed"),
    ],
)
def test_a_certificate_that_says_nothing_is_refused_by_name(trained: Net, answer: Any, words: str) -> None:
    data = small_data().test
    q = Query(trained, data.images(slice(4)), data.y[:4], "l2", 0.5, data.images(slice(0)), torch.Generator())
    with pytest.raises(MarginbenchError, match=f"^certificate 'mute' returned {words}"):
        Certificate("mute", answer)(q)


def test_radii_that_follow_gradients_are_taken_without_them(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = torch.tensor(0.01, requires_grad=True)
    monkeypatch.setitem(CERTIFICATES, "crown", Certificate("crown", lambda q: scale * torch.ones(len(q.x))))
    result = evaluated(trained)
    correct = result.arrays["label"] == result.arrays["prediction"]
    np.testing.assert_allclose(result.arrays["lower_l2_crown"][correct], 0.01)


@pytest.mark.parametrize("radius", [-3.0, float("nan")])
def test_radii_that_are_none_are_0_and_a_doubt(trained: Net, monkeypatch: pytest.MonkeyPatch, radius: float) -> None:
    monkeypatch.setitem(
        CERTIFICATES, "crown", Certificate("crown", lambda q: torch.full_like(q.y, 1.0, dtype=torch.float32) * radius)
    )
    result = evaluated(trained)
    count = int((result.arrays["label"] == result.arrays["prediction"]).sum())
    assert (result.arrays["lower_l2_crown"] == 0).all()
    assert result.doubts["invalid_answer"] == f"crown_l2: {count} points, crown_linf: {count} points"


def test_images_of_an_attack_that_are_none_are_a_doubt(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count as failures; other attacks come near all the same."""

    def half_broken(q: Query) -> Tensor:
        points = q.x.clone()
        points[::2, 0, 0, 0] = torch.nan
        return points

    monkeypatch.setitem(ATTACKS, "fmn", Attack("fmn", half_broken))
    result = evaluated(trained)
    count = (int((result.arrays["label"] == result.arrays["prediction"]).sum()) + 1) // 2
    assert result.doubts["invalid_answer"] == f"fmn_l2: {count} points, fmn_linf: {count} points"


@pytest.mark.parametrize("claim", [float("nan"), float("inf")])
def test_images_of_a_certificate_count_as_far_as_they_are(
    trained: Net, monkeypatch: pytest.MonkeyPatch, claim: float
) -> None:
    """Whatever it says of their distance, if that is not too near."""
    nearer: dict[str, Tensor] = {}

    def lame(q: Query) -> Tensor:
        nearer[q.norm] = honest.propose(q)
        return q.x

    def found(q: Query) -> Answer:
        assert q.upper is not None
        return Answer(lower=0 * q.upper, upper=torch.full_like(q.upper, claim), points=nearer[q.norm])

    honest = ATTACKS["fmn"]
    true = evaluated(trained)
    for name in PRESETS["quick"]:
        monkeypatch.setitem(ATTACKS, name, Attack(name, lame))
    monkeypatch.setitem(CERTIFICATES, "crown", Certificate("crown", found))
    result = evaluated(trained)
    correct = true.arrays["label"] == true.arrays["prediction"]
    reached = result.arrays["upper_l2_crown"][correct]
    np.testing.assert_allclose(reached, true.arrays["upper_l2_fmn"][correct], rtol=5e-3)
    np.testing.assert_array_equal(result.arrays["upper_l2"][correct], reached)


def test_own_certificates_and_probes_that_change_the_network_are_refused(trained: Net) -> None:
    """What is measured after them would be that of another network."""

    def careless(net: Net, x: Tensor, norm: Norm) -> Radii:
        net.train()
        return Radii(torch.zeros(len(x)))

    with pytest.raises(MarginbenchError, match=r"careless.*: leaves the network with other modes: work on"):
        evaluated(copy.deepcopy(trained), certify=careless)

    class Scaling(Probe):
        key = "scaling"
        columns = ()

        def measure(self, subject: Subject) -> dict[str, Tensor]:
            next(subject.net.parameters()).data.mul_(2)
            return {}

        def metrics(self, arrays: Mapping[str, np.ndarray], epsilon: Mapping[str, float]) -> dict[str, float]:
            return {}

        def note(self, epsilon: Mapping[str, float]) -> str:
            return ""

    data = small_data()
    subject = Subject(copy.deepcopy(trained).eval(), data.test, data.validation, data.train, {}, 0)
    with pytest.raises(MarginbenchError, match=r"^probe 'scaling' leaves the network with other weights: "):
        probed("scaling", Scaling(), subject, {}, Facts({}, Deadline()), Partial())


@pytest.mark.parametrize(("arrays", "words"), [(None, "None"), ({"mine": [1.0]}, "a dict")])
def test_what_a_probe_measures_is_tensors_by_name(trained: Net, arrays: Any, words: str) -> None:
    class Loose(Probe):
        key = "loose"
        columns = ()

        def measure(self, subject: Subject) -> Any:
            return arrays

    data = small_data()
    subject = Subject(trained.eval(), data.test, data.validation, data.train, {}, 0)
    with pytest.raises(MarginbenchError, match=rf"^probe 'loose': measure\(\) gives {words}; needed are tensors"):
        probed("loose", Loose(), subject, {}, Facts({}, Deadline()), Partial())


def test_the_network_is_afterwards_as_it_was(trained: Net) -> None:
    net = copy.deepcopy(trained).train()
    net.head.requires_grad_(False)
    before = [(p.requires_grad, p.grad) for p in net.parameters()]
    assert len(set(before)) == 2
    evaluated(net)
    assert [(p.requires_grad, p.grad) for p in net.parameters()] == before
    assert all(module.training for module in net.modules())
