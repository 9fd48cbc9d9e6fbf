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


class Closed(nn.Module):
    """Functions that close over it, over a part of it, and over each other."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale, kept = nn.Linear(2, 2), nn.Parameter(torch.ones(2)), {}
        self.kept, method, calls = kept, self.scaled, 0

        def keep(module: nn.Module, args: object, out: Tensor) -> None:
            nonlocal calls
            calls += 1
            self.feature = inner(method(out))

        def inner(x: Tensor, *, scale: Tensor = self.scale) -> Tensor:
            return x * scale if calls else inner(x)

        self.net.register_forward_hook(keep)
        self.net.register_forward_pre_hook(lambda _, args: kept.update(v=args[0]))
        self.tail = [lambda x, net=self.net: x + net.bias, lambda _: calls]

    def scaled(self, x: Tensor) -> Tensor:
        return x * self.scale

    def forward(self, x: Tensor) -> Tensor:
        self.net(x)
        return self.tail[0](self.feature) + self.kept["v"]  # type: ignore[no-any-return]


def test_functions_of_a_copy_belong_to_it() -> None:
    net, x = Closed(), torch.ones(1, 2)
    copy = duplicate(duplicate(net))
    assert not hasattr(net, "feature") and torch.equal(copy(x), net(x))
    assert (net.tail[1](x), copy.tail[1](x)) == (1, 1), "each counts its own calls"
    feature, wanted = net.feature, copy(x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(copy(x), wanted) and net.feature is feature
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert torch.equal(copy(x), x)
