"""Every method trains residual networks."""

from pathlib import Path

import pytest
import torch

from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.loop import train
from marginbench.methods import create, rows


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
        ("lmt(ramp_end=0)", "wrn_16_4_lmt"),
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
