"""The reject option: threshold and robust error by hand, the attack where the answer is known, and mutants of it."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.attacks._linear import top_rivals
from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.probes import _confident_attack as attack
from marginbench.benchmarks.probes import rejection
from marginbench.benchmarks.probes.probe import Subject
from marginbench.benchmarks.probes.rejection import Rejection, threshold
from marginbench.methods import NORMS, Norm
from marginbench.methods.maths.perturb import random_start

EPSILON: dict[Norm, float] = {"linf": 0.1, "l2": 0.3}


def a_split(count: int, seed: int, net: nn.Module) -> Split:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(64, 192, (count, 1, 4, 4), generator=g, dtype=torch.uint8)  # far from the edges of the box
    split = Split(x, torch.zeros(count, dtype=torch.int64), 255)
    with torch.no_grad():
        return replace(split, y=net(split.images(slice(None))).argmax(1))


@pytest.fixture
def linear() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        net[1].bias.copy_(-0.5 * net[1].weight.sum(1))  # grey images lie on the boundary
    return net.requires_grad_(False).eval()


def run(
    net: nn.Module, steps: int = 30, tpr: float = 0.9, epsilon: dict[Norm, float] = EPSILON
) -> tuple[dict[str, Tensor], Split, Split]:
    test, held_out = a_split(40, 1, net), a_split(50, 2, net)
    probe = Rejection(tpr=tpr, steps=steps, turns=1)
    return probe.measure(Subject(net, test, held_out, held_out, epsilon, seed=0)), test, held_out


def test_on_a_linear_network_the_most_confident_wrong_image_is_known(linear: nn.Sequential) -> None:
    found, test, _ = run(linear)
    weight, (x, y) = linear[1].weight, (test.images(slice(None)), test.y)
    gap = (linear(x) * torch.tensor([[1.0, -1.0]])).sum(1) * torch.where(y == 0, 1.0, -1.0)  # z_y - z_other > 0
    slope = weight[0] - weight[1]
    for norm, dual in (("linf", slope.abs().sum()), ("l2", slope.norm())):
        best = EPSILON[norm] * dual - gap  # the log-odds of the other class at the worst point of the ball
        expected = torch.where(best > 0, best, -torch.inf)
        torch.testing.assert_close(found[f"wrong_confidence_{norm}"], expected, rtol=1e-3, atol=1e-3)
        assert 0 < int(best.gt(0).sum()) < len(best)
    torch.testing.assert_close(found["confidence"], gap)


def test_large_logits_do_not_round_confidences_to_one(linear: nn.Sequential) -> None:
    plain, test, _ = run(linear)
    with torch.no_grad():
        linear[1].weight.mul_(1000)
        linear[1].bias.mul_(1000)
    large, _, _ = run(linear)
    assert bool(linear(test.images(slice(None))).softmax(1).amax(1).eq(1).float().mean() > 0.5)
    for name in ("confidence", "wrong_confidence_linf", "wrong_confidence_l2", "rejection_threshold"):
        torch.testing.assert_close(large[name] / 1000, plain[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("factor", "usual"), [(1e-30, 1e-3), (1e-7, 1e-3), (1e30, 1e3)])
def test_the_size_of_logits_decides_nothing_where_their_order_is_that_of_the_limit(factor: float, usual: float) -> None:
    """That of z_j - mean z where logits are tiny, and of the gap to the runner-up where they are huge."""
    torch.manual_seed(0)
    epsilon = {norm: 0.3 * EPSILON[norm] for norm in NORMS}
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    weight = net[1].weight.detach().clone()

    def metrics(scale: float) -> dict[str, float]:
        with torch.no_grad():
            net[1].weight.copy_(scale * weight)
            net[1].bias.copy_(-0.5 * scale * weight.sum(1))
        found, test, _ = run(net, epsilon=epsilon)
        arrays = {name: value.numpy() for name, value in found.items()}
        arrays |= {"label": test.y.numpy(), "prediction": test.y.numpy()}
        return Rejection(tpr=0.9, steps=1).metrics(arrays, epsilon)

    expected = metrics(usual)
    assert metrics(factor) == pytest.approx(expected, abs=1.5 / 40)
    assert all(0 < expected[f"rejection_robust_accuracy_{norm}"] < 0.9 for norm in NORMS)


def slopes(scale: float) -> nn.Sequential:
    """Logits (0.2 + 3 t, t, -5 - 20 t) of t = a - 0.5 for a pixel a, times a scale."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 3))
    slope = torch.tensor([3.0, 1.0, -20.0])
    with torch.no_grad():
        net[1].weight.copy_(scale * slope[:, None])
        net[1].bias.copy_(scale * (torch.tensor([0.2, 0.0, -5.0]) - 0.5 * slope))
    return net.requires_grad_(False).eval()


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e-2])
def test_a_class_that_is_above_the_mean_need_not_win(scale: float) -> None:
    """Class 1 is furthest above the mean of the others at t = 0.2, where class 0 wins; it wins below t = -0.1, and most
    surely there. Every other attack on the way, from confident starts and at random, knows it too."""
    q = a_query(slopes(scale), torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), "linf", epsilon=0.2)
    wanted = pytest.approx(1.45 * scale, rel=0.02)
    for ascent in (attack.backtracked, attack.settled):
        assert float(attack.wrong_confidence(q, ascent(30))) == wanted
        assert float(attack.wrong_confidence(q, ascent(60))) == wanted, "where steps are as short as rounding"
        assert float(attack.from_confident_starts(q, ascent(30), attack.at_random, draws=3, followed=1)) == wanted


