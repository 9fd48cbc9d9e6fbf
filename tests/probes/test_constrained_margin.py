"""Constrained margins: closed form on linear networks, a fine grid of directions elsewhere, and known components."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import is_adversarial
from marginbench.benchmarks.evaluation.canaries import linear
from marginbench.benchmarks.probes.constrained_margin import (
    ConstrainedMargin,
    Span,
    constrained_margins,
    elbow,
    principal_components,
)
from marginbench.benchmarks.probes.probe import Subject

SETTINGS = ConstrainedMargin()


def test_on_a_linear_network_it_is_the_gap_over_the_gradient_within_the_span() -> None:
    canary = linear()
    x, y = canary.data.train.images(slice(None)), canary.data.train.y
    net = canary.net.requires_grad_(False)
    basis = torch.linalg.qr(torch.randn(64, 5, generator=torch.Generator().manual_seed(0)))[0].T.contiguous()
    weight = net.get_parameter("head.weight").double() / 0.2
    z = net(x).double()
    sizes = ((weight[y][:, None] - weight) @ basis.double().T).norm(dim=2)
    gaps = z.gather(1, y[:, None]) - z
    wanted = (gaps / sizes).scatter(1, y[:, None], torch.inf).amin(1)
    found = constrained_margins(net, x, y, Span.of(basis, x, y), SETTINGS)
    torch.testing.assert_close(found.double(), wanted, rtol=2e-3, atol=1e-5)
    assert bool((found >= wanted * (1 - 1e-4)).all()), "an upper bound"
    everything = constrained_margins(net, x, y, Span.of(torch.eye(64), x, y), SETTINGS)
    known = canary.exact["l2"].isfinite()
    torch.testing.assert_close(everything.double()[known], canary.exact["l2"][known], rtol=2e-3, atol=1e-5)


class Cosine(nn.Module):
    """Features on the sphere, as margin methods for faces have them: logits bend everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=1)


def curved(scale: float, *middle: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), *middle, nn.Linear(32, 4))
        for parameter in net.parameters():
            parameter.data.mul_(1.5)
    for parameter in net[-1].parameters():
        parameter.data.mul_(scale)
    return net.requires_grad_(False).eval()


@pytest.mark.parametrize(
    "net",
    [*(curved(scale, nn.Tanh()) for scale in (1.0, 1e-3, 1e4)), curved(9.0, nn.ReLU(), Cosine())],
    ids=["tanh", "tiny logits", "large logits", "cosine"],
)
def test_in_a_plane_it_finds_what_a_grid_of_directions_finds(net: nn.Module) -> None:
    stream = torch.Generator().manual_seed(0)
    x = torch.rand(24, 1, 4, 4, generator=stream)
    y = net(x).argmax(1)
    basis = torch.linalg.qr(torch.randn(16, 2, generator=stream))[0].T.contiguous()
    found = constrained_margins(net, x, y, Span.of(basis, x, y), SETTINGS)
    lengths, wanted = torch.linspace(0, 6, 301)[1:], torch.full((24,), torch.inf)
    for angle in np.linspace(0, 2 * np.pi, 181):
        direction = float(np.cos(angle)) * basis[0] + float(np.sin(angle)) * basis[1]
        points = x[:, None] + (lengths[:, None] * direction).view(1, 300, 1, 4, 4)
        hit = is_adversarial(net, points.flatten(0, 1), y.repeat_interleave(300)).view(24, 300)
        wanted = torch.minimum(wanted, torch.where(hit, lengths, torch.inf).amin(1))
    reached = wanted.isfinite()
    assert float(reached.float().mean()) > 0.7 and bool((found > wanted - 0.03)[reached].all()), (
        "the grid's step is 0.02"
    )
    ratio = (found / wanted)[reached]
    assert float(ratio.mean()) < 1.01 and float((ratio < 1.05).float().mean()) >= 0.95


class Discs(nn.Module):
    """Two discs of a plane are one class, on a flat ground: a small one about (1, 0), a large one about (0, 1.2)."""

    def forward(self, x: Tensor) -> Tensor:
        centres, radii = x.new_tensor([[1.0, 0.0], [0.0, 1.2]]), x.new_tensor([0.2, 0.8])
        depth = (radii + 0.05 - torch.cdist(x.flatten(1), centres)).clamp_min(0).amax(1)
        return torch.stack([torch.zeros_like(depth), depth - 0.05], 1)


def test_with_few_rivals_it_starts_on_the_way_to_several_images() -> None:
    images = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.2]]).view(3, 1, 1, 2)
    labels = torch.tensor([0, 1, 1])
    found = constrained_margins(Discs(), images[:1], labels[:1], Span.of(torch.eye(2), images, labels), SETTINGS)
    assert float(found) == pytest.approx(0.4, rel=0.02), "0.8 on the way to the nearest image"


def test_without_images_of_a_rival_it_starts_on_the_way_to_others() -> None:
    images = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.2]]).view(3, 1, 1, 2)
    labels = torch.zeros(3, dtype=torch.int64)
    found = constrained_margins(Discs(), images[:1], labels[:1], Span.of(torch.eye(2), images, labels), SETTINGS)
    assert float(found) == pytest.approx(0.4, rel=0.02)


def test_components_are_those_of_the_largest_variance() -> None:
    stream = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(36, 36, generator=stream))[0]
    sizes = torch.tensor([9.0, 8.0, 7.0, *[0.2] * 33])
    for count in (500, 20):  # more images than pixels, and fewer
        images = (torch.randn(count, 36, generator=stream) * sizes) @ directions.T + 50 * directions[:, 5]
        basis = principal_components(images.view(count, 1, 6, 6))
        assert len(basis) == 3
        torch.testing.assert_close(basis @ basis.T, torch.eye(3), atol=1e-5, rtol=0)
        assert float((basis @ directions[:, :3]).square().sum()) > 2.9, "the same span"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([9, 8, 1, 0.9, 0.8, 0.7], 2), ([5, 5, 5], 1), ([3.0], 1), ([4, 1, 0.5, 0], 1), ([10, 9.9, 6, 5.9, 5.8, 5.7], 2)],
)
def test_the_elbow_of_a_spectrum(values: list[float], wanted: int) -> None:
    assert elbow(torch.tensor(values, dtype=torch.float64)) == wanted


def test_a_wrong_image_has_margin_zero_and_does_not_count() -> None:
    canary = linear()
    canary.data.train.y[::2].add_(1).remainder_(4)
    net = canary.net.requires_grad_(False)
    probe = ConstrainedMargin(points=64)
    arrays = probe.measure(Subject(net, *[canary.data.train] * 3, {"linf": 0.05, "l2": 0.25}, seed=0))
    margins: Tensor = arrays["constrained_train"]
    assert margins[::2].tolist() == [0.0] * 32 and bool((margins[1::2] > 0).all())
    mean = probe.metrics({name: value.numpy() for name, value in arrays.items()}, {})["constrained_margin"]
    assert mean == pytest.approx(float(margins[1::2].mean()))


@pytest.mark.parametrize(("missing", "wanted"), [(0, 1.0), (5, 1.0), (6, float("nan"))])
def test_a_mean_over_too_few_is_none(missing: int, wanted: float) -> None:
    margins = np.array([0.0, 0.0, *[1.0] * (100 - missing), *[np.inf] * missing], dtype=np.float32)
    found = ConstrainedMargin().metrics({"constrained_train": margins}, {})["constrained_margin"]
    assert found == pytest.approx(wanted, nan_ok=True)
