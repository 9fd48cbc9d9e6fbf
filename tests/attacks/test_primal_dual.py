"""PDPGD, ALMA, FMN and PGD on networks of two pixels, against exhaustive search; their formulas, against slow ones."""

import pytest
import torch
from attack_support import Constant
from mutants import mutated
from scipy.optimize import minimize_scalar
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.attacks._proximal import shrink
from marginbench.benchmarks.attacks.alma import penalty_slope
from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.attacks.fmn import fmn
from marginbench.benchmarks.attacks.pgd import pgd
from marginbench.benchmarks.attacks.ray import is_adversarial, tighten
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.evaluation.hard_canaries import lottery
from marginbench.methods import NORMS, Norm

SIDE = 801  # grid points per pixel


def two_pixels(seed: int) -> nn.Sequential:
    """Three classes with curved boundaries on images of 1x2 pixels."""
    draw = torch.Generator().manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 3)]
    net = nn.Sequential(*layers).requires_grad_(False)
    for layer in (net[1], net[3]):
        layer.weight.data = torch.randn(layer.weight.shape, generator=draw)
        layer.bias.data = torch.randn(layer.bias.shape, generator=draw)
    net[1].bias.data -= net[1].weight.data.sum(1) / 2
    net[3].bias.data -= net(torch.full((1, 1, 1, 2), 0.5))[0]
    return net.eval()


