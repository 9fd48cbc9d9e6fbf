"""The networks: sizes as published, certificates that know them, and methods that train on them."""

import copy
from pathlib import Path

import pytest
import torch
from support import a_query
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.certificates.crown import crown
from marginbench.benchmarks.certificates.lipschitz import lipschitz
from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.nets.networks import NETWORKS, make_net
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.training.loop import train
from marginbench.methods import MarginbenchError, Net, Residual, Subsample, create, rows
from marginbench.methods.maths.estimate import estimate, keep_vectors
from marginbench.methods.maths.lipschitz import layer_bound

CLASSES = 3
GREY, RGB, IMAGENET = (1, 28, 28), (3, 32, 32), (3, 224, 224)

PUBLISHED = {  # parameters with the head: exact for the variants named, rounded in the papers
    ("lenet5", GREY, 10): 431_080,
    ("lenet5_madry", GREY, 10): 3_274_634,
    ("cnn4", GREY, 10): 166_406,
    ("cnn7", GREY, 10): 1_974_762,
    ("cnn_6c2f", RGB, 10): 2_250_378,
    ("resnet20", RGB, 10): 269_722,
    ("resnet32", RGB, 10): 464_154,
    ("resnet44", RGB, 10): 658_586,
    ("resnet56", RGB, 10): 853_018,
    ("resnet110", RGB, 10): 1_727_962,
    ("preact_resnet18", RGB, 10): 11_172_170,
    ("wrn_16_4", RGB, 10): 2_748_890,
    ("wrn_16_4_dropout", RGB, 10): 2_748_890,
    ("wrn_28_4", RGB, 10): 5_849_050,
    ("wrn_28_10", RGB, 10): 36_479_194,
    ("vgg16_bn", RGB, 10): 14_723_136 + 5_130,
    ("mobilenet", IMAGENET, 1000): 4_231_976,
    ("mobilenet_v2", IMAGENET, 1000): 3_504_872,
    ("resnet50", IMAGENET, 1000): 25_557_032,
}
OWN = ["linear", "mlp", "cnn"]  # of no paper


def build(name: str, shape: tuple[int, int, int] | None = None, width: int = 4, seed: int = 0) -> Net:
    """A small network of the name, by default for the smallest images."""
    least = max(8, NETWORKS[name].smallest)
    shape = shape or (3, least, least)
    grey = torch.full((shape[0],), 0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_net(name, width, shape, CLASSES, grey, 0.6 * grey)


def images(name: str, count: int, seed: int = 0) -> Tensor:
    least = max(8, NETWORKS[name].smallest)
    return torch.rand(count, 3, least, least, generator=torch.Generator().manual_seed(seed))


def trained(name: str, width: int = 2) -> tuple[Net, Tensor, Tensor]:
    """A network after a few steps, with statistics of batch norm; eight images and their labels."""
    net = build(name, width=width)
    g = torch.Generator().manual_seed(1)
    templates = images(name, CLASSES)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(count) % CLASSES
        return (templates[y] + 0.1 * torch.randn(templates[y].shape, generator=g)).clamp(0, 1), y

    optimiser = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        for _ in range(40):
            x, y = draw(24)
            optimiser.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimiser.step()
    x, y = draw(8)
    net = net.eval().requires_grad_(False)
    assert (net(x).argmax(1) == y).all()
    return net, x, y


@pytest.mark.parametrize(("case", "count"), PUBLISHED.items(), ids=[case[0] for case in PUBLISHED])
def test_sizes_are_the_published_ones(case: tuple[str, tuple[int, int, int], int], count: int) -> None:
    name, shape, classes = case
    with torch.device("meta"):
        net = make_net(name, NETWORKS[name].width, shape, classes, torch.zeros(shape[0]), torch.ones(shape[0]))
    assert sum(p.numel() for p in net.parameters()) == count


def test_every_network_of_a_paper_has_its_size_tested() -> None:
    assert {name for name, _, _ in PUBLISHED} | set(OWN) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_keeps_the_contract(name: str) -> None:
    net, x = build(name), images(name, 5)
    assert all(module.training for module in net.modules())
    net.eval()
    features = net.features(x)
    assert features.dim() == 2 and isinstance(net.head, nn.Linear) and features.shape[1] == net.head.in_features
    logits = net(x)
    assert logits.shape == (5, CLASSES) and torch.equal(logits, net(x))
    torch.testing.assert_close(net(x[2:3]), logits[2:3], rtol=1e-4, atol=1e-5)
    assert torch.equal(net.decision_net().eval()(x).argmax(1), logits.argmax(1))
    torch.testing.assert_close(copy.deepcopy(net).double()(x.double()).float(), logits, rtol=1e-3, atol=1e-4)
    again = build(name, seed=1).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), logits)
    with PassCounter(net) as passes:
        net(x.requires_grad_()).sum().backward()  # `linear` has no weights before the features
    assert (passes.forward, passes.backward) == (5, 5)
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "linear"])
def test_width_scales_and_a_fresh_network_has_fresh_statistics(name: str) -> None:
    small, larger = (sum(p.numel() for p in build(name, width=width).parameters()) for width in (4, 8))
    assert small < larger
    for key, value in build(name).state_dict().items():
        if key.endswith("running_mean"):
            assert not value.any(), key


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name].smallest > 1])
def test_the_smallest_images_work_and_smaller_ones_are_refused(name: str) -> None:
    least = NETWORKS[name].smallest
    assert build(name, (1, least, least + 3)).eval()(torch.rand(2, 1, least, least + 3)).shape == (2, CLASSES)
    with pytest.raises(
        MarginbenchError, match=rf"^network '{name}' needs images of {least}x{least} or more, not 3x64$"
    ):
        build(name, (1, 3, 64))


