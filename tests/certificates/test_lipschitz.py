"""The Lipschitz certificate says what in a user's own module has no bound, in one line and in their words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from module_support import Code, conv, head
from support import a_query
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.certificates._branches import Maximum, with_bounds
from marginbench.benchmarks.certificates._layers import Largest, Moved
from marginbench.benchmarks.certificates._simplify import simplified
from marginbench.benchmarks.certificates.lipschitz import lipschitz
from marginbench.benchmarks.models.adapter import adapt
from marginbench.methods import Norm
from marginbench.methods.maths.lipschitz import feature_bound


def _after(operation: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """A class of one's own with the operation behind a convolution."""

    def forward(m: Any, x: Tensor) -> Tensor:
        features: Tensor = m.last(F.avg_pool2d(operation(m.inner, m.first(x)), 2).flatten(1))
        return features

    return Code(forward, first=conv(1, 4, padding=1), inner=conv(4, 4, padding=1), last=head(36))


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (lambda inner, x: x**2, "known for square"),
        (lambda inner, x: x + inner(x) ** 2, "known for square"),
        (lambda inner, x: F.softplus(x, 1.0, 1.0), "softplus with a jump at its threshold of 1"),
        (lambda inner, x: x * torch.sigmoid(inner(x)), "a product of two values that both depend on the image"),
    ],
    ids=["square", "square in a branch", "softplus with a jump", "gate"],
)
def test_what_has_no_bound_is_named_in_one_line(operation: Callable[[Any, Tensor], Tensor], said: str) -> None:
    x = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    model = _after(operation).eval().requires_grad_(False)
    net = adapt(model, nn.Identity(), x)
    answer = lipschitz(a_query(net.decision_net(), x, net(x).argmax(1), "l2"))
    assert answer.lower is None and said in answer.reason and "\n" not in answer.reason


def _steepest(net: nn.Module, x: Tensor) -> float:
    """The largest norm of the Jacobian of all features [B, D] at some points: never above the Lipschitz constant."""
    jacobians = torch.func.vmap(torch.func.jacrev(lambda one: net(one[None])[0]), chunk_size=8)(x)
    return float(torch.linalg.matrix_norm(jacobians.flatten(2).flatten(1, -2), ord=2).max())


def _bound(model: nn.Module, x: Tensor) -> float:
    """Of features [B, D] behind which a linear layer gives two logits."""
    net = adapt(nn.Sequential(model, head(model(x[:1]).shape[1])).eval(), nn.Identity(), x).decision_net()
    last = net[-1]
    assert isinstance(last, nn.Linear)
    return float(feature_bound(with_bounds(simplified(net, x))[:-1], x[:1]))


OPERATIONS: dict[str, tuple[Callable[[Any, Tensor], Tensor], float]] = {  # how far above the steepest point at most
    "nothing": (lambda inner, x: x, 1.001),
    "inverted": (lambda inner, x: 1 - x, 1.001),
    "residual": (lambda inner, x: x + F.relu(inner(x)), 3.0),
    "nearly doubled": (lambda inner, x: x + F.leaky_relu(x, 0.999), 1.01),
    "concatenated": (lambda inner, x: torch.cat([x, torch.tanh(inner(x))], 1), 3.0),
    "max pooling": (lambda inner, x: F.max_pool2d(x, 2), 3.0),
    "overlapping": (lambda inner, x: F.max_pool2d(x, 3, 1, 1), 5.0),
    "scaled maxima": (lambda inner, x: -3 * F.max_pool2d(x, 2) + 1, 3.0),
    "maxima in a branch": (lambda inner, x: x + 5 * F.max_pool2d(inner(x), 3, 1, 1), 5.0),
    "maxout": (lambda inner, x: x.unflatten(1, (2, 2)).amax(2), 3.0),
    "sorted": (lambda inner, x: x.unflatten(1, (2, 2)).sort(2).values.flatten(1, 2), 1.3),
    "sorted by four": (lambda inner, x: x.sort(1).values, 1.3),
    "steep leaky": (lambda inner, x: F.leaky_relu(x, -2.5), 2.0),
    "gelu": (lambda inner, x: F.gelu(3 * x), 2.0),
    "repeated pixels": (lambda inner, x: F.interpolate(x, scale_factor=2), 1.001),
    "reflected": (lambda inner, x: F.pad(x, (2, 2, 2, 2), mode="reflect"), 3.0),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_bounds_of_what_models_compute_hold_and_are_near(name: str) -> None:
    operation, loose = OPERATIONS[name]
    x = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    model = Code(
        lambda m, x: operation(m.inner, m.first(x)).flatten(1), first=conv(1, 4, padding=1), inner=conv(4, 4, padding=1)
    )
    model = model.eval().requires_grad_(False)
    bound, steepest = _bound(model, x), _steepest(model, x)
    assert steepest <= bound * (1 + 1e-5) and bound <= loose * steepest, (bound, steepest)


class Step(nn.Module):
    """x - share W^T relu(W x + b), with ||W|| = 1."""

    def __init__(self, share: float, extra: float = 0.0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        weight, other = (torch.randn(shape, generator=draw) for shape in ((6, 16), (16, 6)))
        weight, other = weight / torch.linalg.matrix_norm(weight, 2), other / torch.linalg.matrix_norm(other, 2)
        self.first, self.second = nn.Linear(16, 6), nn.Linear(6, 16)
        self.first.weight.data, self.second.weight.data = weight, -share * weight.T + extra * other

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        out: Tensor = x + self.second(F.relu(self.first(x)))
        return out


@pytest.mark.parametrize(
    ("share", "extra", "least", "most"),
    [(1.0, 0.0, 1.0, 1.0), (2.0, 0.0, 1.0, 1.0), (3.0, 0.0, 2.0, 2.0), (-1.0, 0.0, 2.0, 2.0), (2.0, 0.1, 1.0, 1.21)],
)
def test_steps_down_a_convex_function_do_not_spread(share: float, extra: float, least: float, most: float) -> None:
    """Up one they do, and down too far."""
    x = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = Step(share, extra).eval().requires_grad_(False)
    bound = _bound(model, x)
    assert _steepest(model, x) <= bound * (1 + 1e-5) and least - 1e-5 <= bound <= most + 1e-5


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)])
def test_radii_behind_pooling_are_those_of_the_layers(pool: nn.Module) -> None:
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    body = nn.Sequential(conv(1, 4, padding=1), nn.ReLU(), pool)
    net = nn.Sequential(*body, nn.Flatten(), head(body(x)[0].numel())).eval().requires_grad_(False)
    y = net(x).argmax(1)
    plain, rewritten = (
        lipschitz(a_query(one, x, y, "l2")).lower for one in (net, adapt(net, nn.Identity(), x).decision_net())
    )
    assert plain is not None and rewritten is not None and (plain > 0).all()
    torch.testing.assert_close(rewritten, plain, rtol=1e-4, atol=0)


