"""Attacks: exact on linear networks, blind to the scale of logits, and honest about failure."""

import importlib
import itertools
import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from support import a_query
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.attacks._wrap import Logits
from marginbench.benchmarks.attacks.from_file import foreign
from marginbench.benchmarks.attacks.listed import ATTACKS, Attack, attack
from marginbench.benchmarks.attacks.ray import distance, is_adversarial, tighten
from marginbench.benchmarks.estimator import Query
from marginbench.methods import NORMS, MarginbenchError, Norm

SHAPE = (1, 6, 6)
EPSILON: dict[Norm, float] = {"l2": 1.0, "linf": 0.25}
MINIMUM_NORM = [name for name, one in ATTACKS.items() if one.minimum_norm]
BLACK_BOX = {name for name, one in ATTACKS.items() if not one.gradient}
AT_EPSILON = ("apgd", "apgd_ce", "apgd_t", "square")


def random_net(seed: int, classes: int = 5, width: int | None = 32) -> nn.Sequential:
    """A linear network, or one with a hidden layer, whose decision boundaries meet near the grey image."""
    draw = torch.Generator().manual_seed(seed)
    inputs = math.prod(SHAPE)
    sizes = [inputs, classes] if width is None else [inputs, width, classes]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(sizes):
        layer = nn.Linear(fan_in, fan_out)
        layer.weight.data = torch.randn(fan_out, fan_in, generator=draw) / math.sqrt(fan_in)
        layer.bias.data.zero_()
        layers += [layer, nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).eval().requires_grad_(False)
    net[-1].bias.data = -net(torch.full((1, *SHAPE), 0.5))[0]
    return net


def images(seed: int, count: int, spread: float) -> Tensor:
    """Uniform noise around grey; a spread above 1 puts many pixels on the border of the box."""
    noise = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return (0.5 + spread * (noise - 0.5)).clamp(0, 1)


def predicted(net: nn.Module, x: Tensor) -> Tensor:
    return net(x).argmax(1)


def propose_by(
    attack: Attack, net: nn.Module, x: Tensor, y: Tensor, norm: Norm, epsilon: float | None = None, **settings: Any
) -> Tensor:
    q = a_query(net, x, y, norm, seed=3, epsilon=epsilon or EPSILON[norm], reference=images(9, 40, 1.0))
    return attack.propose(q, **settings)


def propose(name: str, net: nn.Module, x: Tensor, y: Tensor, norm: Norm, **settings: Any) -> Tensor:
    return propose_by(ATTACKS[name], net, x, y, norm, **settings)


def found(name: str, net: nn.Module, x: Tensor, y: Tensor, norm: Norm, **settings: Any) -> Tensor:
    return tighten(net, x, propose(name, net, x, y, norm, **settings), y, norm, steps=24)[1]