@pytest.mark.parametrize("name", ["mobilenet", "mobilenet_v2"])
def test_mobile_networks_keep_more_of_small_images(name: str) -> None:
    sizes = {}
    for size in (32, 64):
        net = build(name, (3, size, size)).eval()
        layers = nn.Sequential(*net.body[:-2])  # without pooling
        sizes[size] = layers(torch.rand(1, 3, size, size)).shape[-1]
    assert sizes == {32: 4, 64: 2}


def test_dropout_acts_in_training_only_between_the_convolutions_of_a_block() -> None:
    plain, dropping, x = build("wrn_16_4"), build("wrn_16_4_dropout"), images("wrn_16_4", 4)
    assert len(list(dropping.parameters())) == len(list(plain.parameters()))
    for p, q in zip(plain.parameters(), dropping.parameters(), strict=True):
        assert torch.equal(p, q)
    assert torch.equal(plain.eval()(x), dropping.eval()(x))
    dropped = []

    def note(layer: nn.Module, inputs: tuple[Tensor], out: Tensor) -> None:
        dropped.append(float((out == 0)[inputs[0] != 0].float().mean()))

    for block in (module for module in dropping.modules() if isinstance(module, Residual)):
        assert isinstance(block.branch, nn.Sequential)
        kinds = [type(layer) for layer in block.branch][-5:]
        assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.Conv2d]
        block.branch[-2].register_forward_hook(note)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropping.train()(x.repeat(16, 1, 1, 1))
    assert dropped == pytest.approx([0.4] * 6, abs=0.05)


def test_dropout_does_not_count_in_lipschitz_constants_for_training() -> None:
    found = []
    for name in ("wrn_16_4", "wrn_16_4_dropout"):
        net = build(name)
        keep_vectors(net, (3, 8, 8))
        found.append(torch.as_tensor(estimate(net.train().body)).item())
    assert found[0] == found[1] > 0


def test_width_defaults_to_the_networks_own() -> None:
    assert Network(name="resnet44").width == 16 and Network(name="preact_resnet18").width == 64
    assert Network(name="resnet44", width=3).width == 3
    assert Network(name="cnn").width == 16


