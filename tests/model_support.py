"""A small trained model, and what strangers make of one."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.machine.seeds import seeded


def mlp() -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    model.load_state_dict(weights())
    return model


@cache
def weights() -> dict[str, Tensor]:
    """Of some steps of training, so that there are margins to enclose."""
    train = load_data("digits", 200, Path()).train
    with seeded(torch.device("cpu"), "test"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        F.cross_entropy(model(train.images(slice(None))), train.y).backward()
        optimiser.step()
    return model.state_dict()


def called(model: nn.Module) -> nn.Module:
    """As after some training: what is computed from parameters has been computed, with gradients."""
    for _ in range(5):
        model.train()(images()).sum().backward()
    return model


def images() -> Tensor:
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Following(nn.Module):
    """Takes images of any type, and gives float32; inside it has the type of its weights."""

    def __init__(self, mask: float | None = None) -> None:
        super().__init__()
        self.layers, self.mask = mlp(), mask

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.layers(x.to(next(self.parameters()).dtype)).float()
        return z if self.mask is None else z.index_fill(1, torch.tensor([9]), self.mask)


def with_compiled_forward() -> nn.Module:
    model = mlp()
    model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    return model
