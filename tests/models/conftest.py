"""Models in a file, as a user writes them, and trained weights for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.models.load import load_model

MODELS = '''
import weakref

import torch
from torch import nn

import neighbour


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, neighbour.WIDTH), nn.ReLU()), nn.Linear(16, 10))


class Branches(nn.Module):
    """Decides on the data, as no bound can follow."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        if x.sum() < -1:
            return -self.net(x)
        return self.net(x)


class Noisy(Branches):
    def forward(self, x):
        return self.net(x) + torch.rand(10)


class Chain(Branches):
    """Code of its own that a trace can follow."""

    def forward(self, x):
        for layer in self.net:
            x = layer(x)
        return x


class InFloat32(Chain):
    def forward(self, x):
        return super().forward(x.float())


def softmax():
    return nn.Sequential(mlp(), nn.Softmax(1))


class Percent(Branches):
    def forward(self, x):
        return 100 * (0.5 * self.net(x)).softmax(1)


class Sigmoids(Branches):
    def forward(self, x):
        return self.net(x).sigmoid()


def raises():
    raise ValueError("no\\nluck")


def wants(width):
    return mlp()


def number():
    return 3


def image_out():
    return nn.Identity()


def seven():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


def twelve():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12))


def large():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


class Pair(Branches):
    def forward(self, x):
        return self.net(x), x


class Squeezed(Branches):
    def forward(self, x):
        return self.net(x).squeeze()


class Steps(Branches):
    def forward(self, x):
        return self.net(x).detach()


class Heaviside(Branches):
    def forward(self, x):
        return self.net[2](torch.heaviside(self.net[1](self.net[0](x)), torch.ones(1)))


class Apart(Branches):
    def forward(self, x):
        return self.net(x.detach()) + torch.zeros(10, requires_grad=True)


class Weak(Branches):
    """Its hook leads back to the model that it was made for, whose weights, or features of earlier calls, it uses."""

    def __init__(self, reads=False):
        super().__init__()
        mine = weakref.ref(self)

        def keep(module, args, out):
            if reads:
                return out * mine().scale
            mine().feature = out

        self.net[1].register_forward_hook(keep)
        self.scale = nn.Parameter(torch.ones(1))
        self.feature = torch.ones(1, 16)

    def forward(self, x):
        return self.net(x) + self.net[2](self.feature)


def weak_reads():
    return Weak(reads=True)


class Hooked(Branches):
    """Its hook is a closure, which keeps a feature."""

    def __init__(self):
        super().__init__()

        def keep(module, args, out):
            self.feature = out

        self.net[1].register_forward_hook(keep)

    def forward(self, x):
        self.net[:2](x)
        return self.net[2](self.feature)


CONSTANT = 1
'''


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models.py and, in net.pt, a state dict of `mlp` trained for some steps on (x - 0.3) / 0.4."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "models.py").write_text(MODELS)
    (folder / "neighbour.py").write_text("WIDTH = 16\n")
    model, _ = load_model(f"{folder / 'models.py'}:mlp")
    train = load_data("digits", 200, folder).train
    x, y = (train.images(slice(None)) - 0.3) / 0.4, train.y
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    torch.save(model.state_dict(), folder / "net.pt")
    torch.save(model.state_dict(), folder / "mlp.pt")
    torch.save({f"net.{name}": values for name, values in model.state_dict().items()}, folder / "Chain.pt")
    return folder


@pytest.fixture
def the_compiler_is_reset() -> Iterator[None]:
    yield
    torch.compiler.reset()