def test_an_unknown_network_is_one_clear_line(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "benchmarks/suites/smoke.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('name = "cnn"\nwidth = 8', 'name = "resnet21"'))
    with pytest.raises(MarginbenchError, match=r"network\.name='resnet21': unknown network: did you mean") as error:
        load_suite(str(path))
    assert "width" not in str(error.value)


def test_the_shortcut_keeps_every_second_pixel_and_adds_zeros() -> None:
    x = torch.rand(2, 3, 5, 6)
    layer = Subsample(3, 8)
    out = layer(x)
    assert torch.equal(out[:, :3], x[:, :, ::2, ::2]) and not out[:, 3:].any()
    assert not list(layer.parameters())
    assert float(layer_bound(layer, x[:1])) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_bound_of_a_fixed_convolution_is_that_of_its_kernel(factor: float) -> None:
    layer = Subsample(2, 4)
    layer.kernel.mul_(factor)
    assert float(layer_bound(layer, torch.rand(1, 2, 8, 8))) == pytest.approx(factor, abs=1e-8)
    assert float(layer_bound(layer, torch.rand(1, 2, 40, 40))) == pytest.approx(factor, abs=1e-8)


def least_gap(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    z = net(x)
    own = z.gather(1, y[:, None])[:, 0]
    return own - z.scatter(1, y[:, None], -torch.inf).amax(1)


def attacked(net: nn.Module, x: Tensor, y: Tensor, radius: Tensor, norm: str, steps: int = 20) -> Tensor:
    """Images within the radii [B] that a few gradient steps find, in float64."""
    reach = radius[:, None, None, None]
    delta = torch.zeros_like(x)
    for _ in range(steps):
        delta.requires_grad_()
        (g,) = torch.autograd.grad(least_gap(net, x + delta, y).sum(), delta)
        if norm == "linf":
            delta = (delta.detach() - 0.5 * reach * g.sign()).clamp(-reach, reach)
        else:
            delta = delta.detach() - 0.5 * reach * F.normalize(g.flatten(1)).view_as(g)
            length = delta.flatten(1).norm(dim=1)[:, None, None, None]
            delta = delta * (reach / length).clamp(max=1)
    return x + delta.detach()


@pytest.mark.parametrize(
    "name", ["resnet20", "wrn_16_4", "wrn_16_4_dropout", "preact_resnet18", "vgg16_bn", "lenet5", "lenet5_madry"]
)
def test_lipschitz_radii_hold(name: str) -> None:
    net, x, y = trained(name)
    radius = lipschitz(a_query(net.decision_net(), x, y, "l2")).lower
    assert radius is not None and (radius > 0).all()
    net, x = net.double(), x.double()
    start = least_gap(net, x, y)
    for share in (1.0, 1e3):  # far outside, the attack must be able to do harm
        found = least_gap(net, attacked(net, x, y, share * radius.double(), "l2"), y)
        assert (found <= start).all()
        assert share > 1 or (found > 0).all()


@pytest.mark.parametrize(
    ("name", "layer"), [("mobilenet", "groups=4"), ("mobilenet_v2", "ReLU6"), ("resnet50", "Bottleneck")]
)
def test_where_no_lipschitz_bound_is_known_the_layer_is_named(name: str, layer: str) -> None:
    net = build(name).eval().decision_net()
    answer = lipschitz(a_query(net, images(name, 2), torch.zeros(2).long(), "l2"))
    assert answer.lower is None and layer in answer.reason


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["resnet20", "preact_resnet18"])
def test_crown_bounds_residual_networks(name: str, norm: str) -> None:
    net, x, y = trained(name)
    radius = crown(a_query(net.decision_net(), x[:2], y[:2], norm)).lower
    assert radius is not None and (radius > 1e-3).all()
    net, x = net.double(), x[:2].double()
    assert (least_gap(net, attacked(net, x, y[:2], radius.double(), norm), y[:2]) > 0).all()


def a_suite(name: str = "resnet20") -> Suite:
    values = {
        "name": "nets",
        "title": "two steps on a residual network",
        "seeds": 1,
        "data": {"name": "synthetic", "validation": 1},
        "network": {"name": name, "width": 4},
        "training": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3},
        "evaluation": {
            "points": 1,
            "epsilon": {"linf": 0.05, "l2": 0.25},
            "attacks": {},
            "certificates": {},
        },
    }
    return Suite(**values, folder=Path())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        *((spec, "resnet20") for spec in rows()),
        ("all_layer_margin(steps=2)", "preact_resnet18"),
        ("lmt(variant=plus,ramp_end=0.5)", "wrn_16_4_dropout"),
    ],
)
def test_every_method_trains_a_residual_network(spec: str, name: str) -> None:
    stream = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        x = torch.randint(256, (count, 3, 8, 8), generator=stream, dtype=torch.uint8)
        return Split(x, torch.arange(count) % 5, 255)

    data = Dataset(split(32), split(1), split(4), 5, "synthetic")
    result = train(create(spec), a_suite(name), data, 0)
    assert result.steps == 2
    assert result.net(data.test.images(slice(None))).isfinite().all()
