"""The networks: sizes as published, widths, smallest images, and the contract that each keeps."""

import copy
from pathlib import Path

import pytest
import torch
from net_support import CLASSES, build, images
from torch import Tensor, nn

from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.nets.scan import NETWORKS
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import MarginbenchError, Residual

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
    ("wrn_16_4_lmt", RGB, 10): 2_748_890,
    ("wrn_28_4", RGB, 10): 5_849_050,
    ("wrn_28_10", RGB, 10): 36_479_194,
    ("vgg16_bn", RGB, 10): 14_723_136 + 5_130,
    ("mobilenet", IMAGENET, 1000): 4_231_976,
    ("mobilenet_v2", IMAGENET, 1000): 3_504_872,
    ("resnet50", IMAGENET, 1000): 25_557_032,
}
OF_IMAGES = [name for name, architecture in NETWORKS.items() if not architecture.text]  # the others: test_bert.py
OWN = ["linear", "mlp", "cnn"]  # of no paper


@pytest.mark.parametrize(("case", "count"), PUBLISHED.items(), ids=[case[0] for case in PUBLISHED])
def test_sizes_are_the_published_ones(case: tuple[str, tuple[int, int, int], int], count: int) -> None:
    name, shape, classes = case
    with torch.device("meta"):
        net = make_net(name, NETWORKS[name].width, shape, classes, torch.zeros(shape[0]), torch.ones(shape[0]))
    assert sum(p.numel() for p in net.parameters()) == count


def test_every_network_of_a_paper_has_its_size_tested() -> None:
    assert {name for name, _, _ in PUBLISHED} | set(OWN) == set(OF_IMAGES)


@pytest.mark.parametrize("name", OF_IMAGES)
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


@pytest.mark.parametrize("name", [name for name in OF_IMAGES if name != "linear"])
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
