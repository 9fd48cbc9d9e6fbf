"""A method in a loop of plain PyTorch, on modules that are no `Net`."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from marginbench.benchmarks.data.dataset import load_data
from marginbench.methods import MarginbenchError, as_net, create

FILE = Path(__file__).parents[1] / "doors" / "own_loop.py"


class Custom(nn.Module):
    """Registers its head first, and has another linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 10)
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.stem(2 * x - 1).relu())
        return out


def plain() -> nn.Sequential:
    convolutions = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2))
    return nn.Sequential(convolutions, nn.Flatten(), nn.Sequential(nn.Dropout(0.1), nn.Linear(128, 10)))


SPECS = ("ce", "arcface(s=16,m=0.1)", "mma(steps=2)", "dsd")


@pytest.mark.parametrize(
    ("spec", "make"),
    [*((spec, make) for spec in SPECS for make in (Custom, plain)), ("contractive(output=ce)", plain)],
)
def test_a_method_trains_any_classifier_with_a_linear_last_layer(
    spec: str, make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    loop = importlib.util.spec_from_file_location("own_loop", FILE)
    assert loop is not None and loop.loader is not None
    module = importlib.util.module_from_spec(loop)
    loop.loader.exec_module(module)
    split = load_data("digits", 200, tmp_path).train
    x, y = split.images(slice(512)), split.y[:512]
    torch.manual_seed(0)
    model = make()
    net = module.train(create(spec), model, x, y, epochs=15)
    with torch.no_grad():
        assert float((net(x).argmax(1) == y).float().mean()) > 0.85
        if spec == "ce":
            torch.testing.assert_close(model.eval()(x), net(x))  # its own layers were trained


def test_the_net_shares_the_layers_and_leaves_the_module_as_it_is() -> None:
    for model in (Custom(), plain()):
        names, x = list(model.state_dict()), torch.rand(4, 1, 8, 8)
        net = as_net(model.train(), x)
        assert list(model.state_dict()) == names and model.training and all(m.training for m in model.modules())
        assert {id(p) for p in net.parameters()} == {id(p) for p in model.parameters()}
        assert torch.equal(net.eval()(x), model.eval()(x)) and net.features(x).dim() == 2


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1)), nn.Linear(8, 10), nn.Flatten()]
)
def test_a_module_without_a_linear_last_layer_is_refused(model: nn.Module) -> None:
    with pytest.raises(MarginbenchError, match=r"must be that of an .*Linear on features"):
        as_net(model, torch.rand(4, 1, 8, 8))
