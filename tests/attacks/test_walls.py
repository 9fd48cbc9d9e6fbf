"""Networks that limit their input to the box: attacks see the same slopes as without that limit."""

from collections.abc import Callable

import pytest
import torch
from attack_support import EPSILON, SHAPE, images, predicted, random_net
from support import a_query
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.attacks import ray
from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.attacks.from_file import foreign
from marginbench.benchmarks.attacks.ray import attached, or_inside, tighten
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.estimator import Query
from marginbench.methods import NORMS, Norm

GRADIENT = [name for name, one in ATTACKS.items() if one.gradient]
LIMITS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(0, 1),
    "clip": lambda x: torch.clip(x, 0, 1),
    "in place": lambda x: F.hardtanh_(x.clone(), 0, 1),
    "relu": lambda x: 1 - F.relu(1 - F.relu(x)),
    "minimum": lambda x: torch.minimum(x, x.new_ones(())).maximum(x.new_zeros(())),
    "bytes": lambda x: (255 * x).clamp(0, 255) / 255,
    "behind a normalisation": lambda x: ((x - 0.4914) / 0.2023).clamp(-0.4914 / 0.2023, 0.5086 / 0.2023),
    "where logarithms need it": lambda x: x.clamp(1e-6, 1 - 1e-6),
}


class Limited(nn.Module):
    """A network behind a function that does nothing in the box."""

    def __init__(self, net: nn.Module, limit: Callable[[Tensor], Tensor] = LIMITS["clamp"]) -> None:
        super().__init__()
        self.net, self.limit = net, limit

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(self.limit(x))
        return logits


def signed(q: Query) -> Tensor:
    """An attack of a user, which asks the network itself."""
    point = q.x.clone().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(q.net(point), q.y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, point)
    return (q.x + q.epsilon * gradient.sign()).clamp(0, 1)


def made(model: nn.Module, norm: str, epsilon: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The same, from a factory."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        point = x.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
        return (x + epsilon * gradient.sign()).clamp(0, 1).detach()

    return run


OWN = {"of a user": Attack("signed", signed), "from a factory": foreign(made)}


def walled() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Images nearly all of whose pixels are black or white."""
    net, x = random_net(5), images(5, 12, 6.0)
    assert ((x == 0) | (x == 1)).float().mean() > 0.8
    return net, x, predicted(net, x)


def reached(attack: Attack, net: nn.Module, norm: Norm) -> Tensor:
    """Mean distance, an image without one counted as twice the radius."""
    _, x, y = walled()
    found = attack(a_query(net, x, y, norm, epsilon=2 * EPSILON[norm], reference=images(9, 40, 1.0))).upper
    assert found is not None
    return found.clamp(max=4 * EPSILON[norm]).mean()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [*GRADIENT, *OWN])
def test_a_limit_to_the_box_hides_nothing(name: str, norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it would, if gradients were taken on the walls; less so from ALMA, which walks in from other images."""
    net, attack = walled()[0], OWN.get(name) or ATTACKS[name]
    plain, limited = (reached(attack, one, norm) for one in (net, Limited(net)))
    assert torch.allclose(limited, plain, rtol=0.01)
    monkeypatch.setattr(ray, "HAIR", 0.0)
    assert reached(attack, Limited(net), norm) > (1.002 if name == "alma" else 1.03) * plain


@pytest.mark.parametrize("limit", LIMITS)
def test_slopes_are_those_into_the_box(limit: str) -> None:
    net, x, _ = walled()

    def slopes(one: nn.Module) -> Tensor:
        point = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(attached(one, point).square().sum(), point)
        return gradient

    wanted, found = slopes(net), slopes(nn.Sequential(Limited(nn.Identity(), LIMITS[limit]), _undone(limit), net))
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def _undone(limit: str) -> nn.Module:
    return Limited(nn.Identity(), lambda x: 0.2023 * x + 0.4914 if limit.startswith("behind") else x)


def test_logits_without_a_gradient_are_those_of_the_image() -> None:
    net, x, _ = walled()
    jump = Limited(net, lambda x: (x == 1).float())
    assert torch.equal(attached(jump, x), jump(x))
    with torch.no_grad():
        assert torch.equal(attached(jump, x.clone().requires_grad_()), jump(x))


def test_pixels_outside_the_box_stay_there() -> None:
    x = torch.tensor([[-0.5, 0.0, 0.3, 1.0, 1.5]])
    assert ray.off_walls(x).tolist() == torch.tensor([[-0.5, ray.HAIR, 0.3, 1 - ray.HAIR, 1.5]]).tolist()


class Floor(nn.Module):
    """Class 1 where the mean is at least that of 254 levels of 255, rounded down: white alone is above it."""

    def forward(self, x: Tensor) -> Tensor:
        level = (255 * x).floor().flatten(1).mean(1)
        return torch.stack([level.new_full(level.shape, 254.5), level], 1)


def test_what_is_adversarial_a_hair_inside_counts() -> None:
    x, y = torch.ones(2, *SHAPE), torch.tensor([1, 0])
    net = Floor()
    assert predicted(net, x).tolist() == [1, 1]
    assert torch.equal(or_inside(net, x, y)[1], x[1])  # adversarial as it is
    distance = tighten(net, x, x, y, "linf")[1]
    assert 0 < distance[0] <= 1.01 * ray.HAIR and distance[1] == 0
