"""What a network holds, and copies of all of it."""

import threading
from collections import deque
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from marginbench.methods import MarginbenchError
from marginbench.methods.held import duplicate, held, in_double


class Full(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("scale", torch.ones(2))
        self.known = {"a": [torch.zeros(2), torch.zeros(3)]}
        self.recent = deque([torch.zeros(1)], maxlen=2)
        self.state = SimpleNamespace(count=1)
        self.again, self.hidden = self.known["a"][0], [nn.Linear(2, 2, bias=False)]

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.layer(x)
        return self.last * self.again  # type: ignore[no-any-return]


def test_everything_has_a_name_and_can_be_set() -> None:
    net = Full()
    names = {"known['a'][0]", "known['a'][1]", "recent[0]", "state.count", "hidden[0].weight", "scale"}
    found = held(nn.Sequential(net))
    assert {f"0.{name}" for name in names} <= found.keys()
    assert "0.layer.weight" not in found, "a registered parameter"
    assert "again" not in held(net), "it has a name already"
    places = held(net)
    places["known['a'][0]"].put(torch.ones(2))
    assert torch.equal(net.again, torch.ones(2)), "the same memory"
    places["known['a'][1]"].put(torch.ones(5))
    places["state.count"].put(2)
    places["recent[0]"].remove()
    assert len(net.known["a"][1]) == 5 and net.state.count == 2 and not net.recent


def test_a_copy_shares_nothing_though_it_was_called_with_gradients() -> None:
    net = Full()
    net(torch.ones(1, 2))
    copy = duplicate(net)
    assert torch.equal(copy.last, net.last) and copy.last.is_leaf
    mine = {tensor.data_ptr() for tensor in _tensors(net)}
    assert len(mine) == 8 and not mine & {tensor.data_ptr() for tensor in _tensors(copy)}


def _tensors(net: nn.Module) -> list[Tensor]:
    return [place.value for place in held(net).values() if isinstance(place.value, Tensor)] + [*net.parameters()]


def test_a_copy_in_float64_has_constants_in_float64() -> None:
    precise = in_double(Full())
    assert {tensor.dtype for tensor in _tensors(precise)} == {torch.float64}
    assert precise(torch.ones(1, 2, dtype=torch.float64)).dtype == torch.float64


def test_what_cannot_be_copied_is_said() -> None:
    net = nn.ReLU()
    net.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(MarginbenchError, match=r"^cannot be copied \(TypeError.*\): keep locks, files"):
        duplicate(net)