def margin_without_box(net: nn.Sequential, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """min_j (z_y - z_j) / ||w_y - w_j||_dual."""
    difference = net[-1].weight[None] - net[-1].weight[y][:, None]
    dual = difference.norm(dim=2) if norm == "l2" else difference.abs().sum(2)
    z = net(x)
    return ((z.gather(1, y[:, None]) - z) / dual).scatter(1, y[:, None], torch.inf).amin(1)


def margin_in_box(net: nn.Sequential, x: Tensor, y: int, norm: Norm) -> float:
    """The distance to the nearest half-space of a rival within the box, in float64 by general solvers."""
    weight, bias = net[-1].weight.double(), net[-1].bias.double()
    start = x.flatten().double()
    room = list(zip((-start).tolist(), (1 - start).tolist(), strict=True))
    best = math.inf
    for rival in set(range(len(bias))) - {y}:
        normal = weight[rival] - weight[y]
        goal = -float(normal @ start + bias[rival] - bias[y])
        reach = sum(float(w) * (high if w > 0 else low) for w, (low, high) in zip(normal, room, strict=True))
        if reach < goal:
            continue
        w = normal.numpy()
        if norm == "linf":
            eye = torch.eye(len(w)).numpy()
            rows = [[*-w, 0.0], *([*e, -1.0] for e in eye), *([*-e, -1.0] for e in eye)]
            cost = [0.0] * len(w) + [1.0]
            result = linprog(cost, A_ub=rows, b_ub=[-goal] + [0.0] * 2 * len(w), bounds=[*room, (0, None)])
        else:
            constraint = {
                "type": "eq",
                "fun": lambda d, w=w, goal=goal: w @ d - goal,
                "jac": lambda d, w=w: w,
            }
            result = minimize(
                lambda d: d @ d,
                0 * w,
                jac=lambda d: 2 * d,
                bounds=room,
                constraints=constraint,
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
        assert result.success
        best = min(best, float(result.fun) if norm == "linf" else math.sqrt(result.fun))
    return best


@pytest.mark.parametrize("norm", NORMS)
def test_linear_network_inside_the_box(norm: Norm) -> None:
    net, x = random_net(0, width=None), images(0, 60, 0.4)
    y = predicted(net, x)
    exact = margin_without_box(net, x, y, norm)
    torch.testing.assert_close(found("deepfool", net, x, y, norm), exact, rtol=1e-5, atol=1e-6)
    for name in MINIMUM_NORM:
        reached = found(name, net, x, y, norm)
        torch.testing.assert_close(reached, exact, rtol=0.02, atol=0, msg=lambda m, name=name: f"{name}: {m}")
    for name in ATTACKS:
        assert (found(name, net, x, y, norm) >= exact * (1 - 1e-5) - 1e-6).all(), name


@pytest.mark.parametrize("norm", NORMS)
def test_linear_network_held_by_the_box(norm: Norm) -> None:
    net, x = random_net(1, width=None), images(1, 8, 2.5)
    y = predicted(net, x)
    exact = torch.tensor([margin_in_box(net, a, int(b), norm) for a, b in zip(x, y, strict=True)])
    assert (exact > 1.03 * margin_without_box(net, x, y, norm)).all(), "the test needs a box that matters"
    torch.testing.assert_close(found("deepfool", net, x, y, norm), exact, rtol=1e-5, atol=1e-6)
    for name in MINIMUM_NORM:
        reached = found(name, net, x, y, norm)
        torch.testing.assert_close(reached, exact, rtol=0.02, atol=0, msg=lambda m, name=name: f"{name}: {m}")
    for name in ATTACKS:
        assert (found(name, net, x, y, norm) >= exact * (1 - 1e-5) - 1e-6).all(), name


@pytest.mark.parametrize("norm", NORMS)
def test_first_step_solves_a_linear_network_up_to_the_overshoot(norm: Norm) -> None:
    net, x = random_net(0, width=None), images(0, 40, 0.4)
    y = predicted(net, x)
    one = propose("deepfool", net, x, y, norm, steps=1)
    raw, tight = distance(one.double() - x.double(), norm), tighten(net, x, one, y, norm)[1]
    torch.testing.assert_close(raw, 1.02 * tight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(tight, found("deepfool", net, x, y, norm), rtol=1e-5, atol=1e-6)


class Scaled(nn.Module):
    """a z + b."""

    def __init__(self, net: nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.net, self.scale, self.shift = net, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.scale + self.shift


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_scale_and_shift_of_logits_do_not_matter(name: str, norm: Norm) -> None:
    net, x = random_net(2), images(2, 40, 1.0)
    y = predicted(net, x)
    plain = found(name, net, x, y, norm)
    assert plain.isfinite().float().mean() > 0.5
    for scale, shift in [(100.0, 0.0), (1e-3, 0.0), (1.0, 50.0), (1e-30, 0.0), (1e30, 0.0)]:
        other = found(name, Scaled(net, scale, shift), x, y, norm)
        assert torch.equal(other.isfinite(), plain.isfinite()), (scale, shift)
        ratio = other[other.isfinite()].mean() / plain[plain.isfinite()].mean()
        assert abs(ratio - 1) < 1e-3, (scale, shift)


class CosineHead(nn.Module):
    """s cos(phi, w_j): softmax saturates at s = 64, and cross-entropy has no gradient in float32."""

    def __init__(self, net: nn.Sequential, scale: float) -> None:
        super().__init__()
        self.body, self.weight, self.scale = net[:-1], net[-1].weight, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.normalize(self.body(x)) @ F.normalize(self.weight).T


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", sorted(set(ATTACKS) - BLACK_BOX))
def test_cosine_head_of_scale_64(name: str, norm: Norm) -> None:
    base, x = random_net(3), images(3, 40, 1.0)
    small, large = CosineHead(base, 1.0), CosineHead(base, 64.0)
    y = predicted(large, x)
    reached = found(name, large, x, y, norm)
    assert reached.isfinite().float().mean() >= 0.95
    assert torch.allclose(reached, found(name, small, x, y, norm), rtol=1e-2)


class Constant(nn.Module):
    """The same logits for every image, with or without a graph to the input."""

    def __init__(self, classes: int, graph: bool) -> None:
        super().__init__()
        self.classes, self.graph = classes, graph

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.arange(self.classes, 0.0, -1.0).expand(len(x), -1)
        return logits + 0 * x.flatten(1).sum(1, keepdim=True) if self.graph else logits.clone()


class Broken(nn.Module):
    """Class 0 with logits of one value in one half of the box, logits that are not finite in the other."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.flatten(1).mean(1, keepdim=True)
        logits = torch.cat([3 - brightness, brightness, -brightness, 0 * brightness], 1)
        return torch.where(brightness > 0.5, self.value, logits)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_failure_is_infinite(name: str, norm: Norm) -> None:
    x = images(4, 6, 0.5)
    nets = [Constant(5, graph=False), Constant(5, graph=True), Constant(2, graph=True)]
    for net in [*nets, Broken(math.nan), Broken(math.inf)]:
        dark = x * 0.5
        assert (predicted(net, dark) == 0).all()
        y = torch.zeros(6, dtype=torch.int64)
        candidate = propose(name, net, dark, y, norm)
        assert candidate.isfinite().all()
        point, reached = tighten(net, dark, candidate, y, norm)
        assert (reached == torch.inf).all()
        assert torch.equal(point, dark)


class Planted(nn.Module):
    """Class 0 everywhere but in a small ball around one image. Without gradients."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image

    def forward(self, x: Tensor) -> Tensor:
        inside = ((x - self.image).flatten(1).norm(dim=1) < 0.5).float()
        return torch.stack([1 - inside, inside, 0 * inside - 1, 0 * inside - 1], 1)


@pytest.mark.parametrize("norm", NORMS)
def test_blend_finds_a_planted_adversarial_example(norm: Norm) -> None:
    reference = images(9, 40, 1.0)
    net, x = Planted(reference[17]), images(5, 10, 0.2)
    y = predicted(net, x)
    assert (y == 0).all()
    assert (found("deepfool", net, x, y, norm) == torch.inf).all()
    point, reached = tighten(net, x, propose("blend", net, x, y, norm), y, norm)
    assert is_adversarial(net, point, y).all()
    assert (reached < distance(reference[17].double() - x.double(), norm)).all()


def test_blend_takes_the_nearest_image_of_another_class() -> None:
    net, x, reference = random_net(6), images(6, 20, 1.0), images(9, 40, 1.0)
    y, classes = predicted(net, x), predicted(net, reference)
    candidate = propose("blend", net, x, y, "linf")
    for image, label, chosen in zip(x, y, candidate, strict=True):
        others = reference[classes != label]
        assert torch.equal(chosen, others[(others - image).abs().flatten(1).amax(1).argmin()])


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_leave_everything_as_it_was(name: str, norm: Norm, classes: int) -> None:
    net, x = random_net(7, classes).requires_grad_(True), images(7, 12, 1.0)
    net[1].train()  # a mixture of modes, to see that none is changed
    y = predicted(net, x)
    before, state, modes = x.clone(), torch.get_rng_state(), [m.training for m in net.modules()]
    elsewhere = (random.getstate(), np.random.get_state()[1].tolist())
    candidate = propose(name, net, x, y, norm)
    assert torch.equal(torch.get_rng_state(), state)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == elsewhere
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(x, before)
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())
    assert candidate.shape == x.shape
    assert candidate.dtype == torch.float32
    assert not candidate.requires_grad
    assert candidate.data_ptr() != x.data_ptr()
    assert candidate.min() >= 0
    assert candidate.max() <= 1
    assert torch.equal(candidate, propose(name, net, x, y, norm)), "same generator, same points"
    adversarial = is_adversarial(net, candidate, y)
    assert adversarial.float().mean() > 0.3
    if name in AT_EPSILON:
        assert (distance(candidate.double() - x.double(), norm) <= EPSILON[norm] * (1 + 1e-5)).all()
    assert propose(name, net, x[:0], y[:0], norm).shape == x[:0].shape


class Recorder(nn.Module):
    """Counts the forward passes that could be differentiated."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.differentiable = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.differentiable += x.requires_grad and torch.is_grad_enabled()
        return self.net(x)


@pytest.mark.parametrize("name", ATTACKS)
def test_black_box_attacks_use_no_gradients(name: str) -> None:
    net, x = Recorder(random_net(8)), images(8, 10, 1.0)
    propose(name, net, x, predicted(net, x), "l2")
    assert (net.differentiable == 0) == (name in BLACK_BOX)


def follows_the_norm(attack: Attack, norm: Norm) -> bool:
    """Two classes, no walls near: the margin in this norm is reached within 2 %. The other norm's point is farther."""
    net, x = random_net(15, classes=2, width=None), images(15, 20, 0.2)
    y = predicted(net, x)
    point = propose_by(attack, net, x, y, norm, epsilon=1.0)
    reached = tighten(net, x, point, y, norm, steps=24)[1]
    return bool((reached <= 1.02 * margin_without_box(net, x, y, norm)).all())


def torchattacks_fab(norm: str) -> Attack:
    """FAB of torchattacks in the norm given here, whatever it is asked for. Without a norm it is L-infinity."""

    def make(model: nn.Module, _norm: str, epsilon: float) -> Any:
        import torchattacks

        return torchattacks.FAB(model, norm=norm, eps=epsilon, steps=20, multi_targeted=True, n_classes=2)

    return foreign(make)


@pytest.mark.parametrize("norm", NORMS)
def test_minimum_norm_attacks_follow_the_norm(norm: Norm) -> None:
    for name in MINIMUM_NORM:
        assert follows_the_norm(ATTACKS[name], norm), name
    right, wrong = ("L2", "Linf") if norm == "l2" else ("Linf", "L2")
    assert follows_the_norm(torchattacks_fab(right), norm)
    assert not follows_the_norm(torchattacks_fab(wrong), norm), "FAB in the wrong norm"
    assert not follows_the_norm(Attack("idle", lambda q: q.x.clone()), norm), "an attack that returns its input"


def ignores_other_images(attack: Attack, norm: Norm, **settings: Any) -> bool:
    """Are the points for the last images the same, whatever the first images of the batch are?

    Batches of equal shape get the same random numbers, so that attacks with random starts can be asked, too.
    """
    net, x = random_net(16), images(16, 24, 1.0)
    net[1].weight.data *= torch.linspace(0.2, 3, 32)[:, None]
    y = predicted(net, x)
    others = images(17, 12, 0.2)
    batches = [(x, y), (torch.cat([others, x[12:]]), torch.cat([predicted(net, others), y[12:]]))]
    points = [propose_by(attack, net, *batch, norm, epsilon=EPSILON[norm] / 2, **settings)[12:] for batch in batches]
    return torch.allclose(*points, atol=1e-4)


def mean_gradient(q: Query) -> Tensor:
    """A mutant: every image moves along the mean gradient of the batch."""
    point = q.x.clone().requires_grad_()
    logits = q.net(point)
    (gradient,) = torch.autograd.grad((logits.logsumexp(1) - logits.gather(1, q.y[:, None])[:, 0]).sum(), point)
    return (q.x + gradient.mean(0, keepdim=True).sign()).clamp(0, 1)


def library_apgdt(model: nn.Module, norm: str, epsilon: float) -> Any:
    import torchattacks

    return torchattacks.APGDT(model, norm=norm, eps=epsilon, steps=30, n_classes=2)


@pytest.mark.parametrize("norm", NORMS)
def test_other_images_of_the_batch_do_not_matter(norm: Norm) -> None:
    one = {"apgd_t": {"targets": 1}}  # images that the first target has broken leave, and with them random numbers
    for name in ATTACKS:
        if (name, norm) != ("square", "l2"):  # draws for the images that are left, one after the other
            assert ignores_other_images(ATTACKS[name], norm, **one.get(name, {})), name
    assert not ignores_other_images(Attack("mean", mean_gradient), norm)


def test_the_librarys_own_targeted_apgd_depends_on_the_first_image_in_l2() -> None:
    assert ignores_other_images(foreign(library_apgdt), "linf")
    assert not ignores_other_images(foreign(library_apgdt), "l2"), "repaired? then it could be used"


@pytest.mark.parametrize("norm", NORMS)
def test_targeted_apgd_finds_what_the_librarys_own_finds(norm: Norm) -> None:
    net, x = random_net(18, classes=10), images(18, 60, 1.0)
    y = predicted(net, x)
    radius = found("deepfool", net, x, y, norm).median()  # about half of the images can be broken

    def library(model: nn.Module, norm: str, epsilon: float) -> Any:
        import torchattacks

        return torchattacks.APGDT(model, norm=norm, eps=float(radius), steps=100, n_classes=10)

    theirs = tighten(net, x, propose_by(foreign(library), net, x, y, norm), y, norm)[1].isfinite()
    point = propose_by(ATTACKS["apgd_t"], net, x, y, norm, epsilon=float(radius), steps=100, targets=9)
    ours = tighten(net, x, point, y, norm)[1].isfinite()
    assert 0.3 < theirs.float().mean() < 0.7
    assert (ours == theirs).float().mean() > 0.98


def test_cross_entropy_of_the_original_depends_on_the_scale() -> None:
    net, x = random_net(19), images(19, 20, 1.0)
    y = predicted(net, x)
    large = Scaled(net, 1e4, 0.0)  # cross-entropy saturates
    for original in (False, True):
        points = [propose("apgd_ce", n, x, y, "linf", original=original, epsilon=0.05) for n in (net, large)]
        shares = [float(is_adversarial(net, point, y).float().mean()) for point in points]
        assert (shares[1] < shares[0] - 0.1) == original, shares


def test_square_as_the_original_cuts_the_schedule_for_10000_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchattacks

    seen = []
    init = torchattacks.Square.__init__
    monkeypatch.setattr(torchattacks.Square, "__init__", lambda self, *a, **k: (seen.append(k), init(self, *a, **k))[1])
    net, x = random_net(19), images(19, 4, 0.3)
    for original in (False, True):
        propose("square", net, x, predicted(net, x), "linf", original=original)
    assert [s["resc_schedule"] for s in seen] == [True, False]


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_targeted_apgd_says_when_it_is_not_autoattack(classes: int, caplog: pytest.LogCaptureFixture) -> None:
    from marginbench.benchmarks.attacks import library

    library._not_autoattack.cache_clear()
    net, x = random_net(20, classes), images(20, 10, 1.0)
    propose("apgd_t", net, x, predicted(net, x), "l2")
    assert ("not AutoAttack" in caplog.text) == (classes < 4)


@pytest.mark.parametrize("norm", NORMS)
def test_search_of_cw_goes_both_ways(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    """From starts that are far too small or large, the search still comes to the same distances."""
    module = importlib.import_module("marginbench.benchmarks.attacks.cw")  # the package holds the function by this name
    net, x = random_net(10, classes=10), images(10, 40, 1.0)
    y = predicted(net, x)
    plain = found("cw", net, x, y, norm, searches=10)
    start = module._linear_start
    for factor in (0.2, 5.0):
        changed = lambda *a, factor=factor: (start(*a)[0], start(*a)[1] * factor, start(*a)[2])  # noqa: E731
        monkeypatch.setattr(module, "_linear_start", changed)
        other = found("cw", net, x, y, norm, searches=10)
        assert other.isfinite().all()
        assert other.mean() < 1.03 * plain.mean(), factor


def test_logits_for_libraries_keep_the_order_and_the_modes() -> None:
    net, x = random_net(21), images(21, 10, 1.0)
    model = Logits(net, x.device)
    assert torch.equal(model(x).argsort(1), net(x).argsort(1))
    torch.testing.assert_close(Logits(Scaled(net, 7.0, -3.0), x.device)(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Logits(net, x.device, standardised=False)(x), net(x))
    model.train()
    assert not any(m.training for m in net.modules())


def test_what_is_no_attack_is_refused() -> None:
    def positional(q: Query, steps: int = 3) -> Tensor:
        return q.x

    def without_default(q: Query, *, steps: int) -> Tensor:
        return q.x

    def nothing() -> None:
        return None

    for function in (positional, without_default, nothing):
        with pytest.raises(MarginbenchError, match=f"{function.__name__}: write \\(q: Query, \\*"):
            attack()(function)  # type: ignore[arg-type]
        assert function.__name__ not in ATTACKS


def test_points_of_another_shape_are_refused_by_name() -> None:
    x = images(1, 3, 1.0)
    q = a_query(Constant(3, graph=True), x, torch.zeros(3, dtype=torch.int64), "l2")
    for function, got in ((lambda q: q.x[:, 0], r"\(3, 6, 6\)"), (lambda q: None, "NoneType")):
        with pytest.raises(MarginbenchError, match=f"attack 'odd' returned {got}"):
            Attack("odd", function)(q)


def test_square_declines_images_that_the_library_cannot_treat() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 4)).eval()
    x = torch.full((3, 1, 4, 6), 0.5)
    assert torch.equal(propose("square", net, x, predicted(net, x), "linf"), x)


@pytest.mark.parametrize("norm", NORMS)
def test_more_effort_finds_closer_points(norm: Norm) -> None:
    net, x = random_net(10, classes=10), images(10, 60, 1.0)
    y = predicted(net, x)
    near = found("deepfool", net, x, y, norm)
    assert near.isfinite().all()
    assert near.mean() < 1.03 * found("fmn", net, x, y, norm, steps=200).mean()
    assert found("fmn", net, x, y, norm).mean() < 1.03 * found("fmn", net, x, y, norm, steps=200).mean()
    assert near.mean() < 0.7 * found("noise", net, x, y, norm).mean(), "random directions beat gradients"
    assert near.mean() < 0.9 * found("blend", net, x, y, norm).mean()


def test_tighten_stops_at_the_class_change() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval().requires_grad_(False)
    net[1].weight.data = torch.stack([torch.zeros(36), torch.eye(36)[0]])
    net[1].bias.data = torch.tensor([0.75, 0.0])  # class 1 from 0.75 on, in the first pixel
    x, y = torch.zeros(4, *SHAPE), torch.zeros(4, dtype=torch.int64)
    candidate = torch.zeros(4, *SHAPE)
    candidate[0, 0, 0, 0] = 1.0
    candidate[1, 0, 0, 0] = 7.0  # outside the box
    candidate[2] = torch.nan
    for norm in NORMS:
        point, reached = tighten(net, x, candidate, y, norm, steps=20)
        assert reached[:2].tolist() == pytest.approx([0.75, 0.75], rel=1e-5)
        assert (reached[:2] >= 0.75).all()
        assert (reached[2:] == torch.inf).all()
        assert is_adversarial(net, point, y).tolist() == [True, True, False, False]
        assert torch.equal(point[2:], x[2:])


def test_attack_that_does_nothing_is_infinite() -> None:
    net, x = random_net(11), images(11, 10, 1.0)
    point, reached = tighten(net, x, x.clone(), predicted(net, x), "l2")
    assert (reached == torch.inf).all()
    assert torch.equal(point, x)


def test_ties_are_adversarial_only_if_the_prediction_changes() -> None:
    net = Constant(3, graph=False)
    x = images(12, 2, 1.0)
    assert is_adversarial(lambda a: 0 * net(a), x, torch.tensor([0, 1])).tolist() == [False, True]


def test_distance_is_never_below_the_true_one() -> None:
    a, b = images(13, 20, 1.0), images(14, 20, 1.0)
    a[0], b[0] = 1e-30, 0.0
    a[1] = b[1]
    delta = a.double() - b.double()
    exact = [
        [abs(Fraction(float(p)) - Fraction(float(q))) for p, q in zip(r.flatten(), s.flatten(), strict=True)]
        for r, s in zip(a, b, strict=True)
    ]
    for row, l2, linf in zip(exact, distance(delta, "l2"), distance(delta, "linf"), strict=True):
        squares = sum(e * e for e in row)
        assert Fraction(float(l2)) ** 2 >= squares
        assert Fraction(float(l2)) ** 2 <= squares * (1 + Fraction(1, 10**6))
        assert max(row) <= Fraction(float(linf)) <= max(row) * (1 + Fraction(1, 10**6))
