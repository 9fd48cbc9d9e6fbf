"""Limits that no image of the box reaches are left out; all others stay."""

from collections.abc import Callable

import pytest
import torch
from module_support import SHAPE, Code, body
from support import a_query
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.certificates import _box
from marginbench.benchmarks.certificates._layers import Curved, Simple
from marginbench.benchmarks.certificates._record import Unbounded
from marginbench.benchmarks.certificates._simplify import simplified
from marginbench.benchmarks.certificates.scan import CERTIFICATES
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.methods import NORMS

Limit = Callable[[Tensor], Tensor]


def normalised(x: Tensor) -> Tensor:
    return (x - 0.4914) / 0.2023


USELESS: dict[str, Limit] = {
    "clamp": lambda x: x.clamp(0, 1),
    "in place": lambda x: x.clone().clamp_(0, 1),
    "clip": lambda x: torch.clip(x, min=-0.5, max=1),
    "hardtanh": lambda x: F.hardtanh(x, 0, 1),
    "two halves": lambda x: x.clamp_min(0).clamp_max(1),
    "relu and minimum": lambda x: torch.minimum(F.relu(x), torch.ones(())),
    "maximum": lambda x: torch.maximum(torch.zeros_like(x), x),
    "relu6": F.relu6,
    "abs": torch.abs,
    "leaky relu": F.leaky_relu,
    "twice": lambda x: x.clamp(0, 1).clamp(0, 1),
    "bytes": lambda x: (255 * x).clamp(0, 255) / 255,
    "from above": lambda x: 1 - (1 - x).relu(),
    "computed limits": lambda x: normalised(x).clamp(normalised(torch.zeros(())), normalised(torch.ones(()))),
    "flat": lambda x: x.flatten(1).clamp(0, 1).view(x.shape),
    "mean image": lambda x: (x - torch.linspace(0, 1, 36).view(SHAPE)).clamp(-1, 1),
}
USEFUL: dict[str, Limit] = {
    "a little inside": lambda x: x.clamp(1e-5, 1),
    "white alone": lambda x: x.clamp(max=1 - 1e-5),
    "centred": lambda x: (2 * x - 1).clamp(0, 1),
    "relu of centred": lambda x: F.relu(x - 0.5),
    "inverted": lambda x: (-x).clamp(0, 1),
    "mean image": lambda x: (x - torch.linspace(0, 1, 36).view(SHAPE)).clamp(-0.99, 1),
}


def images() -> Tensor:
    x = 2 * torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(3)) - 0.5
    return x.clamp(0, 1)


def behind(limit: Limit) -> nn.Module:
    with seeded(torch.device("cpu"), "box"):
        return Code(lambda m, x: m.net(limit(x)), net=body(nn.ReLU())).eval().requires_grad_(False)


def limits(net: Simple) -> int:
    """Functions before the layers of the body, which have two of their own."""
    return sum(isinstance(layer, nn.ReLU | Curved) for layer in net.modules()) - 2


@pytest.mark.parametrize("name", USELESS)
def test_limits_that_nothing_reaches_are_left_out(name: str) -> None:
    assert limits(simplified(behind(USELESS[name]), images())) == 0


@pytest.mark.parametrize("name", USEFUL)
def test_limits_that_something_reaches_stay(name: str) -> None:
    assert limits(simplified(behind(USEFUL[name]), images())) > 0


@pytest.mark.parametrize("certificate", ["crown", "ibp", "lipschitz", "milp"])
def test_radii_are_those_without_the_limit(certificate: str) -> None:
    slow = certificate == "milp"
    x, settings = images()[: 2 if slow else None], {"time_limit": 600.0} if slow else {}  # whatever else is running
    for norm in NORMS:
        found = []
        for limit in (lambda x: x, USELESS["clamp"], USELESS["bytes"]):
            net = behind(limit)
            q = a_query(nn.Sequential(*simplified(net, x)), x, net(x).argmax(1), norm)
            found.append(CERTIFICATES[certificate](q, **settings).lower)
        if slow and norm == "l2":
            assert found == [None] * 3
            continue
        plain, *limited = (radius for radius in found if radius is not None)
        assert len(limited) == 2 and (plain > 0).any()
        assert all(torch.allclose(radius, plain, rtol=1e-4, atol=1e-6) for radius in limited)


def test_a_limit_left_out_wrongly_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: whatever is limited, the limits are taken for useless. The comparison of values refuses it."""
    monkeypatch.setitem(_box.LIMITS, "clamp", lambda call: (None, None))
    with pytest.raises(Unbounded, match="clamp has no sound bound here as it is used"):
        simplified(behind(USEFUL["centred"]), images())
