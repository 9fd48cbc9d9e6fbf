"""A module of a user as a `Net`: taken apart where that is the same, and rewritten for bounds."""

from functools import partial

import pytest
import torch
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.certificates.crown import crown
from marginbench.benchmarks.evaluation.evaluated import output_margins
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.benchmarks.models.adapter import adapt
from marginbench.benchmarks.nets.make import make_net
from marginbench.methods import NORMS


class Doubling(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = 2 * super().forward(x)
        return out


def test_layers_are_taken_apart_only_where_that_is_the_same() -> None:
    x = torch.rand(3, 1, 4, 4)
    relu = nn.ReLU()
    first, second, last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
    shared = nn.Sequential(nn.Flatten(), nn.Sequential(first, relu, second, relu), last).eval()
    net = adapt(shared, nn.Identity(), x)
    assert len(net.body) == 6 and net.head is last
    assert torch.equal(net(x), shared(x)) and net.features(x).shape == (3, 16)
    for opaque in (Doubling(nn.Flatten(), last), nn.Sequential(Doubling(nn.Flatten(), last))):
        net = adapt(opaque.eval(), nn.Identity(), x)
        assert len(net.body) == 2 and torch.equal(net(x), 2 * last(x.flatten(1)))
    hooked = nn.Sequential(nn.Flatten(), last).eval()
    hooked.register_forward_hook(lambda module, inputs, out: 3 * out)
    assert torch.allclose(adapt(hooked, nn.Identity(), x)(x), 3 * last(x.flatten(1)))
    own = make_net("mlp", 4, (1, 4, 4), 3, torch.tensor([0.3]), torch.tensor([0.4])).eval()
    net = adapt(own, nn.Identity(), x)
    assert net.head is own.head and torch.allclose(net(x), own(x))


def test_bounds_follow_batch_norm_and_views() -> None:
    """auto-LiRPA 0.3 takes another function for batch norm, and keeps the batch of `view`: both are rewritten."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.relu(self.norm(self.conv(x)))
            z: Tensor = self.linear((x + x).view(x.size(0), -1))
            return z

    with seeded(torch.device("cpu"), "test"):
        x = torch.rand(5, 1, 4, 4)
        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3)
        models = [Block(), nn.Sequential(*layers)]
        for model in models:
            for norm in (layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)):
                norm.running_mean.normal_()  # type: ignore[union-attr]
                norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    for model in models:
        net = adapt(model.eval().requires_grad_(False), nn.Identity(), x)
        assert torch.allclose(net(x), model(x), atol=1e-6)
        for norm_name in NORMS:
            y = net(x).argmax(1)
            radius = crown(a_query(net.decision_net(), x, y, norm_name)).lower
            assert radius is not None and (radius > 0).any()
            direction = torch.randn(200, *x.shape).sign()
            size = radius.view(-1, 1, 1, 1) / (4.0 if norm_name == "l2" else 1.0)
            moved = (x + size * direction).clamp(0, 1)
            assert (model(moved.flatten(0, 1)).argmax(1).view(200, -1) == y).all()


class Called(nn.Sequential):
    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = super().__call__(squeezed(x))
        return out


def squeezed(x: Tensor) -> Tensor:
    """Rounded to 5 levels, all that the images below have."""
    return (4 * x).round() / 4


@pytest.mark.parametrize("way", ["forward", "partial", "inside", "call", "net"])
def test_what_is_done_before_the_layers_is_kept_though_images_do_not_show_it(way: str) -> None:
    x = torch.randint(5, (8, 1, 4, 4)) / 4
    layers = nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    model: nn.Module = Called(*layers) if way == "call" else nn.Sequential(*layers)
    if way == "net":
        model = make_net("mlp", 4, (1, 4, 4), 3, torch.tensor([0.3]), torch.tensor([0.4]))
    inner = model.forward
    if way in ("forward", "inside", "net"):
        model.forward = lambda x: inner(squeezed(x))  # type: ignore[method-assign]
    if way == "partial":
        model.forward = partial(lambda inner, x: inner(squeezed(x)), inner)  # type: ignore[method-assign]
    net = adapt((nn.Sequential(model) if way == "inside" else model).eval(), nn.Identity(), x)
    noise = torch.rand(8, 1, 4, 4)
    assert torch.equal(net(noise), model(noise)) and not torch.allclose(net(noise), net(squeezed(noise) + 0.25))
    assert torch.equal(net.decision_net()(noise), net(noise))


class Flattening(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


class Cosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 16 * nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))


class Rectified(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.relu())


class Mean(nn.Module):
    def __init__(self, *members: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return sum(member(x) for member in self.members) / len(self.members)  # type: ignore[return-value]


def test_features_are_what_enters_a_linear_layer_and_none_where_the_last_is_another() -> None:
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 3

    def found(model: nn.Module) -> Tensor | None:
        net = adapt(model.eval().requires_grad_(False), nn.Identity(), x)
        assert torch.allclose(net(x), model(x), atol=1e-5)
        return output_margins(net, y, net(x), lambda: net.features(x)).get("feature_margin")

    torch.manual_seed(0)
    body, head = [nn.Flatten(), nn.Linear(16, 16)], nn.Linear(16, 3)

    def same(kind: type[nn.Linear]) -> nn.Linear:
        layer = kind(16, 3)
        layer.load_state_dict(head.state_dict())
        return layer

    plain = found(nn.Sequential(*body, nn.ReLU(), head))
    assert plain is not None and plain.abs().max() <= 1
    for model in (
        nn.Sequential(*body, nn.ReLU(), nn.Unflatten(1, (4, 4)), same(Flattening)),
        nn.Sequential(*body, same(Rectified)),
    ):
        features = found(model)
        assert features is not None and torch.allclose(features, plain, atol=1e-6)
    behind_norm = [*body, nn.LayerNorm(16), nn.ReLU()]  # no bounds, so that layers stay as they are
    hooked = same(nn.Linear)
    hooked.register_forward_hook(lambda module, inputs, out: 5 * out)
    assert found(nn.Sequential(*behind_norm, head)) is not None
    assert found(nn.Sequential(*behind_norm, same(Cosine))) is None
    assert found(nn.Sequential(*behind_norm, hooked)) is None
    members = [nn.Sequential(nn.Flatten(), nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 3)) for _ in range(2)]
    assert found(Mean(*members)) is None, "the logits of members are no features"
