"""Planted faults of networks, attacks and certificates are seen."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_support import evaluated, no_certificate
from torch import Tensor, nn

from marginbench.benchmarks.attacks.scan import ATTACKS, Attack, configured_attacks
from marginbench.benchmarks.certificates.scan import configured_certificates
from marginbench.benchmarks.contract.fixtures import small_data
from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.evaluation import rounding
from marginbench.benchmarks.evaluation.doubts import DOUBTS, collapse, explanation, not_falling, scale_dependence
from marginbench.benchmarks.evaluation.evidence import Evidence
from marginbench.benchmarks.evaluation.rounding import rounded_away
from marginbench.benchmarks.nets.make import make_net
from marginbench.methods import NORMS, MarginbenchError, Net, Norm, Radii, logit_margin


def _certificate(radius: float) -> Any:
    return lambda net, x, norm: Radii(torch.full((len(x),), radius))


def test_a_certificate_that_lies_is_a_contradiction(trained: Net) -> None:
    assert "contradiction" in evaluated(trained, certify=_certificate(3.0)).doubts


@pytest.mark.parametrize("norm", NORMS)
def test_a_contradiction_counts_in_either_norm(trained: Net, norm: Norm) -> None:
    """Of two certified radii beyond the adversarial example, one at it, one below it, and one of a wrong image."""
    label = torch.zeros(5, dtype=torch.long)
    arrays = {"label": label, "prediction": torch.tensor([0, 0, 0, 0, 1])}
    for each in NORMS:
        arrays |= {f"upper_{each}": torch.full((5,), 0.5), f"lower_{each}": torch.full((5,), 0.4)}
    arrays[f"lower_{norm}"] = torch.tensor([0.6, 0.6, 0.5, 0.4, 0.6])
    epsilon = dict.fromkeys(NORMS, 0.1)
    evidence = Evidence(trained, torch.rand(5, 1, 4, 4), arrays, {}, {}, {}, epsilon, 2, no_certificate)
    assert DOUBTS["contradiction"](evidence) == "2 points"


def test_a_certificate_of_nan_certifies_nothing(trained: Net) -> None:
    result = evaluated(trained, certify=_certificate(float("nan")))
    assert (result.arrays["lower_l2_own"] == 0).all() and "contradiction" not in result.doubts


def test_an_attack_that_does_nothing_is_seen(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fmn", "apgd"):
        monkeypatch.setitem(ATTACKS, name, Attack(name, lambda q: q.x))
    result = evaluated(trained)
    assert np.isinf(result.arrays["upper_l2_fmn"][result.arrays["prediction"] == result.arrays["label"]]).all()
    assert {"no_backward", "black_box_wins"} <= set(result.doubts)


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (16 * x).round() / 16


def test_a_step_function_in_front_is_seen(trained: Net) -> None:
    masked = Net(nn.Sequential(Rounded(), trained.normalise), trained.body, trained.head)
    assert "zero_gradient" in evaluated(masked).doubts


class Times(nn.Module):
    def __init__(self, head: nn.Module, factor: float, shift: float = 0.0) -> None:
        super().__init__()
        self.head, self.factor, self.shift = head, factor, shift

    def forward(self, phi: Tensor) -> Tensor:
        z: Tensor = self.head(phi)
        return self.factor * z + self.shift


@pytest.mark.parametrize(("factor", "shift"), [(1e-8, 0.0), (1e-6, 0.0), (1e6, 0.0), (1e36, 0.0), (1.0, 1e3)])
def test_the_size_of_logits_is_nothing_to_doubt(trained: Net, factor: float, shift: float) -> None:
    net = Net(trained.normalise, trained.body, Times(trained.head, factor, shift))
    assert evaluated(net).doubts.keys() <= {"not_confirmed"}


def test_an_attack_that_needs_logits_of_a_size_is_seen(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first step falls short where gradients are small, whatever their direction."""

    def ascend(q: Query) -> Tensor:
        point = q.x.clone().requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(-logit_margin(q.net(point), q.y).sum(), point)
        unit = grad / (grad.flatten(1).norm(dim=1)[:, None, None, None] + 1e-6)
        return (point.detach() + unit).clamp(0, 1)

    monkeypatch.setitem(ATTACKS, "fmn", Attack("fmn", ascend))
    faint = Net(trained.normalise, trained.body, Times(trained.head, 1e-8))
    assert "fmn" in evaluated(faint).doubts["scale_dependence"]


