"""Layers of every kind and geometry, in tiny networks: bounds hold, and wrong ones are refused in every run.

Linear layers against the exact minimum, others against points of the ball, by the dozen or on a grid. What auto-LiRPA
0.3 gets wrong by itself is here twice: rewritten, and as it comes, where the check of every run must refuse it.
"""

import importlib
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import module_support
import pytest
import torch
from certificate_support import predicted
from support import a_query
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, Resize

from marginbench.benchmarks.certificates import _bounds, _call, _compat, _operators, _trace, crown
from marginbench.benchmarks.certificates._curves import Lines
from marginbench.benchmarks.certificates._layers import LARGEST
from marginbench.benchmarks.estimator import Answer
from marginbench.benchmarks.machine.device import precision_of
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.benchmarks.models.adapter import adapt
from marginbench.methods import NORMS, Norm, Residual, logit_margin
from marginbench.methods.maths.perturb import pgd
from marginbench.methods.maths.rounding import corner

Make = Callable[[], Sequence[nn.Module]]
IMAGE = (2, 6, 6)
WIDE, HIGH = (2, 4, 9), (2, 9, 4)
METHODS: tuple[_bounds.Bound, ...] = ("IBP", "CROWN-IBP", "CROWN")


class OneByOne(nn.Module):
    """An ordinary module: its forward calls its layers."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Concatenated(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Centred(nn.Module):
    """Less its mean over the places: a matrix meets the windows of convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean((2, 3), keepdim=True)


class Viewed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 3, 4, 9).transpose(2, 3)


def conv(size: int | tuple[int, int], **settings: object) -> Make:
    return lambda: [nn.Conv2d(3, 3, size, **settings)]  # type: ignore[arg-type]


def pool(*sizes: object, **settings: object) -> Make:
    return lambda: [nn.AvgPool2d(*sizes, **settings)]  # type: ignore[arg-type]


def batch_norm() -> nn.Module:
    layer = nn.BatchNorm2d(3)
    layer.weight.data = torch.tensor([1.5, -2.0, 0.0])  # negative and zero scales
    layer.bias.data = torch.tensor([0.1, -0.3, 0.2])
    layer.running_mean, layer.running_var = torch.tensor([0.3, -0.2, 0.1]), torch.tensor([0.5, 2.0, 1.0])
    return layer