def test_in_l_infinity_the_radius_is_shorter_by_the_root_of_the_pixels() -> None:
    """Of a linear network, where no layer is bounded: (z_y - z_j) / (||w_y - w_j|| sqrt(36)), in numpy."""
    x = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Flatten(), head(36)).eval().requires_grad_(False)
    logits, weight = net(x).double().numpy(), net[1].weight.double().numpy()
    y = logits.argmax(1)
    apart = np.linalg.norm(weight[y][:, None] - weight[None], axis=2)
    gaps = logits[np.arange(8), y][:, None] - logits
    ratios = np.divide(gaps, apart, out=np.full_like(gaps, np.inf), where=apart > 0)
    roots: dict[Norm, float] = {"l2": 1.0, "linf": 6.0}
    for norm, root in roots.items():
        radius = lipschitz(a_query(net, x, torch.from_numpy(y), norm)).lower
        assert radius is not None and radius.tolist() == pytest.approx((ratios.min(1) / root).tolist(), rel=1e-3)


def test_entries_that_are_taken_several_times_count_as_often() -> None:
    index = torch.tensor([[0, 2, 2], [2, 1, 0]])
    for weight in (torch.ones(2, 3), torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, 1.0]])):
        matrix = torch.zeros(6, 4, dtype=torch.float64)
        matrix[range(6), index.flatten()] = weight.double().flatten()
        bound = Moved(index, weight).lipschitz(torch.rand(1, 1, 2, 2))
        assert float(bound) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-9)


def test_a_maximum_that_is_summed_otherwise_has_no_bound() -> None:
    """What keeps the largest entries in their places jumps: only its sum over a group is steep by 1."""
    kept, x = Largest(torch.ones(1, 2, 1, 1)), torch.rand(1, 4, 3, 3)
    total = nn.Conv2d(4, 2, 1, bias=False).requires_grad_(False)
    total.weight[:] = torch.tensor([[2.0, 2.0, 0.0, 0.0], [0.0, 0.0, -3.0, -3.0]])[:, :, None, None]
    assert float(Maximum(kept, total).lipschitz(x)) == pytest.approx(3.0)  # type: ignore[arg-type]
    total.weight[0, 0] = 1.0
    assert Maximum(kept, total).lipschitz(x) is None
    assert Maximum(kept, nn.ReLU()).lipschitz(x) is None


def test_a_layer_of_a_suite_is_named_too() -> None:
    x = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    layers = nn.Sequential(conv(1, 2, padding=1), nn.LocalResponseNorm(3)), nn.Flatten(), head(72)
    net = nn.Sequential(*layers).eval().requires_grad_(False)
    assert "(LocalResponseNorm has one) has no sound bound" in lipschitz(a_query(net, x, net(x).argmax(1), "l2")).reason
