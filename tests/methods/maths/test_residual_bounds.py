"""Bounds through batch norm, residual sums and mean pooling: against the network, attacks, autograd and auto-LiRPA."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import assert_same, gradients
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.certificates._compat import load_auto_lirpa
from marginbench.methods import (
    Batch,
    Context,
    MarginbenchError,
    Net,
    Norm,
    Normalise,
    NotApplicable,
    Radii,
    Residual,
    Subsample,
    Task,
    create,
)
from marginbench.methods.maths.bounds import path as shared
from marginbench.methods.maths.bounds.linear import Ball, adaptive, interval_bounds, interval_margins, linear_margins
from marginbench.methods.maths.bounds.path import path_of, specification
from marginbench.methods.maths.bounds.regions import region_of
from marginbench.methods.maths.bounds.rows import parallel_margins, parallel_relaxations

TASK = Task(input_shape=(2, 6, 8), class_counts=(4,) * 4, epsilon={"l2": 0.1, "linf": 0.02})
ROWS = ("ibp", "crown_ibp", "crown_ibp_linear", "convex_polytope", "mmr", "roll", "contractive")


def conv(inputs: int, outputs: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


def behind() -> list[nn.Module]:
    """ReLU behind every sum, shortcuts without weights, the mean over windows."""
    shrink = nn.Sequential(conv(3, 5, 2), nn.BatchNorm2d(5), nn.ReLU(), conv(5, 5), nn.BatchNorm2d(5))
    keep = nn.Sequential(conv(5, 5), nn.BatchNorm2d(5), nn.ReLU(), conv(5, 5), nn.BatchNorm2d(5))
    sums = [Residual(shrink, Subsample(3, 5)), nn.ReLU(), Residual(keep), nn.ReLU()]
    return [conv(2, 3), nn.BatchNorm2d(3), nn.ReLU(), *sums, nn.AvgPool2d((3, 2)), nn.Flatten()]


def before() -> list[nn.Module]:
    """Batch norm and ReLU before the convolutions, and a hidden layer behind the mean over all pixels."""
    keep = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), conv(3, 3), nn.BatchNorm2d(3), nn.ReLU(), conv(3, 3))
    shrink = nn.Sequential(conv(3, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4))
    sums = [Residual(keep), nn.BatchNorm2d(3), nn.ReLU(), Residual(shrink, nn.Conv2d(3, 4, 1, 2))]
    hidden = [nn.AvgPool2d((3, 4)), nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU()]
    return [conv(2, 3, bias=True), *sums, nn.BatchNorm2d(4), nn.ReLU(), *hidden]


def nested() -> list[nn.Module]:
    """A sum within a sum, ReLUs on both paths, one at the beginning of a path, and two in a row."""
    inner = Residual(nn.Sequential(conv(3, 3), nn.ReLU()), nn.Sequential(nn.ReLU(), conv(3, 3, bias=True)))
    outer = Residual(
        nn.Sequential(inner, nn.BatchNorm2d(3), nn.ReLU(), conv(3, 3)), nn.Sequential(conv(3, 3), nn.ReLU())
    )
    return [conv(2, 3, bias=True), outer, nn.ReLU(), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]


NETS: dict[str, Callable[[], list[nn.Module]]] = {"behind": behind, "before": before, "nested": nested}


def a_net(name: str, seed: int = 0, relu: bool = True) -> Net:
    """Random weights, scales and statistics, in float64 and eval mode; without its ReLUs it is affine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(*NETS[name]())
        for layer in body.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_var = 0.3 + torch.rand(layer.num_features)
                layer.running_mean = 0.3 * torch.randn(layer.num_features)
                nn.init.normal_(layer.weight, 0.3, 0.7)  # some of them negative
                nn.init.normal_(layer.bias, 0, 0.3)
        if not relu:
            for layer in body.modules():
                if isinstance(layer, nn.Sequential):
                    for i, part in enumerate(layer):
                        layer[i] = nn.Identity() if isinstance(part, nn.ReLU) else part
        normalise = Normalise(torch.tensor([0.4, 0.6]), torch.tensor([0.3, 0.5]))
        width = nn.Sequential(normalise, body).eval()(torch.zeros(1, *TASK.input_shape)).shape[1]
        net = Net(normalise, body, nn.Linear(width, 4)).double().eval()
    with torch.no_grad():
        net.head.bias.sub_(net(images(50, seed)[0]).mean(0))  # no class wins everywhere
    return net