LINEAR: dict[str, Make] = {
    "conv": conv(3, padding=1),
    "conv-2/2": conv(2, stride=2),
    "conv-3/2": conv(3, stride=2, padding=1, bias=False),
    "conv-5/3-padded-2x1": conv(5, stride=3, padding=(2, 1)),
    "conv-1x3/2x1": conv((1, 3), stride=(2, 1), padding=(0, 2)),
    "conv-dilated": conv(3, padding=2, dilation=2),
    "conv-dilated/2": conv(3, padding=1, stride=2, dilation=2),
    "conv-grouped": conv(3, padding=1, groups=3),
    "conv-same": conv(3, padding="same"),
    "conv-circular": conv(3, padding=1, padding_mode="circular"),
    "average-2/2": pool(2),
    "average-3/3": pool(3),
    "average-4/4": pool(4),
    "average-2/1": pool(2, 1),
    "average-3/2": pool(3, 2),
    "average-2/3": pool(2, 3),
    "average-3/1-padded": pool(3, 1, 1),
    "average-2/2-padded": pool(2, 2, 1),
    "average-3/2-not-counted": pool(3, 2, 1, count_include_pad=False),
    "average-4/4-ceil": pool(4, 4, ceil_mode=True),
    "average-3/2-ceil": pool(3, 2, 1, ceil_mode=True),
    "average-2x3/1x2": pool((2, 3), (1, 2)),
    "average-divided": pool(2, 2, divisor_override=3),
    "adaptive-1": lambda: [nn.AdaptiveAvgPool2d(1)],
    "adaptive-3": lambda: [nn.AdaptiveAvgPool2d(3)],
    "adaptive-4": lambda: [nn.AdaptiveAvgPool2d(4)],
    "resized": lambda: [Resize((4, 5))],
    "resized-cubic": lambda: [Resize((5, 3), InterpolationMode.BICUBIC)],
    "batch-norm": lambda: [batch_norm()],
    "residual": lambda: [Residual(nn.Conv2d(3, 3, 3, padding=1))],
    "residual-strided": lambda: [
        Residual(nn.Conv2d(3, 3, 3, 2, 1), nn.Sequential(nn.Conv2d(3, 3, 1, 2), batch_norm()))
    ],
    "concatenated": lambda: [Concatenated(nn.Conv2d(3, 2, 1), nn.Conv2d(3, 1, 3, padding=1))],
    "centred": lambda: [Centred(), nn.Conv2d(3, 3, 3, padding=1)],
    "viewed": lambda: [Viewed(), nn.Conv2d(3, 3, 3)],
    "unflattened": lambda: [nn.Flatten(), nn.Unflatten(1, (3, 4, 9)), nn.Conv2d(3, 3, 3)],
}
SLOPES = (-2.0, -0.3, 0.0, 0.2, 1.0, 1.1, 3.0)
KINKED: dict[str, Make] = {f"leaky{slope}": partial(lambda slope: [nn.LeakyReLU(slope)], slope) for slope in SLOPES}
KINKED |= {
    "relu": lambda: [nn.ReLU()],
    "maximum-2/2": lambda: [nn.MaxPool2d(2)],
    "maximum-3/3": lambda: [nn.MaxPool2d(3)],
    "maximum-3/2": lambda: [nn.MaxPool2d(3, 2)],
    "maximum-3/1-padded": lambda: [nn.MaxPool2d(3, 1, 1)],
    "maximum-2x3/2": lambda: [nn.MaxPool2d((2, 3), 2)],
    "maximum-dilated": lambda: [nn.MaxPool2d(2, 1, dilation=2)],
    "maximum-ceil": lambda: [nn.MaxPool2d(4, 4, ceil_mode=True)],
    "adaptive-maximum": lambda: [nn.AdaptiveMaxPool2d(2)],
    "residual-relu": lambda: [Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1)))],
    "prelu": lambda: [nn.PReLU(3, 1.7)],
}


def network(make: Make, form: str, kinks: bool = True, shape: tuple[int, ...] = IMAGE) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), *([nn.ReLU()] if kinks and make in LINEAR.values() else []), *make()
        ).eval()
        with torch.no_grad():
            width = body(torch.zeros(1, *shape)).numel()
        tail = [nn.ReLU(), nn.Flatten(), nn.Linear(width, 6), nn.ReLU()] if kinks else [nn.Flatten()]
        layers = [*body, *tail, nn.Linear(6 if kinks else width, 4)]
    for parameter in nn.Sequential(*layers).parameters():
        parameter.data *= 1.5
    if form == "sequential":
        return nn.Sequential(*layers).requires_grad_(False).eval()
    return adapt(OneByOne(layers).requires_grad_(False).eval(), nn.Identity(), images(8, shape)).decision_net()


