"""Exact margins: equal to closed forms and to brute force, and enclosed by CROWN and the attacks."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.attacks.deepfool import deepfool
from marginbench.benchmarks.attacks.fmn import fmn
from marginbench.benchmarks.certificates import _milp_model as model
from marginbench.benchmarks.certificates.crown import crown
from marginbench.benchmarks.certificates.milp import milp
from marginbench.benchmarks.estimator import Answer


def network(widths: list[int], seed: int) -> nn.Sequential:
    """Random [1, 1, n] images to logits, 0 on average, so that all classes win somewhere."""
    layers: list[nn.Module] = [nn.Flatten()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).requires_grad_(False).eval()
    for parameter in net.parameters():
        parameter.mul_(3)
    net[-1].bias -= net(images(500, widths[0], seed=9)).mean(0)
    return net


def images(count: int, pixels: int, seed: int = 0) -> Tensor:
    x = torch.rand(count, 1, 1, pixels, generator=torch.Generator().manual_seed(seed))
    return (1.4 * x - 0.2).clamp(0, 1)  # pixels at the edges of the box, as in real images


def predicted(net: nn.Sequential, x: Tensor) -> Tensor:
    return net(x).argmax(1)


class Exact(NamedTuple):
    lower: Tensor
    upper: Tensor
    solved: Tensor


def exact(net: nn.Sequential, x: Tensor, label: Tensor, upper: Tensor | None = None, time_limit: float = 60.0) -> Exact:
    found = milp(a_query(net, x, label, "linf", upper=upper), time_limit=time_limit)
    assert found.lower is not None and found.upper is not None and found.solved is not None
    assert not any(values.isnan().any() for values in (found.lower, found.upper))
    return Exact(found.lower, found.upper, found.solved)


def faults(found: Exact, truth: Tensor) -> list[str]:
    """What is wrong with an answer, where the margins are known: [B] float64, infinite without adversarial images."""
    lower, upper = found.lower.double(), found.upper.double()
    wrong = {
        "lower bound above the margin": lower > truth,
        "upper bound below the margin": upper < truth * (1 - 1e-4) - 1e-6,  # the logits are float32
        "not solved": ~found.solved,
        "lower bound too low": lower < truth * (1 - 2e-3) - 1e-5,
        "upper bound too high": (upper > truth * (1 + 2e-3) + 1e-5) & truth.isfinite(),
    }
    return [what for what, where in wrong.items() if where.any()]


def linear_margin(net: nn.Sequential, x: Tensor, label: Tensor, box: bool = True) -> Tensor:
    """By bisection on the radius at which the fall of some z_y - z_j over the ball reaches its value."""
    linear = net[-1]
    weight, bias = linear.weight.double(), linear.bias.double()
    flat = x.flatten(1).double()
    z = flat @ weight.T + bias
    rows = weight[label][:, None] - weight
    gaps = z.gather(1, label[:, None]) - z
    if not box:
        ratio = gaps / rows.abs().sum(-1)
        return ratio.scatter(1, label[:, None], torch.inf).amin(1)
    room = torch.where(rows > 0, flat[:, None], 1 - flat[:, None])
    low, high = torch.zeros_like(gaps), torch.ones_like(gaps)
    for _ in range(60):
        middle = (low + high) / 2
        reached = (rows.abs() * torch.minimum(room, middle[..., None])).sum(-1) >= gaps
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    never = (rows.abs() * room).sum(-1) < gaps
    return high.masked_fill(never, torch.inf).scatter(1, label[:, None], torch.inf).amin(1)


def brute_force(net: nn.Sequential, x: Tensor, label: Tensor) -> Tensor:
    """One linear program for every activation pattern and rival."""
    layers = [(layer.weight.double().numpy(), layer.bias.double().numpy()) for layer in net[1::2]]
    return torch.tensor(
        [_nearest(layers, point, int(y)) for point, y in zip(x.flatten(1).double().numpy(), label, strict=True)],
        dtype=torch.float64,
    )


def _nearest(layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray, y: int) -> float:
    n = len(x)
    hidden = [len(bias) for _, bias in layers[:-1]]
    moves = np.hstack([np.eye(n), -np.ones((n, 1))])  # variables x', eps: x' - eps <= x, -x' - eps <= -x
    ball = np.vstack([moves, np.hstack([-np.eye(n), -np.ones((n, 1))])])
    best = np.inf
    for pattern in itertools.product([0.0, 1.0], repeat=sum(hidden)):
        signs = iter(np.split(np.array(pattern), np.cumsum(hidden)[:-1]))
        matrix, constant = np.eye(n), np.zeros(n)
        rows, bounds = [], []
        for weight, bias in layers[:-1]:
            on = next(signs)
            matrix, constant = weight @ matrix, weight @ constant + bias
            side = 1 - 2 * on  # off: z <= 0; on: -z <= 0
            rows.append(side[:, None] * matrix)
            bounds.append(-side * constant)
            matrix, constant = on[:, None] * matrix, on * constant
        weight, bias = layers[-1]
        matrix, constant = weight @ matrix, weight @ constant + bias
        for j in set(range(len(bias))) - {y}:
            a = np.vstack([*rows, (matrix[y] - matrix[j])[None]])
            b = np.concatenate([*bounds, [constant[j] - constant[y]]])
            a = np.vstack([ball, np.hstack([a, np.zeros((len(a), 1))])])
            cost = np.append(np.zeros(n), 1.0)
            result = linprog(cost, A_ub=a, b_ub=np.concatenate([x, -x, b]), bounds=[(0, 1)] * n + [(0, None)])
            if result.status == 0:
                best = min(best, result.fun)
    return best


def test_linear_network_away_from_the_edges_has_the_closed_form() -> None:
    net = network([12, 4], seed=1)
    x = 0.5 + 0.05 * (images(6, 12) - 0.5)
    label = predicted(net, x)
    truth = linear_margin(net, x, label, box=False)
    assert (truth < 0.45).any()
    inside = truth < 0.45
    assert faults(exact(net, x[inside], label[inside]), truth[inside]) == []


@pytest.mark.parametrize("classes", [4, 12])
def test_linear_network_in_the_box(classes: int) -> None:
    net, x = network([12, classes], seed=1), images(12, 12)
    label = predicted(net, x)
    truth = linear_margin(net, x, label)
    assert (truth > linear_margin(net, x, label, box=False) * 1.05).any()
    assert faults(exact(net, x, label), truth) == []


@pytest.fixture(scope="module")
def tiny() -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """A network with 3 inputs and 4 + 3 ReLUs, images, labels and their margins by brute force."""
    net, x = network([3, 4, 3, 3], seed=9), images(5, 3, seed=1)
    label = predicted(net, x)
    return net, x, label, brute_force(net, x, label)


Tiny = tuple[nn.Sequential, Tensor, Tensor, Tensor]


def test_brute_force_over_all_activation_patterns(tiny: Tiny) -> None:
    net, x, label, truth = tiny
    assert (truth.isfinite() & (truth > 0.05)).sum() >= 3
    assert len(label.unique()) > 1
    assert faults(exact(net, x, label), truth) == []


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_a_known_adversarial_distance_changes_nothing_but_time(tiny: Tiny, factor: float) -> None:
    net, x, label, truth = tiny
    found = exact(net, x, label, upper=(factor * truth * (1 + 1e-6)).float())
    assert faults(found, truth) == []


def test_enclosed_by_crown_and_attacks() -> None:
    net, x = network([16, 8, 6, 4], seed=2), images(4, 16)
    label = predicted(net, x)
    q = a_query(net, x, label, "linf")
    upper = torch.minimum(*(attack(q).upper for attack in (deepfool, fmn)))
    certified = crown(q).lower
    assert certified is not None
    found = exact(net, x, label, upper=upper)
    assert found.solved.all()
    assert (certified <= found.upper).all()
    assert (certified * (1 - 1e-3) <= found.lower).all()
    assert (found.lower <= found.upper).all()
    assert (found.upper <= upper).all()
    assert (found.lower > certified * 1.01).any()
    alone = exact(net, x, label)
    assert torch.allclose(alone.upper, found.upper, rtol=2e-3)


def narrow_bounds(patch: pytest.MonkeyPatch) -> None:
    original = model.pre_activation_bounds
    patch.setattr(model, "pre_activation_bounds", lambda *a: [(low / 4, high / 4) for low, high in original(*a)])


def no_box(patch: pytest.MonkeyPatch) -> None:
    original = model.encode

    def encode(*arguments: object) -> model.Program:
        program = original(*arguments)
        program.low[: program.pixels], program.high[: program.pixels] = -1, 1
        return program

    patch.setattr(model, "encode", encode)


def strict_rival(patch: pytest.MonkeyPatch) -> None:
    original = model.Program.at_least
    patch.setattr(model.Program, "at_least", lambda self, row, bound: original(self, row, bound + 0.1))


def long_moves(patch: pytest.MonkeyPatch) -> None:
    original = model.Program.size_of_move
    patch.setattr(model.Program, "size_of_move", lambda self: 1.1 * original(self))


def one_rival(patch: pytest.MonkeyPatch) -> None:
    original = model.least_values

    def least_values(blocks: list, bounds: list, ball: object, rows: Tensor) -> Tensor:  # type: ignore[type-arg]
        least = original(blocks, bounds, ball, rows)
        return least.index_fill(0, torch.tensor(1), torch.inf) if len(rows) == 2 else least

    patch.setattr(model, "least_values", least_values)


@pytest.mark.parametrize("mutant", [narrow_bounds, no_box, strict_rival, long_moves, one_rival])
def test_mutants_are_noticed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, mutant: object) -> None:
    assert callable(mutant)
    mutant(monkeypatch)
    net, x, label, truth = tiny
    assert faults(exact(net, x, label), truth)


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_no_time_leaves_an_honest_interval(tiny: Tiny, seconds: float) -> None:
    net, x, label, truth = tiny
    upper = (1.2 * truth).float()
    for known in (None, upper):
        found = exact(net, x, label, upper=known, time_limit=seconds)
        assert (found.lower.double() <= truth).all() and (found.upper.double() >= truth * (1 - 1e-4)).all()
        if seconds == 0:
            assert (found.lower == 0).all() and not found.solved.any()
            assert torch.equal(found.upper, torch.full_like(upper, torch.inf) if known is None else upper)


def test_no_adversarial_image_in_the_box() -> None:
    net, x = network([3, 4, 3], seed=5), images(2, 3)
    net[-1].bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
    found = exact(net, x, predicted(net, x))
    assert found.lower.isinf().all() and found.upper.isinf().all() and found.solved.all()
    net[-1].bias[0] = torch.nan
    assert milp(a_query(net, x, torch.zeros(2, dtype=torch.int64), "linf")).lower is None


def test_a_wrong_prediction_has_margin_zero_and_no_image_none(tiny: Tiny) -> None:
    net, x, label, _ = tiny
    found = exact(net, x, (label + 1) % 3)
    assert (found.lower == 0).all() and (found.upper == 0).all() and found.solved.all()
    assert exact(net, x[:0], label[:0]).lower.shape == (0,)


def test_not_applicable(tiny: Tiny) -> None:
    net, x, label, _ = tiny
    other = nn.Sequential(*net[:2], nn.Sigmoid(), *net[3:])
    for answer, reason in [
        (milp(a_query(net, x, label, "l2")), "L-infinity"),
        (milp(a_query(other, x, label, "linf")), "affine layers and ReLUs"),
        (milp(a_query(net, x, label, "linf"), max_units=6), "7 hidden units"),
    ]:
        assert answer == Answer(reason=answer.reason) and reason in answer.reason


def test_bounds_hold_and_the_encoding_is_the_network() -> None:
    net, x = network([6, 8, 5, 3], seed=3), images(4, 6)
    blocks = model.as_blocks(net.double())
    generator = torch.Generator().manual_seed(0)
    for point in x.flatten(1).double():
        ball = model.Ball(point[None], torch.full((1, 1), 0.3, dtype=torch.float64), "linf")
        bounds = model.pre_activation_bounds(blocks, ball)
        ranges = [(low[0].numpy(), high[0].numpy()) for low, high in bounds]
        program = model.encode(blocks, point.numpy(), 0.3, ranges)
        low, high = ball.box()
        inside = low + (high - low) * torch.rand(200, 6, generator=generator, dtype=torch.float64)
        for image in inside:
            columns = assignment(program, ranges, blocks, image, point)
            value = program.matrix @ columns
            assert (value >= program.lower - 1e-9).all() and (value <= program.upper + 1e-9).all()
            assert (columns >= program.low - 1e-9).all() and (columns <= program.high + 1e-9).all()
            rows, constants = program.values[-1]
            assert np.allclose(rows @ columns + constants, net(image.view(1, 1, 1, -1))[0].numpy())


def assignment(
    program: model.Program, ranges: model.Ranges, blocks: model.Blocks, image: Tensor, x: Tensor
) -> np.ndarray:
    """The columns that stand for an image: its move, the size of the move, and p, q, a of the unstable units."""
    move = (image - x).numpy() / 0.3
    p, q, out = [], [], image
    for (low, high), [affine] in zip(ranges, blocks[:-1], strict=True):
        z = affine.forward(out).numpy()
        unstable = (low < 0) & (high > 0)
        p.append((z.clip(min=0) / high)[unstable])
        q.append((z.clip(max=0) / low)[unstable])
        out = affine.forward(out).relu()
    on = (np.concatenate(p) > 0).astype(float)
    return np.concatenate([move, [np.abs(move).max()], *p, *q, on])