def images(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """[B, C, H, W] in [0, 1], and labels."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(count, *TASK.input_shape, generator=g, dtype=torch.float64), torch.arange(count) % 4


def a_ball(x: Tensor, epsilon: float, norm: Norm = "linf") -> Ball:
    return Ball(x.flatten(1), x.new_full((1, 1), epsilon), norm)


def all_margins(net: Net, ball: Ball, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    path, problem = path_of(net, TASK.input_shape, clean=x), specification(net, y)
    hidden, features = interval_bounds(path, ball.box())
    found = {
        "crown_ibp": linear_margins(path, [adaptive(bounds) for bounds in hidden], ball, *problem),
        "convex_polytope": parallel_margins(path, ball, *problem),
    }
    return found if ball.norm == "l2" else {"ibp": interval_margins(features, *problem), **found}


def gaps(z: Tensor, y: Tensor) -> Tensor:
    return z.gather(1, y[:, None]) - z


def attacked(net: Net, x: Tensor, y: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Images in the ball and the box, one for each rival [K, B, C, H, W], on which its gap to y is small."""
    size, found = radius.view(-1, 1, 1, 1), []
    for rival in range(4):
        delta = torch.zeros_like(x)
        for _ in range(20):
            probe = (x + delta).requires_grad_()
            (slope,) = torch.autograd.grad(gaps(net(probe), y)[:, rival].sum(), probe)
            if norm == "linf":
                delta = (delta - size / 4 * slope.sign()).clamp(-size, size)
            else:
                delta = delta - size / 4 * slope / slope.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
                delta = delta * (size / delta.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)).clamp_max(1)
            delta = (x + delta).clamp(0, 1) - x
        found.append(x + delta)
    return torch.stack(found)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dense", [0, 2**20])
@pytest.mark.parametrize("training", [True, False])
def test_balls_of_radius_0_are_the_network(
    name: str, dense: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "DENSE", dense)
    net = a_net(name).train(training)
    x, y = images()
    state = copy.deepcopy(net.state_dict())
    found = all_margins(net, a_ball(x, 0.0), x, y)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())  # running statistics too
    wanted = gaps(net(x), y)
    weights = torch.linspace(-1, 1, 4, dtype=torch.float64)
    for margins in found.values():
        torch.testing.assert_close(margins, wanted)
        assert_same((margins * weights).sum(), (wanted * weights).sum(), net, rtol=1e-8, atol=1e-8)


def test_statistics_of_the_batch_need_the_batch() -> None:
    net, (x, _) = a_net("behind").train(), images()
    with torch.no_grad():
        running = interval_bounds(path_of(net, TASK.input_shape), a_ball(x, 0.0).box())[1][0]
        torch.testing.assert_close(running, net.eval().features(x))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_point_of_the_ball_falls_below_the_bounds(name: str, norm: Norm) -> None:
    g = torch.Generator().manual_seed(0)
    for seed in range(3):
        net, (x, y) = a_net(name, seed), images(seed=seed)
        for epsilon in (0.003, 0.03) if norm == "linf" else (0.02, 0.2):
            found = all_margins(net, a_ball(x, epsilon, norm), x, y)
            noise = torch.randn(30, *x.shape, generator=g, dtype=torch.float64)
            noise = noise.sign() if norm == "linf" else F.normalize(noise.flatten(2), dim=2).view_as(noise)
            hostile = attacked(net, x, y, torch.full((len(x),), epsilon, dtype=torch.float64), norm)
            least = torch.stack([gaps(net(one), y) for one in [*(x + epsilon * noise).clamp(0, 1), *hostile]]).amin(0)
            for key, lower in found.items():
                assert bool((least >= lower - 1e-9).all()), key
            if epsilon < 0.03:  # the bounds are of use there
                assert bool(
                    (least - found["convex_polytope"] < 0.5 * (gaps(net(x), y) - found["convex_polytope"]))[
                        torch.arange(4) != y[:, None]
                    ].any()
                )


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dense", [0, 2**20])
def test_linear_bounds_are_exact_without_relus(
    name: str, norm: Norm, dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "DENSE", dense)
    net, (x, y) = a_net(name, relu=False), images()
    x = (0.3 + 0.4 * x).requires_grad_()
    found = all_margins(net, a_ball(x.detach(), 0.1, norm), x.detach(), y)
    z = gaps(net(x), y)
    for j in range(4):
        (slope,) = torch.autograd.grad(z[:, j].sum(), x, retain_graph=True)
        wanted = z[:, j] - 0.1 * torch.linalg.vector_norm(slope.flatten(1), ord=1 if norm == "linf" else 2, dim=1)
        for key, margins in found.items():
            if key != "ibp":
                torch.testing.assert_close(margins[:, j], wanted)
            else:
                assert bool((margins[:, j] <= wanted + 1e-9).all())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dense", [0, 2**20])  # 0: rows of the first units are patches