def _ascend(q: Query) -> Tensor:
    """On cross-entropy, whose gradient underflows once logits are scaled up: the attack then stands still."""
    point = q.x.clone()
    for _step in range(20):
        point.requires_grad_()
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(q.net(point), q.y, reduction="sum")
            (grad,) = torch.autograd.grad(loss, point)
        step = grad / (grad.flatten(1).norm(dim=1)[:, None, None, None] + 1e-12)
        point = (point.detach() + 0.2 * step).clamp(0, 1)
    return point


def test_an_attack_on_cross_entropy_is_seen(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, "fmn", Attack("fmn", _ascend))
    assert "fmn" in evaluated(trained).doubts["scale_dependence"]


def test_an_attack_on_cross_entropy_is_no_harm_beside_a_better_one(
    trained: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTACKS, "bim", Attack("bim", _ascend))
    assert "scale_dependence" not in evaluated(trained, attacks={"bim": {}, "fmn": {}}).doubts
    assert "bim" in evaluated(trained, attacks={"bim": {}}).doubts["scale_dependence"]


class Band(nn.Module):
    """Wrong only where the mean pixel lies in a narrow band: long steps jump over it."""

    def forward(self, x: Tensor) -> Tensor:
        gap = (x.flatten(1).mean(1) - 0.4 - 0.45 * 0.05).abs() - 0.2 * 0.05
        return torch.stack([gap, -gap], 1)


def test_an_attack_that_finds_less_at_larger_radii_is_seen() -> None:
    net = Net(nn.Identity(), nn.Sequential(nn.Flatten()), Band())
    split = Split(torch.full((64, 1, 4, 4), 102, dtype=torch.uint8), torch.zeros(64, dtype=torch.long), 255)
    assert (
        "robust accuracy 0.0%, 100.0%" in evaluated(net, Dataset(split, split, split, 2, "grey")).doubts["not_falling"]
    )


