"""The Lipschitz certificate says what in a user's own module has no bound, in one line and in their words."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from module_support import Code, conv, head
from support import a_query
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.certificates.lipschitz import lipschitz
from marginbench.benchmarks.models.adapter import adapt


def _after(operation: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    """A class of one's own with the operation behind a convolution."""

    def forward(m: Any, x: Tensor) -> Tensor:
        features: Tensor = m.last(F.avg_pool2d(operation(m.inner, m.first(x)), 2).flatten(1))
        return features

    return Code(forward, first=conv(1, 4, padding=1), inner=conv(4, 4, padding=1), last=head(36))


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (lambda inner, x: x + F.relu(inner(x)), "known for branches that meet again, as residual sums"),
        (lambda inner, x: F.silu(x), "known for silu"),
        (lambda inner, x: F.max_pool2d(x, 3, 1, 1), "known for a maximum, as in max pooling"),
        (lambda inner, x: x * torch.sigmoid(inner(x)), "a product of two values that both depend on the image"),
    ],
    ids=["residual", "silu", "max pooling", "gate"],
)
def test_what_has_no_bound_is_named_in_one_line(operation: Callable[[Any, Tensor], Tensor], said: str) -> None:
    x = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    model = _after(operation).eval().requires_grad_(False)
    net = adapt(model, nn.Identity(), x)
    answer = lipschitz(a_query(net.decision_net(), x, net(x).argmax(1), "l2"))
    assert answer.lower is None and said in answer.reason and "\n" not in answer.reason


def test_a_layer_of_a_suite_is_named_by_what_it_prints() -> None:
    x = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    layers = nn.Sequential(conv(1, 2, padding=1), nn.Tanh()), nn.Flatten(), head(72)
    net = nn.Sequential(*layers).eval().requires_grad_(False)
    assert "for the layer Tanh()" in lipschitz(a_query(net, x, net(x).argmax(1), "l2")).reason
