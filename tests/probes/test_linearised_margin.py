"""Linearised margins: closed form on linear networks, one image at a time elsewhere, and any logits' scale."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from marginbench.benchmarks.evaluation.canaries import Canary, linear, masked
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.nets.scan import NETWORKS
from marginbench.benchmarks.probes import linearised_margin
from marginbench.benchmarks.probes._depths import DEPTHS, hidden_layers
from marginbench.benchmarks.probes.linearised_margin import LAYERS, SUMMARY, LinearisedMargin
from marginbench.benchmarks.probes.probe import Subject
from marginbench.methods import Net, Norm

EPSILON: dict[Norm, float] = {"linf": 0.05, "l2": 0.25}


def measured(net: nn.Module, canary: Canary) -> dict[str, Tensor]:
    data = canary.data
    return LinearisedMargin(points=64).measure(
        Subject(net.requires_grad_(False).eval(), data.test, data.validation, data.train, EPSILON, seed=0)
    )


def a_cnn(scale: float = 1.0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make_net("cnn", 4, (1, 8, 8), 4, torch.tensor([0.5]), torch.tensor([0.05]))
    with torch.no_grad():
        net.get_parameter("head.weight").mul_(scale)
        net.get_parameter("head.bias").mul_(scale)
    return net.eval()


def on_its_own(net: Net) -> Canary:
    """The images of the linear canary, with what this network says as labels of all but the first four."""
    canary = linear()
    x = canary.data.test.images(slice(None))
    with torch.no_grad():
        y = net(x).argmax(1)
    y[:4] = (y[:4] + 1) % 4
    split = replace(canary.data.test, y=y)
    return replace(canary, data=replace(canary.data, test=split, train=split))


def test_on_a_linear_network_it_is_the_margin_of_the_runner_up() -> None:
    canary = linear()
    found = measured(canary.net, canary)
    x, y = canary.data.test.images(slice(None)), canary.data.test.y
    weight = canary.net.get_parameter("head.weight").double() / 0.2
    z = canary.net(x).double()
    rival = z.scatter(1, y[:, None], -torch.inf).argmax(1)
    gap = (z.gather(1, y[:, None]) - z.gather(1, rival[:, None]))[:, 0]
    for norm, dual in (("l2", 2), ("linf", 1)):
        wanted = gap / (weight[y] - weight[rival]).norm(p=dual, dim=1)
        torch.testing.assert_close(found[f"linearised_{norm}"].double(), wanted, rtol=1e-4, atol=1e-6)
    assert bool(found["linearised_train"][1:].isnan().all()), "a linear network has no hidden layer"


def test_it_agrees_with_one_image_at_a_time() -> None:
    net = a_cnn()
    canary = on_its_own(net)
    found = measured(net, canary)["linearised_train"]
    x, y = canary.data.train.images(slice(None)), canary.data.train.y
    first, second = net.body[:4], net.body[4:]  # convolution, ReLU, convolution, ReLU | flatten, linear, ReLU
    margins: list[list[float]] = []
    activations = [net.body[:2](net.normalise(x)), first(net.normalise(x)), net.features(x)]
    for i in range(len(x)):
        stages = [x[i : i + 1], net.body[:2](net.normalise(x[i : i + 1])), first(net.normalise(x[i : i + 1]))]
        stages.append(second(stages[-1]))
        rests = [net, nn.Sequential(net.body[2:], net.head), nn.Sequential(second, net.head), net.head]
        row = []
        for stage, rest in zip(stages, rests, strict=True):
            h = stage.detach().double().requires_grad_()
            z = copy.deepcopy(rest).double()(h)[0]
            rival = max((j for j in range(4) if j != int(y[i])), key=z.tolist().__getitem__)
            (gradient,) = torch.autograd.grad(z[int(y[i])] - z[rival], h)
            row.append(float((z[int(y[i])] - z[rival]).detach() / gradient.norm()))
        margins.append(row)
    table = np.array(margins)[4:]  # the first four are misclassified
    spread = [1.0, *(float(h.double().flatten(1).var(0, correction=0).sum().sqrt()) for h in activations)]
    table /= np.array(spread)
    q1, median, q3 = np.quantile(table, [0.25, 0.5, 0.75], axis=0)
    for i in range(len(LAYERS)):
        inside = [m for m in table[:, i] if q1[i] - 1.5 * (q3[i] - q1[i]) <= m <= q3[i] + 1.5 * (q3[i] - q1[i])]
        wanted = [min(inside), q1[i], median[i], q3[i], max(inside)]
        np.testing.assert_allclose(found[i].numpy(), wanted, rtol=1e-3, err_msg=LAYERS[i])


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_it_does_not_depend_on_how_many_images_fit_into_memory(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = on_its_own(a_cnn())
    wanted = measured(a_cnn(), canary)
    monkeypatch.setattr(linearised_margin, "rows_at_once", lambda net, images: rows)
    for name, found in measured(a_cnn(), canary).items():
        torch.testing.assert_close(found, wanted[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e6])
def test_logits_of_any_scale_have_the_same_margins(scale: float) -> None:
    canary = on_its_own(a_cnn())
    wanted, found = measured(a_cnn(), canary), measured(a_cnn(scale), canary)
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=0.0, equal_nan=True)
    assert found["linearised_l2"][:4].tolist() == [0.0] * 4, "misclassified"


def test_no_gradient_is_no_margin_of_the_summary() -> None:
    canary = masked()
    found = measured(canary.net, canary)
    assert bool((found["linearised_l2"] > 0).any())
    arrays = {name: values.numpy() for name, values in found.items()}
    metrics = LinearisedMargin().metrics(arrays, EPSILON)
    assert set(metrics) == {f"linearised_{layer}_{number}" for layer in LAYERS for number in SUMMARY}
    assert all(np.isfinite(value) or np.isnan(value) for value in metrics.values())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "linear" and not NETWORKS[name].text])
def test_every_network_has_hidden_layers_the_last_of_which_are_the_features(name: str) -> None:
    shape = (3, 32, 32)
    width = None if NETWORKS[name].width is None else 4
    net = make_net(name, width, shape, 4, torch.full((3,), 0.5), torch.full((3,), 0.25)).eval()
    layers = hidden_layers(net, torch.rand(1, *shape))
    assert len(layers) == DEPTHS
    if name != "mlp":
        assert len(set(layers)) == DEPTHS
    seen: list[Tensor] = []
    with layers[-1].register_forward_hook(lambda *call: seen.append(call[2])), torch.no_grad():
        phi = net.features(x := torch.rand(2, *shape)), net(x)
    assert torch.equal(seen[0], phi[0])


def test_an_outside_model_is_looked_into_and_its_logits_are_no_hidden_layer() -> None:
    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first, self.act = nn.Linear(5, 3), nn.Linear(64, 5), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.act(self.first(x.flatten(1))))

    model = Outside()
    net = Net(nn.Identity(), nn.Sequential(model), nn.Identity()).eval()
    assert hidden_layers(net, torch.rand(1, 1, 8, 8)) == [model.act] * DEPTHS
    assert hidden_layers(nn.Flatten(), torch.rand(1, 1, 8, 8)) == []


TAILS: dict[str, Callable[[Tensor], Tensor]] = {
    "log_softmax": lambda z: z.log_softmax(1),
    "scaled": lambda z: 7 * z + 3,
    "centred": lambda z: z - z.mean(1, keepdim=True),
    "masked": lambda z: z.masked_fill(torch.arange(4) == 2, -1e9),
    "saturated": lambda z: torch.tanh(20 * z),
}


@pytest.mark.parametrize("tail", TAILS)
def test_logits_that_a_function_follows_are_no_hidden_layer(tail: str) -> None:
    class Tailed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.last = nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return TAILS[tail](self.last(self.act(self.first(x.flatten(1)))))

    with seeded(torch.device("cpu"), "tailed"):
        model = Tailed()
    net = Net(nn.Identity(), nn.Sequential(model), nn.Identity()).eval()
    assert hidden_layers(net, torch.rand(8, 1, 8, 8)) == [model.act] * DEPTHS
    layers = nn.Sequential(nn.Flatten(), model.first, model.act, model.last, nn.LogSoftmax(1)).eval()
    assert hidden_layers(layers, torch.rand(8, 1, 8, 8)) == [model.act] * DEPTHS


def test_a_module_that_returns_a_constant_is_no_hidden_layer() -> None:
    """Converters of ONNX make modules of the numbers in a graph."""

    class Number(nn.Module):
        def __init__(self, value: Tensor) -> None:
            super().__init__()
            self.register_buffer("value", value)

        def forward(self) -> Tensor:
            return self.get_buffer("value")

    class Converted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.offset = Number(torch.tensor(0.5)), Number(torch.ones(1, 5))
            self.first, self.act, self.last = nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            phi = self.act(self.first((x - self.mean()).flatten(1)))
            return self.last(phi + self.offset())

    model = Converted()
    net = Net(nn.Identity(), nn.Sequential(model), nn.Identity()).eval()
    assert hidden_layers(net, torch.rand(1, 1, 8, 8)) == [model.act] * DEPTHS


def test_torchscript_is_measured_without_hidden_layers() -> None:
    """Its modules take no hooks."""
    net = a_cnn()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        scripted = nn.Sequential(torch.jit.script(nn.Sequential(net.normalise, net.body, net.head)))
    plain, found = measured(net, on_its_own(net)), measured(scripted, on_its_own(net))
    torch.testing.assert_close(found["linearised_l2"], plain["linearised_l2"], rtol=1e-4, atol=1e-6)
    assert bool(found["linearised_train"][1:].isnan().all()) and not bool(plain["linearised_train"].isnan().any())