def images(count: int, shape: tuple[int, ...] = IMAGE) -> Tensor:
    return (torch.rand(count, *shape, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2).clamp(0, 1)


def least_found(net: nn.Module, x: Tensor, y: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """[B] least margins at corners of the balls and where projected gradients lead."""
    least = logit_margin(net(x), y)
    each = radius.view(-1, 1, 1, 1)
    for seed in range(4):
        start = corner(x, each, norm, seed) - x
        delta = pgd(lambda p: -logit_margin(net(p), y), x, start, epsilon=radius, step=radius / 3, steps=6, norm=norm)
        for point in (x + start, x + delta):
            least = torch.minimum(least, logit_margin(net(point), y))
    return least.detach()


def bounds_at(
    net: nn.Sequential,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    mode: _bounds.ConvMode,
    epsilon: float,
    method: _bounds.Bound = "CROWN",
) -> Tensor:
    q, search = a_query(net, x, y, norm), _bounds.Search("CROWN", conv_mode=mode)
    with torch.no_grad(), precision_of(x):
        found = _bounds.Bounds(_compat.load_auto_lirpa(), q, search)
        return found.margin(torch.full((len(x),), epsilon), torch.arange(len(x)), method)


@pytest.mark.parametrize("form", ["sequential", "module"])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_layers_are_exact(name: str, form: str) -> None:
    net, x = network(LINEAR[name], form, kinks=False), images(5)
    y = predicted(net, x)
    points = x.clone().requires_grad_()
    logits = net(points)
    least = torch.full((len(x),), torch.inf)
    for rival in range(4):
        gap = logits.gather(1, y[:, None])[:, 0] - logits[:, rival]
        (slope,) = torch.autograd.grad(gap.sum(), points, retain_graph=True)
        room = torch.where(slope > 0, x.clamp(max=0.1), (1 - x).clamp(max=0.1))
        exact = gap.detach() - (slope.abs() * room).flatten(1).sum(1)
        least = torch.where(y == rival, least, torch.minimum(least, exact))
    assert torch.allclose(bounds_at(net, x, y, "linf", "matrix", 0.1), least, atol=1e-4)


@pytest.mark.parametrize(
    ("form", "norm", "mode"),
    [("sequential", "linf", "auto"), ("sequential", "l2", "patches"), ("module", "linf", "auto")],
)
@pytest.mark.parametrize("name", [*LINEAR, *KINKED])
def test_nothing_in_the_balls_is_below_the_bounds(name: str, form: str, norm: Norm, mode: _bounds.ConvMode) -> None:
    net, x = network((LINEAR | KINKED)[name], form), images(4)
    y = predicted(net, x)
    found = crown.certified_radius(a_query(net, x, y, norm), _bounds.Search("CROWN", conv_mode=mode, rounds=4))
    if name == "unflattened" and mode == "patches":
        assert isinstance(found, Answer) and "no patches" in found.reason
        return
    assert isinstance(found, Tensor), found.reason
    assert (found > 0).any()
    assert (least_found(net, x, y, found, norm) > 0).all()


@pytest.mark.parametrize("shape", [WIDE, HIGH])
@pytest.mark.parametrize("name", [name for name in LINEAR | KINKED if name != "adaptive-maximum"])
def test_bounds_hold_where_images_are_no_squares(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bounds.Search, "limit", 0)  # as if they were large
    net, x = network((LINEAR | KINKED)[name], "module", shape=shape), images(4, shape)
    y = predicted(net, x)
    mode: _bounds.ConvMode = "auto" if name in ("viewed", "unflattened") else "patches"
    for norm in NORMS:
        found = crown.certified_radius(a_query(net, x, y, norm), _bounds.Search("CROWN", conv_mode=mode, rounds=3))
        assert isinstance(found, Tensor), found.reason
        assert (found > 0).any()
        assert (least_found(net, x, y, found, norm) > 0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("slope", [-3.0, -0.2, 0.0, 0.3, 0.99, 1.0, 1.01, 2.0, 10.0])
def test_slopes_on_a_grid(slope: float, norm: Norm) -> None:
    """Two pixels, so that a grid holds every point of the ball."""
    torch.manual_seed(0)
    act = nn.LeakyReLU(slope)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), act, nn.Linear(3, 3), act, nn.Linear(3, 3)).requires_grad_(False)
    x = torch.rand(6, 1, 1, 2)
    y = predicted(net, x)
    steps = torch.linspace(-1, 1, 61)
    ball = torch.cartesian_prod(steps, steps)
    if norm == "l2":
        ball = ball / ball.norm(dim=1, keepdim=True).clamp(min=1)
    for epsilon in (0.1, 0.6):
        points = (x.view(6, 1, 2) + epsilon * ball).clamp(0, 1)
        least = torch.stack([logit_margin(net(p), label.expand(len(p))) for p, label in zip(points, y, strict=True)])
        for choice in ("adaptive", "same-slope", "zero-lb", "one-lb"):
            q = a_query(net, x, y, norm)
            with torch.no_grad():
                bounds = _bounds.Bounds(_compat.load_auto_lirpa(), q, _bounds.Search("CROWN", (choice,)))
                for method in METHODS:
                    low = bounds.margin(torch.full((6,), epsilon), torch.arange(6), method)
                    assert (low <= least.amin(1) + 1e-5).all()


AS_IT_COMES: dict[str, tuple[Make, str, _bounds.Bound]] = {
    "concave": (KINKED["leaky3.0"], "leaky_relu", "CROWN"),
    "nearly-linear": (KINKED["leaky1.1"], "leaky_relu", "CROWN"),
    "folded": (KINKED["leaky-0.3"], "leaky_relu", "IBP"),
    "groups": (LINEAR["conv-grouped"], "convolution", "CROWN"),
    "padding": (LINEAR["conv-5/3-padded-2x1"], "convolution", "CROWN"),
    "overlapping": (LINEAR["average-3/2"], "avg_pool2d", "CROWN"),
    "padded": (LINEAR["average-3/1-padded"], "avg_pool2d", "CROWN-IBP"),
    "rectangle": (KINKED["maximum-2x3/2"], "max_pool2d_with_indices", "CROWN"),
}


def leave(net: nn.Sequential, operation: str, patch: pytest.MonkeyPatch) -> None:
    """The layer behind the first ones is not rewritten: auto-LiRPA bounds it as it can."""
    rewritten = _call.RULES[operation]
    (layer,) = net[1 if operation in ("leaky_relu", "max_pool2d_with_indices") else 2 :][:1]

    def rule(call: _call.Call) -> Any:
        ours = operation != "convolution" or torch.equal(call.get(1), layer.weight)
        return call.builder.apply(layer, call.x) if ours else rewritten(call)

    patch.setitem(_call.RULES, operation, rule)


@pytest.mark.parametrize("name", AS_IT_COMES)
def test_what_the_library_bounds_wrongly_is_not_left_to_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, operation, method = AS_IT_COMES[name]
    net, x = network(make, "sequential"), images(4)
    leave(net, operation, monkeypatch)
    search = _bounds.Search(method, conv_mode="matrix")
    found = crown.certified_radius(a_query(net, x, predicted(net, x), "linf"), search)
    assert isinstance(found, Answer) and "not to be trusted" in found.reason


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", AS_IT_COMES)
def test_wrong_bounds_are_refused(name: str, norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, unknown to the check of its operations."""
    make, operation, method = AS_IT_COMES[name]
    net, x = network(make, "sequential"), images(12)
    leave(net, operation, monkeypatch)
    monkeypatch.setattr(_trace, "check_operations", lambda module: None)
    if name == "padding":
        squares = of_library("convolution", "patches_to_matrix")
        monkeypatch.setattr("auto_LiRPA.operators.convolution.patches_to_matrix", squares.__wrapped__)
    mode: _bounds.ConvMode = "matrix" if make in KINKED.values() else "patches"
    found = crown.certified_radius(a_query(net, x, predicted(net, x), norm), _bounds.Search(method, conv_mode=mode))
    assert isinstance(found, Answer) and "wrong" in found.reason


def of_library(module: str, name: str) -> Any:
    _compat.load_auto_lirpa()
    return getattr(importlib.import_module(f"auto_LiRPA.operators.{module}"), name)


def shrink(owner: Any, name: str, patch: pytest.MonkeyPatch) -> None:
    """Intervals of 0.7 of their width."""
    right = getattr(owner, name)

    def shrunk(*args: Any, **more: Any) -> tuple[Tensor, Tensor]:
        low, high = right(*args, **more)
        middle = (low + high) / 2
        return middle + 0.7 * (low - middle), middle + 0.7 * (high - middle)

    patch.setattr(owner, name, shrunk)


def lower_chords(factor: float, patch: pytest.MonkeyPatch) -> None:
    """Those above ReLUs start at a share of their offset."""
    relu = of_library("activation", "BoundRelu")
    right = relu._relu_upper_bound

    def lowered(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        slope, offset = right(low, high)
        return slope, factor * offset

    patch.setattr(relu, "_relu_upper_bound", staticmethod(lowered))


def raise_lines(share: float, patch: pytest.MonkeyPatch) -> None:
    """The lines below scalar functions go up by a share of their distance from those above."""
    right = _operators.bounding_lines

    def raised(curve: Any, low: Tensor, high: Tensor) -> Lines:
        lines = right(curve, low, high)
        middle = (low + high) / 2
        gap = (lines.upper_slope - lines.lower_slope) * middle + lines.upper - lines.lower
        return lines._replace(lower=lines.lower + share * gap)

    patch.setattr(_operators, "bounding_lines", raised)


def lower_maxima(patch: pytest.MonkeyPatch) -> None:
    _compat.load_auto_lirpa()
    operator = _operators.own_operators()[LARGEST]
    right = operator.bound_relax  # type: ignore[attr-defined]

    def lowered(self: Any, x: Any) -> None:
        right(self, x)
        self.ub = self.ub - 0.1 * (x.upper - x.lower)

    patch.setattr(operator, "bound_relax", lowered)


def misplace(patch: pytest.MonkeyPatch) -> None:
    """Coefficients behind convolutions lose their last row of pixels."""
    conv = of_library("convolution", "BoundConv")
    right = conv.bound_backward

    def misplaced(self: Any, *args: Any, **more: Any) -> Any:
        ((low, high), *rest), *biases = right(self, *args, **more)
        low = low if low is None else torch.cat([low[..., :-1, :], 0 * low[..., -1:, :]], -2)
        return [(low, high), *rest], *biases

    patch.setattr(conv, "bound_backward", misplaced)


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Make, _bounds.Bound]] = {
    "intervals of convolutions": (
        lambda patch: shrink(of_library("convolution", "BoundConv"), "interval_propagate", patch),
        KINKED["relu"],
        "IBP",
    ),
    "ranges": (lambda patch: shrink(_operators, "find_range", patch), KINKED["leaky3.0"], "IBP"),
    "chords": (partial(lower_chords, 0.2), KINKED["relu"], "CROWN"),
    "lines": (partial(raise_lines, 1.0), KINKED["leaky3.0"], "CROWN"),
    "maxima": (lower_maxima, KINKED["maximum-3/2"], "CROWN"),
    "convolutions": (misplace, KINKED["relu"], "CROWN"),
}


@pytest.mark.parametrize(
    ("name", "norm"), [case for case in itertools.product(FAULTS, NORMS) if case != ("lines", "l2")]
)
def test_faults_of_operations_are_refused(name: str, norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutants of the library's operations, and of ours. Points of L2 balls miss the ends of lines; a grid does not."""
    plant, make, method = FAULTS[name]
    net, x = network(make, "sequential"), images(12)
    plant(monkeypatch)
    search = _bounds.Search(method, conv_mode="matrix")
    found = crown.certified_radius(a_query(net, x, predicted(net, x), norm), search)
    assert isinstance(found, Answer) and "wrong" in found.reason


def excess(kind: str, norm: Norm, method: _bounds.Bound = "CROWN") -> float:
    """By how much bounds exceed the least margin on a grid over the balls, at most, for many networks of few neurons.

    So few that bounds are often exact.
    """
    worst = -torch.inf
    steps = torch.linspace(-1, 1, 41)
    ball = torch.cartesian_prod(steps, steps)
    if norm == "l2":
        ball = ball / ball.norm(dim=1, keepdim=True).clamp(min=1)
    for seed in range(12):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = nn.Linear(2, 2), nn.LeakyReLU(3.0) if kind == "curve" else nn.ReLU(), nn.Linear(2, 2)
            x = torch.rand(12, 1, 1, 2)
            spread = nn.Conv2d(1, 4, (1, 2))
        net = nn.Sequential(nn.Flatten(), *layers)
        if kind == "maximum":
            net = nn.Sequential(
                spread, nn.Flatten(), nn.Unflatten(1, (2, 1, 2)), nn.MaxPool2d((1, 2)), nn.Flatten(), layers[2]
            )
        net = net.requires_grad_(False).eval()
        y = predicted(net, x)
        points = (x.view(12, 1, 2) + 0.5 * ball).clamp(0, 1)
        least = torch.stack(
            [logit_margin(net(p.view(-1, 1, 1, 2)), k.expand(len(p))) for p, k in zip(points, y, strict=True)]
        ).amin(1)
        worst = max(worst, float((bounds_at(net, x, y, norm, "auto", 0.5, method) - least).max()))
    return worst


MILD: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, _bounds.Bound]] = {
    "chords": (partial(lower_chords, 0.9), "relu", "CROWN"),
    "lines": (partial(raise_lines, 0.1), "curve", "CROWN"),
    "maxima": (lower_maxima, "maximum", "CROWN"),
    "intervals": (
        lambda patch: shrink(of_library("linear", "BoundLinear"), "interval_propagate", patch),
        "relu",
        "IBP",
    ),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", MILD)
def test_tight_bounds_hold_on_a_grid(name: str, norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    """And mutants break them, which may be too mild for the check of every run."""
    plant, kind, method = MILD[name]
    assert excess(kind, norm, method) < 1e-6
    plant(monkeypatch)
    assert excess(kind, norm, method) > 1e-3


@pytest.mark.parametrize(
    ("method", "norm"), [("IBP", "linf"), ("CROWN-IBP", "linf"), ("CROWN", "linf"), ("CROWN", "l2")]
)
def test_a_smaller_ball_is_refused(method: _bounds.Bound, norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(KINKED["relu"], "sequential"), images(12)
    ball = _bounds.ball
    monkeypatch.setattr(_bounds, "ball", lambda library, x, epsilon, norm: ball(library, x, 0.5 * epsilon, norm))
    found = crown.certified_radius(a_query(net, x, predicted(net, x), norm), _bounds.Search(method))
    assert isinstance(found, Answer) and "wrong" in found.reason


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "name", ["gelu", "silu", "hardswish", "relu6", "prelu", "max_3_2", "transposed", "cat", "chunk", "residual"]
)
def test_bounds_of_all_neurons_hold_in_rewritten_modules(name: str, norm: Norm) -> None:
    """By the check of every run, in float64, whose twins above refuse what is wrong."""
    with seeded(torch.device("cpu"), "module", name):
        net = nn.Sequential(module_support.KINDS[name]()).eval().requires_grad_(False)
    x = torch.rand(8, *module_support.SHAPE, generator=torch.Generator().manual_seed(0))
    y = predicted(net, x)
    for mode in get_args(_bounds.ConvMode)[2:]:
        found = crown.certified_radius(a_query(net, x, y, norm), _bounds.Search("CROWN", conv_mode=mode, rounds=3))
        assert isinstance(found, Tensor) and (found > 0).any()
        assert (least_found(net, x, y, found, norm) > 0).all()


def test_patches_are_not_used_behind_a_reshaping() -> None:
    net, x = network(LINEAR["unflattened"], "sequential"), images(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_bounds.Search, "limit", 0)  # as if it were large
        found = crown.certified_radius(a_query(net, x, predicted(net, x), "l2"), _bounds.Search("CROWN"))
    assert isinstance(found, Tensor) and (found > 0).any()
    assert (least_found(net, x, predicted(net, x), found, "l2") > 0).all()