def test_both_ways_to_the_margins_agree(name: str, norm: Norm, dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "DENSE", dense)
    net, (x, y) = a_net(name), images()
    path, ball = path_of(net, TASK.input_shape), a_ball(x, 0.02, norm)
    wanted = linear_margins(path, parallel_relaxations(path, ball)[0], ball, *specification(net, y))
    found = parallel_margins(path, ball, *specification(net, y))
    torch.testing.assert_close(found, wanted)
    assert_same(found.sum(), wanted.sum(), net, rtol=1e-8, atol=1e-8)


def auto_lirpa(net: Net, ball: Ball, x: Tensor, y: Tensor, method: str, slope: str) -> Tensor:
    """The library's lower bounds of z_y - z_j, in eval mode."""
    library: Any = load_auto_lirpa()
    options = {"conv_mode": "matrix", "relu": slope, "activation_bound_option": slope}
    x, decision_net = x.float(), copy.deepcopy(net).float().decision_net()  # it knows float32 alone
    module = library.BoundedModule(decision_net, torch.zeros_like(x[:2]), bound_opts=options)
    low, high = (end.view_as(x).float() for end in ball.box())
    inside = library.BoundedTensor(x, library.PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high))
    unit = torch.eye(4, dtype=x.dtype)
    bounds: Tensor = module.compute_bounds(x=(inside,), C=unit[y][:, None] - unit, method=method, bound_upper=False)[0]
    return bounds.detach().double()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    ("key", "method", "slope"),
    [("ibp", "IBP", "adaptive"), ("crown_ibp", "CROWN-IBP", "adaptive"), ("convex_polytope", "CROWN", "same-slope")],
)
@pytest.mark.filterwarnings("ignore")  # the library's
def test_bounds_are_those_of_auto_lirpa(name: str, key: str, method: str, slope: str) -> None:
    net, (x, y) = a_net(name), images()
    ball = a_ball(x, 0.02)
    found = all_margins(net, ball, x, y)[key]
    torch.testing.assert_close(found, auto_lirpa(net, ball, x, y, method, slope), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dense", [0, 2**20])
@pytest.mark.parametrize("training", [True, False])
def test_a_region_has_the_gradients_of_the_network(
    name: str, dense: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "DENSE", dense)
    net, (x, _) = a_net(name).train(training), images(3)
    region = region_of(net, x)
    if training:  # the same network with the statistics of this batch
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.momentum = 1.0
                layer.register_forward_hook(_biased)
        net(x)
        net.eval()
    units: list[Tensor] = []
    relus = [layer for layer in net.modules() if isinstance(layer, nn.ReLU)]
    for layer in relus:
        layer.register_forward_pre_hook(lambda layer, inputs: units.append(inputs[0].flatten(1)))
    x.requires_grad_()
    logits = net(x)
    del units[len(relus) - (name == "nested") :]  # the second of two in a row is none
    torch.testing.assert_close(region.units, torch.cat(units, 1))
    torch.testing.assert_close(region.logits, logits)

    def rows(outputs: Tensor) -> Tensor:
        return torch.stack([torch.autograd.grad(out.sum(), x, retain_graph=True)[0] for out in outputs.T], 1).flatten(2)

    torch.testing.assert_close(region.logit_rows * region.scale, rows(logits))
    torch.testing.assert_close(region.unit_lengths("l2"), rows(torch.cat(units, 1)).norm(dim=2))
    torch.testing.assert_close(region.unit_lengths("linf"), rows(torch.cat(units, 1)).abs().sum(2))


def _biased(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    """Keep the variance with which batch norm divides in training, in the place of the unbiased one."""
    values = inputs[0]
    layer.running_var = values.var([0, *range(2, values.dim())], correction=0).detach()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("key", ROWS)
def test_certified_radii_hold(name: str, key: str) -> None:
    method = create(key)
    for seed in range(2):
        net = method.build(a_net(name, seed), TASK)
        x, _ = images(seed=seed)
        with torch.no_grad():
            net.head.bias.sub_(net(x).mean(0))
        answers = {norm: method.certify(net, x, norm) for norm in ("linf", "l2")}
        for norm, answer in answers.items():
            if isinstance(answer, Radii):
                y = net(x).argmax(1)
                assert bool((answer.radius > 0).any())
                for hostile in attacked(net, x, y, answer.radius, norm):
                    assert torch.equal(net(hostile).argmax(1), y)
                far = attacked(net, x, y, 1e3 * answer.radius + 0.3, norm)
                assert any(not torch.equal(net(hostile).argmax(1), y) for hostile in far)
        assert any(isinstance(answer, Radii) for answer in answers.values())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("key", ROWS)
def test_every_row_trains(key: str, name: str) -> None:
    method = create(key)
    net = method.build(a_net(name).train(), TASK)
    (x, y), ctx = images(8), Context(TASK, 10, 5, torch.Generator())
    means = [layer.running_mean.clone() for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    optimiser = torch.optim.SGD(method.param_groups(net), lr=1e-3)
    for step in range(3):
        ctx.step = 3 * step
        loss = method.update(net, Batch(x, y, torch.arange(8)), ctx, optimiser)
        with torch.no_grad():
            method.after_step(net, ctx)
        assert bool(loss.total.isfinite())
        assert all(bool(p.isfinite().all()) for p in net.parameters())
    after = [layer.running_mean for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(not torch.equal(a, b) for a, b in zip(means, after, strict=True))  # each step has seen the images


@pytest.mark.parametrize("key", ["ibp", "crown_ibp", "convex_polytope", "mmr", "roll"])
def test_gradients_flow_through_the_statistics(key: str) -> None:
    """The loss does not change with the scale of weights before batch norm in training mode."""
    method, net = create(key), a_net("before").train()
    x, y = images(8)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.eps = 1e-12
    inner = net.body[4].branch[0].weight
    ctx = Context(TASK, 10, 5, torch.Generator())
    ctx.step = 8  # the radii have grown
    total = method.loss(net, Batch(x, y, torch.arange(8)), ctx).total
    slope = dict(zip(net.parameters(), gradients(total, net), strict=True))[inner]
    assert bool((slope.abs() > 1e-6).any()) and float((slope * inner).sum().detach()) == pytest.approx(0, abs=1e-8)


def test_the_mean_over_all_pixels_has_two_names() -> None:
    net, (x, y) = a_net("before"), images()
    wanted = all_margins(net, a_ball(x, 0.02), x, y)
    where = next(i for i, layer in enumerate(net.body) if isinstance(layer, nn.AvgPool2d))
    net.body[where] = nn.AdaptiveAvgPool2d(1)
    for key, margins in all_margins(net, a_ball(x, 0.02), x, y).items():
        torch.testing.assert_close(margins, wanted[key])


def test_what_bounds_do_not_know_is_named() -> None:
    for layer, words in (
        (nn.MaxPool2d(2), "MaxPool2d"),
        (nn.BatchNorm2d(2, track_running_stats=False), "BatchNorm2d"),
        (nn.AdaptiveAvgPool2d(2), "AdaptiveAvgPool2d"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), "AvgPool2d"),
        (Residual(nn.Conv2d(2, 1, 1)), "unlike shapes"),
        (Residual(nn.Sequential(nn.Tanh())), "Tanh"),
    ):
        net = a_net("nested")
        net.body.insert(0, layer.double())
        for key in ("ibp", "convex_polytope", "mmr", "roll"):
            with pytest.raises(MarginbenchError, match=words):
                create(key).build(net, TASK)
            answer = create(key).certify(net, images()[0], "linf")
            assert isinstance(answer, NotApplicable) and words in answer.reason