@pytest.mark.parametrize("kind", ["rings", "checks"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_a_network_of_two_pixels_is_nothing_to_doubt(kind: str, activation: type[nn.Module]) -> None:
    """Regions of its classes are narrow beside the radii of the suite, which reach across the box."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.rand(300, 1, 1, 2)
        place = x.flatten(1)
        y = (((place - 0.5).norm(dim=1) * 6).long() % 3) if kind == "rings" else (place * 4).long().sum(1) % 2
        classes = int(y.max()) + 1
        body = nn.Sequential(nn.Flatten(), nn.Linear(2, 64), activation(), nn.Linear(64, 64), activation())
        net = Net(nn.Identity(), body, nn.Linear(64, classes))
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        for _ in range(300):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
    net.eval().requires_grad_(False)
    epsilon: dict[Norm, float] = {"linf": 0.1, "l2": 0.5}
    arrays = {"label": y, "prediction": net(x).argmax(1)}
    evidence = Evidence(net, x, arrays, {}, {}, {}, epsilon, classes, no_certificate)
    assert evidence.correct.float().mean() > 0.8 and not_falling(evidence) is None


def test_noise_that_is_nearer_by_rounding_is_nothing_to_doubt() -> None:
    """Of two pixels every fourth direction in L-infinity is that of the gradient."""
    torch.manual_seed(0)
    images = torch.randint(256, (64, 1, 1, 2), dtype=torch.uint8)
    net = Net(nn.Identity(), nn.Sequential(nn.Flatten(), nn.Linear(2, 8), nn.LeakyReLU()), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        logits = net(images / 255)
        net.head.bias -= logits.median(0).values
        split = Split(images, net(images / 255).argmax(1), 255)
    result = evaluated(net, Dataset(split, split, split, 2, "two pixels"))
    white = np.minimum(result.arrays["upper_linf_fmn"], result.arrays["upper_linf_apgd"])
    assert (result.arrays["upper_linf_noise"] < white).sum() > 1 and "noise_wins" not in result.doubts


class Moody(nn.Module):
    """Noise on the logits, new at every call."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head, self.stream = head, torch.Generator().manual_seed(0)

    def forward(self, phi: Tensor) -> Tensor:
        z: Tensor = self.head(phi)
        return z + z.detach().std() * torch.randn(z.shape, generator=self.stream)


def test_a_network_with_two_answers_is_seen(trained: Net) -> None:
    assert "radius_zero" in evaluated(Net(trained.normalise, trained.body, Moody(trained.head))).doubts


class Constant(nn.Module):
    """It ignores its input: there is no gradient at all, not even one of 0."""

    def forward(self, phi: Tensor) -> Tensor:
        return torch.eye(5, device=phi.device)[0].expand(len(phi), 5)


class Half(nn.Module):
    """Flat where the first pixel is above a half."""

    def forward(self, x: Tensor) -> Tensor:
        rest = (0.5 - x.flatten(1)[:, :1]).relu()
        return torch.cat([1 + rest, torch.zeros_like(rest)], 1)


def test_the_gradients_of_all_points_count() -> None:
    x = torch.where(torch.arange(200) < 70, 0.2, 0.8).view(-1, 1, 1, 1)
    y = torch.zeros(200, dtype=torch.int64)
    net = Net(nn.Identity(), Half(), nn.Identity()).eval()
    found = DOUBTS["zero_gradient"](Evidence(net, x, {"label": y, "prediction": y}, {}, {}, {}, {}, 2, no_certificate))
    assert found == "65.0% of correct points"


@pytest.mark.parametrize(
    ("length", "share", "seen"), [(0.88, 0.2, "20.0% of correct points"), (0.96, 0.2, None), (0.88, 0.04, None)]
)
def test_how_much_nearer_a_black_box_attack_may_come(length: float, share: float, seen: str | None) -> None:
    y = torch.zeros(100, dtype=torch.int64)
    arrays = {"label": y, "prediction": y}
    for norm in NORMS:
        arrays |= {f"upper_{norm}": torch.ones(100), f"upper_{norm}_fmn": torch.ones(100)}
        arrays[f"upper_{norm}_square"] = torch.where(torch.arange(100) < 100 * share, length, 1.0)
    attacks = {name: ATTACKS[name] for name in ("fmn", "square")}
    net, x = Net(nn.Identity(), nn.Flatten(), nn.Identity()), torch.zeros(100, 1, 1, 1)
    assert DOUBTS["black_box_wins"](Evidence(net, x, arrays, {}, attacks, {}, {}, 2, no_certificate)) == seen


def test_a_constant_class_is_a_collapse(trained: Net) -> None:
    doubts = evaluated(Net(trained.normalise, trained.body, Constant())).doubts
    assert "one class" in doubts["collapse"]
    assert doubts["zero_gradient"] == "100.0% of correct points"


@pytest.mark.parametrize(
    ("label", "prediction", "seen"),
    [([1, 1, 1], [1, 1, 1], None), ([1], [1], None), ([1, 1], [2, 2], "one class"), ([1, 2], [1, 1], "one class")],
)
def test_images_of_one_class_are_predicted_as_it(label: list[int], prediction: list[int], seen: str | None) -> None:
    """Of stop signs alone, say, or of one image: a network that is right has not collapsed."""
    y, points = torch.tensor(label), len(label)
    arrays = {"label": y, "prediction": torch.tensor(prediction), "output_margin": torch.zeros(points)}
    net, x = Net(nn.Identity(), nn.Flatten(), nn.Identity()), torch.zeros(points, 1, 1, 1)
    found = collapse(Evidence(net, x, arrays, {}, {}, {}, {}, 4, no_certificate))
    assert found is None if seen is None else seen in str(found)


@pytest.mark.parametrize(
    ("classes", "points", "right", "seen"),
    [
        (2, 100, 55, True),
        (2, 100, 60, False),
        (2, 8, 4, True),
        (2, 8, 5, False),
        (3, 100, 40, True),
        (3, 100, 60, False),
        (3, 8, 3, True),
        (3, 8, 4, False),
        (10, 1000, 199, True),
        (10, 1000, 201, False),
        (100, 1000, 19, True),
        (100, 1000, 21, False),
    ],
)
def test_an_accuracy_near_chance_is_a_collapse(classes: int, points: int, right: int, seen: bool) -> None:
    y = torch.arange(points) % classes
    prediction = torch.where(torch.arange(points) < right, y, (y + 1) % classes)
    arrays = {"label": y, "prediction": prediction, "output_margin": torch.zeros(points)}
    net, x = Net(nn.Identity(), nn.Flatten(), nn.Identity()), torch.zeros(points, 1, 1, 1)
    found = collapse(Evidence(net, x, arrays, {}, {}, {}, {}, classes, no_certificate))
    assert found == (f"accuracy {right / points:.1%}, by chance {1 / classes:.1%}" if seen else None)


@pytest.mark.parametrize(
    ("classes", "each", "missing", "seen"),
    [(10, 5, 1, False), (10, 5, 6, True), (10, 20, 1, True), (100, 5, 5, False), (100, 50, 1, True), (3, 8, 1, False)],
)
def test_classes_that_chance_may_leave_out_are_no_collapse(classes: int, each: int, missing: int, seen: bool) -> None:
    y = torch.arange(classes * each) % classes
    arrays = {"label": y, "prediction": torch.where(y < missing, classes - 1, y), "output_margin": torch.zeros(len(y))}
    net, x = Net(nn.Identity(), nn.Flatten(), nn.Identity()), torch.zeros(len(y), 1, 1, 1)
    found = collapse(Evidence(net, x, arrays, {}, {}, {}, {}, classes, no_certificate))
    assert found == (f"never predicted: {missing} of {classes} classes" if seen else None)


class Without(nn.Module):
    """Some classes win only where no other does."""

    def __init__(self, head: nn.Module, *classes: int) -> None:
        super().__init__()
        self.head, self.classes = head, list(classes)

    def forward(self, phi: Tensor) -> Tensor:
        z: Tensor = self.head(phi)
        return z.index_fill(1, torch.tensor(self.classes), -1e3)


def test_classes_that_are_never_predicted_are_counted(trained: Net) -> None:
    doubts = evaluated(Net(trained.normalise, trained.body, Without(trained.head, 1, 3))).doubts
    assert doubts["collapse"] == "never predicted: 2 of 5 classes"


def test_classes_of_few_images_need_not_be_predicted(trained: Net) -> None:
    data = small_data()
    rare = ((data.test.y == 1).cumsum(0) > 4) & (data.test.y == 1)
    test = replace(data.test, x=data.test.x[~rare], y=data.test.y[~rare])
    net = Net(trained.normalise, trained.body, Without(trained.head, 1))
    assert "collapse" not in evaluated(net, replace(data, test=test)).doubts


class Lonely(nn.Module):
    """-inf in batches alone."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z, torch.full_like(z[:, :1], 0.0 if len(z) == 1 else -torch.inf)], 1) - 1


def test_logits_that_are_finite_in_one_batch_alone_are_seen(trained: Net) -> None:
    net = Net(trained.normalise, trained.body, nn.Sequential(trained.head, Lonely()))
    assert "batch_dependence" in evaluated(net).doubts


def test_weights_of_nan_are_a_collapse() -> None:
    net = make_net("mlp", 8, (1, 8, 8), 5, torch.tensor([0.5]), torch.tensor([0.2]))
    with torch.no_grad():
        net.head.weight.fill_(torch.nan)  # type: ignore[operator, union-attr]
    assert "not finite" in evaluated(net).doubts["collapse"]


class Centred(nn.Module):
    def forward(self, phi: Tensor) -> Tensor:
        return phi - phi.mean(0)


def test_a_network_that_looks_at_its_batch_is_seen(trained: Net) -> None:
    net = Net(trained.normalise, nn.Sequential(*trained.body, Centred()), trained.head)
    assert "batch_dependence" in evaluated(net).doubts


class Stretched(nn.Module):
    """By the extremes of the batch, as where `dim` was forgotten."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.min()) / (x.max() - x.min())


def test_a_network_that_takes_the_range_of_its_batch_is_seen_where_all_images_have_that_range(trained: Net) -> None:
    data = small_data()
    x = data.test.x.clone()
    x[:, :, 0, 0], x[:, :, 0, 1] = 0, 255
    net = Net(nn.Sequential(Stretched(), trained.normalise), trained.body, trained.head)
    assert "batch_dependence" in evaluated(net, replace(data, test=replace(data.test, x=x))).doubts


class Offset(nn.Module):
    """Two more features, far from 0, that cancel behind the last layer, but for rounding."""

    def forward(self, phi: Tensor) -> Tensor:
        mean = 1e3 + phi.mean(1, keepdim=True)
        return torch.cat([phi, mean, 3 * mean], 1)


def test_logits_that_rounding_moves_are_seen(trained: Net) -> None:
    assert "rounded_away" not in evaluated(trained).doubts
    head = copy.deepcopy(trained.head)
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(1e-5)
        head.bias.mul_(1e-5)
    assert "rounded_away" not in evaluated(Net(trained.normalise, trained.body, head)).doubts
    wide = nn.Linear(head.in_features + 2, head.out_features)
    with torch.no_grad():
        wide.weight[:, :-2] = head.weight
        wide.weight[:, -2:] = torch.linspace(1, 2, head.out_features)[:, None] * torch.tensor([3.0, -1.0])
        wide.bias.copy_(head.bias)
    seen = evaluated(Net(trained.normalise, nn.Sequential(*trained.body, Offset()), wide)).doubts
    assert "rounded_away" in seen


class Following(nn.Sequential):
    """Layers that compute in the type of their weights, and give the type of the images."""

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = super().forward(x.to(next(self.parameters()).dtype))
        return z.to(x.dtype)


def test_a_network_with_few_digits_has_no_certificate_that_rounding_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = Following(nn.Flatten(), nn.Linear(16, 50, bias=False)).bfloat16()
    net = Net(nn.Identity(), nn.Sequential(layers), nn.Identity()).eval().requires_grad_(False)
    x = torch.rand(40, 1, 4, 4)
    arrays = {"label": net(x).argmax(1), "prediction": net(x).argmax(1)}
    certificates = configured_certificates({"crown": {}})
    e = Evidence(net, x, arrays, {}, {}, certificates, {"l2": 0.1, "linf": 0.01}, 50, no_certificate)
    assert rounded_away(e) is None
    monkeypatch.setattr(rounding, "is_coarse", lambda kind: False)
    assert rounded_away(e) is not None


def test_every_doubt_explains_itself() -> None:
    for name in DOUBTS:
        assert explanation(name).endswith("."), name


@pytest.mark.parametrize("returned", [True, False, "", 3])
def test_a_doubt_that_returns_no_words_is_refused_by_name(
    trained: Net, monkeypatch: pytest.MonkeyPatch, returned: Any
) -> None:
    """The record of the run could not be read."""
    monkeypatch.setitem(DOUBTS, "odd", lambda e: returned)
    with pytest.raises(MarginbenchError, match=rf"^doubt 'odd' returned {returned!r}: what was seen, in few words"):
        evaluated(trained)


def test_a_doubt_changes_no_number(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(e: Evidence) -> None:
        for values in e.arrays.values():
            values.zero_()

    before = evaluated(trained)
    monkeypatch.setitem(DOUBTS, "careless", careless)
    after = evaluated(trained)
    assert after.doubts == before.doubts
    for name, values in before.arrays.items():
        np.testing.assert_array_equal(after.arrays[name], values)


def test_a_doubt_that_changes_the_network_is_refused_by_name(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(e: Evidence) -> None:
        next(e.net.parameters()).data.mul_(2)

    monkeypatch.setitem(DOUBTS, "careless", careless)
    with pytest.raises(MarginbenchError, match=r"^doubt 'careless' leaves the network with other weights"):
        evaluated(copy.deepcopy(trained))


class Prototypes(nn.Module):
    """Minus the L1 distances: on its kinks an attack goes where rounding leads it."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.rand(4, 36))

    def forward(self, x: Tensor) -> Tensor:
        return -(x.flatten(1)[:, None] - self.centres).abs().sum(2)


def test_scale_is_not_blamed_where_any_rounding_leads_an_attack_elsewhere() -> None:
    stream = torch.Generator().manual_seed(0)
    classes, y = torch.rand(4, 1, 6, 6, generator=stream), torch.arange(348) % 4
    x = 0.5 + 0.5 * (classes[y] - 0.5) + 0.25 * torch.randn(348, 1, 6, 6, generator=stream)
    x = x.clamp(0, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Prototypes()
        optimiser = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(150):
            some = torch.randint(300, (64,))
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[some]), y[some]).backward()
            optimiser.step()
    net = Net(nn.Identity(), nn.Sequential(model), nn.Identity()).eval().requires_grad_(False)
    arrays = {"label": y[300:], "prediction": net(x[300:]).argmax(1)}
    arrays |= {f"upper_{norm}{name}": torch.full((48,), torch.inf) for norm in NORMS for name in ("", "_apgd")}
    attacks = configured_attacks({"apgd": {}})
    e = Evidence(net, x[300:], arrays, {}, attacks, {}, {"linf": 0.1, "l2": 0.5}, 4, no_certificate)
    assert scale_dependence(e) is None
