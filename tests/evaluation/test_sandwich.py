"""Canaries: networks whose margins are known go through the same sandwich as any other, and planted faults are seen."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.listed import ATTACKS, Attack
from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.certificates.listed import CERTIFICATES, Certificate
from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.benchmarks.evaluation import sandwich as margins
from marginbench.benchmarks.evaluation.doubts import DOUBTS
from marginbench.benchmarks.evaluation.sandwich import Evaluated, evaluate
from marginbench.benchmarks.nets.networks import make_net
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.benchmarks.training.loop import train
from marginbench.methods import Net, Norm, NotApplicable, Radii, create

SETTINGS = Evaluation(
    points=64,
    epsilon={"linf": 0.05, "l2": 0.25},
    attacks=PRESETS["quick"],
    certificates={"crown": {}},
)


def no_certificate(net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
    return NotApplicable("none")


def evaluated(net: Net, data: Dataset | None = None, certify: Any = no_certificate) -> Evaluated:
    return evaluate(net, certify, data or small_data(), SETTINGS, "test")


@pytest.fixture(scope="module")
def trained() -> Net:
    return train(create("ce"), small_suite(), small_data(), 0).net


def linear_canary() -> tuple[Net, Dataset, dict[Norm, np.ndarray]]:
    """A linear network on grey images far from the box's walls, with its exact margins."""
    stream = torch.Generator().manual_seed(1)
    net = make_net("linear", 1, (1, 4, 4), 3, torch.tensor([0.4]), torch.tensor([0.2]))
    x = 0.5 + 0.05 * torch.randn(64, 1, 4, 4, generator=stream)
    x = (255 * x).round() / 255
    with torch.no_grad():
        net.head.weight.copy_(torch.randn(3, 16, generator=stream))  # type: ignore[operator, union-attr]
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
        assert result.arrays[f"upper_{norm}_deepfool"][inside] == pytest.approx(margin[inside], rel=1e-3)
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


def test_the_same_names_give_the_same_numbers(trained: Net) -> None:
    first, second = evaluated(trained), evaluated(trained)
    for name, values in first.arrays.items():
        assert np.array_equal(values, second.arrays[name]), name


def _certificate(radius: float) -> Any:
    return lambda net, x, norm: Radii(torch.full((len(x),), radius))


def test_nothing_is_evaluated_with_tf32(trained: Net) -> None:
    cudnn = torch.backends.cudnn
    seen = set()
    handle = trained.register_forward_hook(lambda *_: seen.add(cudnn.allow_tf32))
    cudnn.allow_tf32 = True
    evaluated(trained)
    handle.remove()
    assert seen == {False} and cudnn.allow_tf32


def test_a_certificate_that_lies_is_a_contradiction(trained: Net) -> None:
    assert "contradiction" in evaluated(trained, certify=_certificate(3.0)).doubts


def test_a_certificate_of_nan_certifies_nothing(trained: Net) -> None:
    result = evaluated(trained, certify=_certificate(float("nan")))
    assert (result.arrays["lower_l2_own"] == 0).all() and "contradiction" not in result.doubts


def test_an_attack_that_does_nothing_is_seen(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("deepfool", "fmn", "apgd"):
        monkeypatch.setitem(ATTACKS, name, Attack(name, lambda q: q.x))
    result = evaluated(trained)
    assert np.isinf(result.arrays["upper_l2_deepfool"][result.arrays["prediction"] == result.arrays["label"]]).all()
    assert {"no_backward", "black_box_wins"} <= set(result.doubts)


def test_no_attack_at_all_leaves_the_margin_unbounded(trained: Net) -> None:
    settings = SETTINGS.model_copy(update={"attacks": {}})
    result = evaluate(trained, no_certificate, small_data(), settings, "test")
    assert np.isinf(result.arrays["upper_l2"]).any() and "unattacked" in result.doubts


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (16 * x).round() / 16


def test_a_step_function_in_front_is_seen(trained: Net) -> None:
    masked = Net(nn.Sequential(Rounded(), trained.normalise), trained.body, trained.head)
    assert "zero_gradient" in evaluated(masked).doubts


class Faint(nn.Module):
    """Logits so small that a shift drowns them in float32."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, phi: Tensor) -> Tensor:
        z: Tensor = self.head(phi)
        return 1e-8 * z


def test_logits_that_drown_in_a_shift_are_seen(trained: Net) -> None:
    assert "scale_dependence" in evaluated(Net(trained.normalise, trained.body, Faint(trained.head))).doubts


def test_an_attack_on_cross_entropy_is_seen(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of cross-entropy underflows once logits are scaled up: the attack then stands still."""

    def ascend(q: Query) -> Tensor:
        point = q.x.clone()
        for _step in range(20):
            point.requires_grad_()
            with torch.enable_grad():
                loss = nn.functional.cross_entropy(q.net(point), q.y, reduction="sum")
                (grad,) = torch.autograd.grad(loss, point)
            step = grad / (grad.flatten(1).norm(dim=1)[:, None, None, None] + 1e-12)
            point = (point.detach() + 0.2 * step).clamp(0, 1)
        return point

    monkeypatch.setitem(ATTACKS, "fmn", Attack("fmn", ascend))
    assert "fmn" in evaluated(trained).doubts["scale_dependence"]


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
    def forward(self, phi: Tensor) -> Tensor:
        return torch.eye(5, device=phi.device)[0].expand(len(phi), 5) + 0 * phi.sum(1, keepdim=True)


def test_a_constant_class_is_a_collapse(trained: Net) -> None:
    doubts = evaluated(Net(trained.normalise, trained.body, Constant())).doubts
    assert "one class" in doubts["collapse"]


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


def test_a_missing_certificate_says_why(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Certificate("crown", lambda q: Answer(reason="install it"))
    monkeypatch.setitem(CERTIFICATES, "crown", absent)
    result = evaluated(trained)
    assert result.estimators["crown_l2"]["not_applicable"] == "install it"
    assert "lower_l2_crown" not in result.arrays


def test_every_doubt_explains_itself() -> None:
    for name, check in DOUBTS.items():
        assert check.__doc__ and check.__doc__.endswith("."), name


MILP = SETTINGS.model_copy(update={"points": 8, "attacks": {"blend": {}}, "certificates": {"milp": {}}})


Small = tuple[Net, Dataset]


@pytest.fixture(scope="module")
def few_units() -> Small:
    """Twelve random ReLUs behind 16 pixels, and images that are what the network says."""
    stream = torch.Generator().manual_seed(8)
    net = make_net("mlp", 6, (1, 4, 4), 3, torch.tensor([0.5]), torch.tensor([0.3]))
    x = torch.randint(256, (8, 1, 4, 4), generator=stream, dtype=torch.uint8)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream))
        y = net(x / 255).argmax(1)
    split = Split(x, y, 255)
    return net, Dataset(split, split, split, 3, "random")