def test_each_target_is_climbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the log-odds and by letting the class win, from the same start and from starts of their own."""
    seen: list[str] = []

    def spy(name: str, target: attack.Target) -> attack.Target:
        def climbed(logits: Tensor, index: Tensor) -> Tensor:
            seen.append(name)
            return target(logits, index)

        return climbed

    for name in ("log_odds", "sureness"):
        monkeypatch.setattr(attack, name, spy(name, getattr(attack, name)))
    q = a_query(slopes(1e-2), torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), "linf", epsilon=0.2)
    attack.wrong_confidence(q, attack.backtracked(5))
    assert seen[:5] == ["log_odds"] * 5 and seen.count("sureness") == 5
    seen.clear()
    attack.from_confident_starts(q, attack.settled(5), attack.at_random, draws=3, followed=1)
    assert seen.count("sureness") >= 5 and seen[0] == "log_odds"


def test_sureness_is_in_the_order_of_what_is_sought() -> None:
    """First the classes that do not win, the nearest last, and then by their log-odds."""
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 1.0, 0.5], [1.0, 1.0, 1.0], [0.1, 0.0, 0.0], [3.0, 0.0, -90.0]])
    found = attack.sureness(logits, torch.zeros(5, 1, dtype=torch.int64))
    assert found[:3].tolist() == [-2.0, -1.0, 0.0] and bool((found.diff() > 0).all())
    odds = np.log(np.exp(3.0) / (np.exp([0.0, -90.0]).sum() / 2))
    assert float(found[4]) == pytest.approx(odds)


def test_the_threshold_lets_the_share_pass() -> None:
    values = torch.tensor([5.0, 1.0, 3.0, 2.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    assert threshold(values, 1.0) == 1 and threshold(values, 0.9) == 2 and threshold(values, 0.85) == 2
    assert threshold(values, 0.8) == 3
    assert threshold(values[:0], 0.9) == -torch.inf


def test_the_threshold_is_that_of_correct_images_alone(linear: nn.Sequential) -> None:
    test, held_out = a_split(40, 1, linear), a_split(50, 2, linear)
    z = linear(held_out.images(slice(None)))
    sure = (z[:, 0] - z[:, 1]).abs()  # log-odds of two classes
    wrong = sure >= sure.median()
    held_out = replace(held_out, y=torch.where(wrong, 1 - held_out.y, held_out.y))
    found = Rejection(tpr=0.8, steps=1, turns=0).measure(Subject(linear, test, held_out, test, EPSILON, seed=0))
    right = sure[~wrong].sort()[0]
    torch.testing.assert_close(found["rejection_threshold"], right[len(right) // 5])
    torch.testing.assert_close(found["confidence_held_out"].sort()[0], right[None])


def test_metrics_by_hand() -> None:
    arrays = {
        "label": np.array([0, 0, 0, 0, 0, 0]),
        "prediction": np.array([0, 0, 0, 0, 1, 1]),
        "confidence": np.array([3.0, 3.0, 1.0, 1.0, 3.0, 1.0]),
        "rejection_threshold": np.array(2.0),
        # right and safe; right and fooled; refused and fooled; refused and safe; wrong; wrong but refused
        "wrong_confidence_l2": np.array([1.0, 2.0, 4.0, -np.inf, 3.0, 1.9]),
        "wrong_confidence_linf": np.full(6, -np.inf),
    }
    metrics = Rejection(tpr=0.9, steps=1).metrics(arrays, EPSILON)
    assert metrics["rejection_rate"] == pytest.approx(3 / 6)
    assert metrics["rejection_accuracy"] == pytest.approx(2 / 3)
    assert metrics["rejection_robust_accuracy_l2"] == pytest.approx(1 - 3 / 4)
    assert metrics["rejection_robust_accuracy_linf"] == pytest.approx(1 - 1 / 3)


@pytest.fixture
def detour() -> nn.Sequential:
    """The likeliest wrong class of grey images hardly grows; another does, where the first one falls."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].weight[1, :8], net[1].weight[2, 8:] = 1.0, 8.0
        net[1].bias.copy_(torch.tensor([0.0, -0.1, -1.0]) - 0.5 * net[1].weight.sum(1))
    return net.requires_grad_(False).eval()