def exhaustive(net: nn.Module, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """The distance to the nearest of all grid points in another class."""
    axis = torch.linspace(0, 1, SIDE)
    grid = torch.cartesian_prod(axis, axis)
    label = net(grid.view(-1, 1, 1, 2)).argmax(1)
    gaps = torch.cdist(x.flatten(1), grid, p=2.0 if norm == "l2" else torch.inf)
    return gaps.masked_fill(label == y[:, None], torch.inf).amin(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pdpgd", "alma", "fmn", "pgd"])
def test_exact_margin_of_two_pixels(name: str, norm: Norm) -> None:
    for seed in range(3):
        net = two_pixels(seed)
        draw = torch.Generator().manual_seed(seed)
        x, reference = (torch.rand(count, 1, 1, 2, generator=draw) for count in (60, 60))
        y = net(x).argmax(1)
        assert len(y.unique()) > 1
        exact, step = exhaustive(net, x, y, norm), 1 / (SIDE - 1)
        q = a_query(net, x, y, norm, seed=1, epsilon=0.2, reference=reference)
        upper = tighten(net, x, ATTACKS[name].propose(q, steps=100), y, norm)[1]
        assert (upper >= exact - 5 * step).all(), "a corner of a class may slip between grid points, by a few cells"
        assert (upper <= 1.02 * exact + step).float().mean() >= 0.85, (name, seed)  # the others end in other minima


class Plateau(nn.Module):
    """Class 0, with logits that are constant wherever the mean brightness is below 0.6; class 1 above 0.7."""

    def forward(self, x: Tensor) -> Tensor:
        rise = (x.flatten(1).mean(1, keepdim=True) - 0.6).clamp(min=0)
        return torch.cat([torch.full_like(rise, 0.1), rise, torch.zeros_like(rise)], 1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pdpgd", "alma", "fmn", "pgd"])
def test_a_plateau_around_the_image_is_left(name: str, norm: Norm) -> None:
    """No gradient at x shows the way; the margin is 0.7 - mean(x), and 4 times that in L2 with 16 pixels."""
    draw = torch.Generator().manual_seed(0)
    x, reference = 0.2 + 0.2 * torch.rand(8, 1, 4, 4, generator=draw), torch.rand(20, 1, 4, 4, generator=draw) / 5 + 0.8
    y = torch.zeros(8, dtype=torch.int64)
    exact = (0.7 - x.flatten(1).mean(1)) * (4 if norm == "l2" else 1)
    q = a_query(Plateau(), x, y, norm, seed=1, epsilon=0.1, reference=reference)
    upper = tighten(q.net, x, ATTACKS[name].propose(q), y, norm)[1]
    assert (upper <= 1.02 * exact).all() and (upper >= exact * (1 - 1e-5)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_closest_starts_go_on(norm: Norm) -> None:
    """One start of four, chosen after half of the steps, reaches nearly what all six do; the farthest one does not."""
    farthest = Attack("fmn", mutated(fmn.function, "stable=True, dim=0", "descending=True, dim=0"))
    length: dict[str, list[float]] = {"one": [], "all": [], "farthest": []}
    images = {}
    for seed in range(4):
        net = two_pixels(seed)
        draw = torch.Generator().manual_seed(seed)
        x, reference = (torch.rand(count, 1, 1, 2, generator=draw) for count in (60, 60))
        q = a_query(net, x, net(x).argmax(1), norm, seed=1, epsilon=0.2, reference=reference)
        for name, attack, settings in (("one", fmn, {}), ("all", fmn, {"kept": 4}), ("farthest", farthest, {})):
            asked: list[int] = []
            hook = net.register_forward_hook(lambda _, given, __, asked=asked: asked.append(len(given[0])))
            point = attack.propose(q, steps=20, **settings)
            hook.remove()
            upper = tighten(net, x, point, q.y, norm)[1]
            length[name].append(float(upper.mean()))
            images[name] = sum(asked)
    one, every, lost = (sum(length[name]) for name in ("one", "all", "farthest"))
    assert 0.99 * every <= one <= 1.01 * every
    assert lost > 1.02 * one
    assert images["one"] < 0.75 * images["all"]


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_win_where_the_gradient_at_the_image_leads_astray(norm: Norm) -> None:
    """The boundary is 0.8 epsilon away on one side, and 1.5 on the other, where the gradient at the image leads."""
    game = lottery()
    at_the_image = Attack("pgd", mutated(pgd.function, "random_start(x, radius, norm, q.generator)", "0 * x"))
    q = a_query(game.net, game.x, game.y, norm, seed=1, epsilon=game.epsilon)
    near = {}
    for attack in (pgd, at_the_image):
        upper = tighten(game.net, game.x, attack.propose(q), game.y, norm)[1]
        near[attack] = float((upper <= 0.82 * game.epsilon).float().mean())
    assert near[pgd] >= 0.9 and near[at_the_image] <= 0.7, near  # noise finds these


@pytest.mark.parametrize("norm", NORMS)
def test_a_noisy_start_crosses_where_there_are_no_other_images(norm: Norm) -> None:
    x, y = torch.full((4, 1, 4, 4), 0.69), torch.zeros(4, dtype=torch.int64)
    net = Plateau()
    q = a_query(net, x, y, norm, seed=1, epsilon=0.5)
    assert len(q.reference) == 0
    for name in ("pdpgd", "alma", "pgd"):
        assert is_adversarial(net, ATTACKS[name].propose(q), y).any(), name
        assert torch.equal(ATTACKS[name].propose(q.rows(slice(0, 0))), x[:0])
    lost = a_query(Constant(3, graph=False), x, y, norm, seed=1, epsilon=0.5)
    for name in ("pdpgd", "alma", "pgd"):
        assert torch.equal(ATTACKS[name].propose(lost), x)


@pytest.mark.parametrize("norm", NORMS)
def test_shrinking_is_the_proximal_step(norm: Norm) -> None:
    """prox_{t ||.||}(v) by a search over norms: of all points with that norm, the projection is nearest to v."""
    draw = torch.Generator().manual_seed(1)
    for v in torch.randn(5, 7, generator=draw).double():
        length = float(v.norm() if norm == "l2" else v.abs().amax())
        for share in (0.1, 0.5, 0.9):
            found = shrink(v[None], torch.tensor([share * length]), norm)[0]

            def projected(size: float, v: Tensor = v, length: float = length) -> Tensor:
                return v * (size / length) if norm == "l2" else v.clamp(-size, size)

            # In L2 t is what the norm loses; in L-infinity it is all that is cut off.
            t = share * length if norm == "l2" else float((v - found).abs().sum())

            def objective(size: float, v: Tensor = v, t: float = t) -> float:
                return t * size + float((projected(size) - v).square().sum()) / 2

            best = minimize_scalar(objective, bounds=(0, length), method="bounded", options={"xatol": 1e-10})
            torch.testing.assert_close(found, projected(best.x), rtol=0, atol=1e-5)
    assert (shrink(torch.randn(3, 7, generator=draw), torch.full((3,), 100.0), norm) == 0).all()


def test_slope_of_the_penalty() -> None:
    """P' against central differences of P, on both sides of 0."""

    def penalty(c: float, rho: float, mu: float) -> float:
        return mu * c + mu * rho * c**2 + rho**2 * c**3 / 6 if c >= 0 else mu * c / (1 - rho * c)

    for rho, mu in ((1.0, 1.0), (3.0, 0.5), (0.2, 4.0)):
        for c in (-2.0, -0.3, -1e-9, 0.0, 0.2, 1.5):
            slow = (penalty(c + 1e-6, rho, mu) - penalty(c - 1e-6, rho, mu)) / 2e-6
            fast = penalty_slope(*(torch.tensor([value], dtype=torch.float64) for value in (c, rho, mu)))
            assert abs(float(fast) - slow) < 1e-4 * max(1.0, abs(slow)), (c, rho, mu)