def exactly(few_units: Small, **changes: Any) -> Evaluated:
    net, data = few_units
    return evaluate(net, no_certificate, data, MILP.model_copy(update=changes), "test")


def test_adversarial_images_of_the_milp_are_upper_bounds(few_units: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(margins, "ROWS", 5)  # two chunks
    result = exactly(few_units)
    correct = result.arrays["prediction"] == result.arrays["label"]
    blend, milp = (result.arrays[f"upper_linf_{name}"] for name in ("blend", "milp"))
    assert correct.sum() > 4 and (milp[correct] < 0.9 * blend[correct]).all()
    assert np.array_equal(result.arrays["upper_linf"], milp)
    assert (result.arrays["lower_linf_milp"][correct] > 0.998 * milp[correct] - 1e-5).all()
    facts = result.estimators["milp_linf"]
    assert facts["points"] == facts["solved"] == correct.sum()
    assert "upper_l2_milp" not in result.arrays and "not_applicable" in result.estimators["milp_l2"]
    assert "contradiction" not in result.doubts


def test_unsolved_points_are_counted_and_keep_their_interval(few_units: Small) -> None:
    result = exactly(few_units, certificates={"milp": {"time_limit": 0.0}})
    correct = result.arrays["prediction"] == result.arrays["label"]
    facts = result.estimators["milp_linf"]
    assert facts["points"] == correct.sum() > 0 and facts["solved"] == 0
    assert (result.arrays["lower_linf"] == 0).all()
    assert np.array_equal(result.arrays["upper_linf"], result.arrays["upper_linf_blend"])


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
    assert "lower_l2_own" not in found and ("lower_l2_crown" in found) == (wrong.stop is not None)
    if wrong.stop is not None:
        assert (found["lower_linf_crown"][32:] > 0).any() and (found["lower_linf_crown"][:32] == 0).all()


@pytest.mark.parametrize("order", [("crown", "milp"), ("milp", "crown")])
def test_a_certificate_that_the_milp_refutes_is_a_contradiction(
    few_units: Small, monkeypatch: pytest.MonkeyPatch, order: tuple[str, str]
) -> None:
    """It certifies less than the attack's distance, so that only the nearer image of the program can refute it."""
    found = exactly(few_units, certificates={}).arrays
    claimed = torch.from_numpy(0.95 * found["upper_linf_blend"][found["prediction"] == found["label"]])

    def liar(q: Query) -> Tensor:
        return claimed if q.norm == "linf" else torch.zeros(len(q.x))

    monkeypatch.setitem(CERTIFICATES, "crown", Certificate("crown", liar))
    assert "contradiction" not in exactly(few_units, certificates={"crown": {}}).doubts
    result = exactly(few_units, certificates={key: {} for key in order})
    assert result.doubts["contradiction"] == f"{len(claimed)} points"


def test_the_milp_hides_no_weak_gradient_attack(few_units: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that fails in L-infinity stays behind the black-box attacks, however near the program's images are."""
    honest = ATTACKS["fmn"]

    def lame(q: Query) -> Tensor:
        return q.x if q.norm == "linf" else honest.propose(q)

    attacks: dict[str, Any] = {"fmn": {}, "blend": {}, "noise": {}}
    assert exactly(few_units, attacks=attacks).doubts == {}
    monkeypatch.setitem(ATTACKS, "fmn", Attack("fmn", lame))
    result = exactly(few_units, attacks=attacks)
    assert np.isfinite(result.arrays["upper_linf"]).all()
    assert {"black_box_wins", "noise_wins", "no_backward"} <= set(result.doubts)


def test_the_milp_is_no_black_box_attack(few_units: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come nearer than gradients do: that is what it is for."""
    monkeypatch.setitem(ATTACKS, "fmn", replace(ATTACKS["blend"], gradient=True))  # far off
    result = exactly(few_units, attacks={"fmn": {}})
    upper, far = result.arrays["upper_linf"], result.arrays["upper_linf_fmn"]
    assert (upper < 0.9 * far).any() and "black_box_wins" not in result.doubts