class Ripples(nn.Module):
    """Logits (0, 10 r - 1) of the mean r of u + 0.2 sin 20 u over the pixels 0.5 + u / 10: seven maxima for each."""

    def forward(self, x: Tensor) -> Tensor:
        u = 10 * (x.flatten(1) - 0.5)
        z = 10 * (u + 0.2 * (20 * u).sin()).mean(1) - 1
        return torch.stack([0 * z, z], 1)


def test_momentum_leaves_local_maxima() -> None:
    """Of u + 0.2 sin 20 u the largest is 1.18 in [-1, 1]: 10.8 is what can be had."""
    x = torch.full((20, 1, 8, 8), 0.5)
    q = a_query(Ripples(), x, torch.zeros(20, dtype=torch.int64), "linf", epsilon=0.1)

    def found(ascent: attack.Ascent) -> float:
        return float(attack.from_confident_starts(q, ascent, attack.at_random, draws=10, followed=1).median())

    best = 10 * float((torch.linspace(-1, 1, 10_001) + 0.2 * (20 * torch.linspace(-1, 1, 10_001)).sin()).max()) - 1
    assert 0.97 * best < found(attack.settled(50)) <= best
    assert found(attack.backtracked(50)) < 0.9 * best


@pytest.mark.parametrize("norm", NORMS)
def test_each_wrong_class_is_followed(detour: nn.Sequential, norm: Norm) -> None:
    """At grey + (d, d'): z = (0, 8 d - 0.1, 64 d' - 1); L-infinity: d = -0.1, d' = 0.1; L2: 0 and 0.3 / sqrt(8).

    In L2 d falls a little too, which is worth next to nothing.
    """
    x = torch.full((3, 1, 4, 4), 0.5)
    gap = {"linf": 64 * 0.1 - 1, "l2": 8 * 0.3 * 8**0.5 - 1}[norm]
    best = gap + np.log(2) - np.log(1 + np.exp(-0.1 - (0.8 if norm == "linf" else 0.0)))
    q = a_query(detour, x, detour(x).argmax(1), norm, epsilon=EPSILON[norm])
    rivals = top_rivals(detour, x, q.y, 9)
    assert rivals.tolist() == [[1, 2]] * 3
    assert float(attack.wrong_confidence(q, attack.backtracked(30)).max()) < 1.5
    start = random_start(x, torch.full((3,), EPSILON[norm]), norm, q.generator)
    sharp = attack.wrong_confidence(q, attack.backtracked(50), rivals[:, 1], start)
    torch.testing.assert_close(sharp, torch.full((3,), best), rtol=2e-2, atol=0)

    grey = Split((255 * x).byte(), q.y, 255)
    sure = Split(torch.full((1, 1, 4, 4), 255, dtype=torch.uint8), torch.tensor([2]), 255)  # no attack gets there
    upper = {norm: torch.tensor([0.0, EPSILON[norm], 1.01 * EPSILON[norm]]) for norm in NORMS}
    for turns, low, high in ((0, -np.inf, 1.5), (1, 0.95 * best, best + 0.1)):
        subject = Subject(detour, grey, sure, sure, EPSILON, 0, upper)
        found = Rejection(tpr=0.9, steps=50, turns=turns).measure(subject)[f"wrong_confidence_{norm}"]
        assert low <= float(found[:2].min()) <= float(found[:2].max()) <= high, turns
        assert float(found[2]) < 1.5, "no adversarial example is known in its ball"


@pytest.mark.parametrize(
    ("found", "turns"),
    [([], 2), ([1], 2), ([2], 4), ([0, 2, 1, 1, 1, 0, 50], 6), ([2] * 50, 20)],
)
def test_turns_go_on_while_they_find_more(
    linear: nn.Sequential, monkeypatch: pytest.MonkeyPatch, found: list[int], turns: int
) -> None:
    """Two more, wherever two have taken more than 1 % of the images past the threshold; twenty at most."""
    asked: list[int] = []

    def fake(q: Query, *_: object, **more: int) -> Tensor:
        passing = found[len(asked)] if len(asked) < len(found) else 0
        asked.append(len(q.x))
        return torch.where(torch.arange(len(q.x)) < passing, 5.0, 0.0)

    monkeypatch.setattr(rejection, "from_confident_starts", fake)
    x = torch.rand(100, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    q = a_query(linear, x, linear(x).argmax(1), "linf", epsilon=0.0)
    probe, attackable = Rejection(tpr=0.9, steps=1, turns=2), torch.ones(100).bool()
    best = probe._attacked(q, torch.tensor(5.0), attackable, attack.at_random)
    assert len(asked) == turns and asked[-1] == 100 - sum(found[: turns - 1])
    assert int((best >= 5).sum()) == sum(found[:turns])


def test_without_rejection_it_is_robust_accuracy(linear: nn.Sequential) -> None:
    found, test, _ = run(linear, tpr=1.0)
    arrays = {name: value.numpy() for name, value in found.items()}
    arrays |= {"rejection_threshold": np.array(-1e9), "label": test.y.numpy(), "prediction": test.y.numpy()}
    metrics = Rejection(tpr=0.9, steps=1).metrics(arrays, EPSILON)
    for norm in NORMS:
        safe = np.isinf(arrays[f"wrong_confidence_{norm}"]).mean()
        assert metrics[f"rejection_robust_accuracy_{norm}"] == pytest.approx(safe)


def test_points_stay_in_ball_and_box(linear: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            logits: Tensor = linear(x)
            return logits

    x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = linear(x).argmax(1)
    for norm in NORMS:
        far = random_start(x, torch.full((20,), EPSILON[norm]), norm, torch.Generator().manual_seed(0))
        for (rival, start), ascent in product(((None, None), (1 - y, far)), (attack.backtracked, attack.settled)):
            seen.clear()
            attack.wrong_confidence(a_query(Spy(), x, y, norm, epsilon=EPSILON[norm]), ascent(20), rival, start)
            points = torch.stack(seen)
            move = (points - x).flatten(2)
            size = move.norm(dim=2) if norm == "l2" else move.abs().amax(2)
            assert float(size.max()) <= EPSILON[norm] + 1e-6
            assert float(points.min()) >= 0 and float(points.max()) <= 1


@pytest.mark.parametrize("mutant", ["returns its input", "ignores the wrong class"])
def test_a_broken_attack_is_noticed(linear: nn.Sequential, monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    if mutant == "returns its input":
        for ascent in ("backtracked", "settled"):
            monkeypatch.setattr(rejection, ascent, lambda steps: lambda objective, q, start: objective(q.x))
    else:
        for target in ("sureness", "log_odds"):
            monkeypatch.setattr(attack, target, lambda logits, index: logits.sum(1))
    with pytest.raises(AssertionError):
        test_on_a_linear_network_the_most_confident_wrong_image_is_known(linear)
