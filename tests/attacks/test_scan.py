"""What is refused as an attack, and as its result."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_support import Constant, images
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.attacks.scan import ATTACKS, Attack, attack
from marginbench.benchmarks.estimator import Query
from marginbench.methods import MarginbenchError


def test_what_is_no_attack_is_refused() -> None:
    def positional(q: Query, steps: int = 3) -> Tensor:
        return q.x

    def without_default(q: Query, *, steps: int) -> Tensor:
        return q.x

    def nothing() -> None:
        return None

    def without_query(*, steps: int = 3) -> None:
        return None

    def several_queries(*q: Query) -> None:
        return None

    for function in (positional, without_default, nothing, without_query, several_queries):
        with pytest.raises(MarginbenchError, match=f"{function.__name__}: write \\(q: Query, \\*"):
            attack()(function)  # type: ignore[arg-type]
        assert function.__name__ not in ATTACKS


def test_points_of_another_shape_are_refused_by_name() -> None:
    x = images(1, 3, 1.0)
    q = a_query(Constant(3, graph=True), x, torch.zeros(3, dtype=torch.int64), "l2")
    for function, got in ((lambda q: q.x[:, 0], r"\(3, 6, 6\)"), (lambda q: None, "NoneType")):
        with pytest.raises(MarginbenchError, match=f"attack 'odd' returned {got}"):
            Attack("odd", function)(q)


def test_writing_into_the_images_is_refused_by_name() -> None:
    """Whatever is asked after it would be asked about other images."""
    x, y = images(1, 3, 1.0), torch.zeros(3, dtype=torch.int64)

    def darken(q: Query) -> Tensor:
        return q.x.mul_(0.5)

    with pytest.raises(MarginbenchError, match=r"^attack 'darken' writes into the images .*: work on q.x.clone\(\)$"):
        Attack("darken", darken)(a_query(Constant(3, graph=True), x, y, "l2"))


@pytest.mark.parametrize(("field", "words"), [("x", "images"), ("y", "labels"), ("upper", "distances")])
def test_writing_that_torch_does_not_see_is_refused(field: str, words: str) -> None:
    """NumPy shares the memory of a tensor, and `.data` the tensor."""
    x, y = images(1, 3, 1.0), torch.zeros(3, dtype=torch.int64)

    for write in (lambda tensor: tensor.numpy().fill(1), lambda tensor: tensor.data.fill_(1)):

        def meddle(q: Query, write: Callable[[Tensor], Any] = write) -> Tensor:
            write(getattr(q, field))
            return q.x

        q = replace(a_query(Constant(3, graph=True), x.clone(), y.clone(), "l2"), upper=torch.full((3,), 0.5))
        with pytest.raises(MarginbenchError, match=f"'meddle' writes into the {words} .*: work on q.{field}.clone"):
            Attack("meddle", meddle).propose(q)


class Normed(nn.Module):
    """Batch norm, and a count of the calls in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, 3), nn.Dropout())
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.layers(x)
        return logits


def test_other_running_statistics_are_refused_by_name() -> None:
    """A pass in train mode changes them; to go back to eval mode is not enough."""
    x, y = images(1, 3, 1.0), torch.zeros(3, dtype=torch.int64)

    def train(q: Query) -> Tensor:
        q.net.train()
        q.net(q.x)
        q.net.eval()
        return q.x

    with pytest.raises(MarginbenchError, match=r"^attack 'train' leaves the network with other buffers: "):
        Attack("train", train)(a_query(Normed().eval(), x, y, "l2"))
    counted = Normed().eval()
    assert Attack("ask", lambda q: q.x + 0 * q.net(q.x).sum())(a_query(counted, x, y, "l2")).upper is not None
    assert int(counted.calls) > 0


class Drifting(Normed):
    """Takes a mean of all images that it is given, a little at a time."""

    mean: Tensor

    def __init__(self, plain: bool) -> None:
        super().__init__()
        if plain:
            self.mean = torch.zeros(())
        else:
            self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean + 1e-5 * x.detach().mean()
        return super().forward(x - self.mean)


@pytest.mark.parametrize("plain", [True, False])
def test_an_attack_is_not_blamed_for_a_network_that_changes_itself(plain: bool) -> None:
    x, y = images(1, 3, 0.5), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(MarginbenchError, match=r"^the model changes itself when it is called \(net\.mean\): "):
        Attack("ask", lambda q: q.x + 0 * q.net(q.x).sum())(a_query(Drifting(plain).eval(), x, y, "l2"))

    def meddle(q: Query) -> Tensor:
        next(module for module in q.net.modules() if isinstance(module, Settable)).shift = torch.ones(3)
        return q.x

    class Settable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.layer = torch.zeros(3), nn.Linear(36, 3)

        def forward(self, x: Tensor) -> Tensor:
            z: Tensor = self.layer(x.flatten(1)) + self.shift
            return z

    with pytest.raises(MarginbenchError, match=r"^attack 'meddle' leaves the network with other attributes: "):
        Attack("meddle", meddle)(a_query(Settable().eval(), x, y, "l2"))


def test_eval_mode_may_be_asked_for_where_only_the_parts_are_in_it() -> None:
    """As of a network that was put together from parts: torch makes modules in train mode."""
    x, y = images(1, 3, 1.0), torch.zeros(3, dtype=torch.int64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Dropout().eval())
    assert Attack("calm", lambda q: q.net.eval() and q.x)(a_query(net, x, y, "l2")).upper is not None


@pytest.mark.parametrize("part", ["weights", "modes"])
def test_changing_the_network_is_refused_by_name(part: str) -> None:
    """Whatever is asked after it would be asked about another network."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Dropout()).eval()
    x, y = images(1, 3, 1.0), torch.zeros(3, dtype=torch.int64)

    def meddle(q: Query) -> Tensor:
        if part == "modes":
            q.net.train()
        else:
            next(q.net.parameters()).data.mul_(0)
        return q.x

    with pytest.raises(MarginbenchError, match=f"^attack 'meddle' leaves the network with other {part}: "):
        Attack("meddle", meddle)(a_query(net, x, y, "l2"))

    def tidy(q: Query) -> Tensor:
        q.net.train()
        q.net(q.x)
        q.net.eval()
        return q.x

    assert Attack("tidy", tidy)(a_query(net.eval(), x, y, "l2")).upper is not None


def test_points_in_float64_are_taken() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()
    with torch.no_grad():  # a bright image is of one class, and its negative of the other
        net[1].weight.copy_(torch.ones(2, 36) * torch.tensor([[1.0], [-1.0]]))
        net[1].bias.copy_(torch.tensor([-18.0, 18.0]))
    x = images(1, 3, 1.0)
    y = net(x).argmax(1)
    plain = Attack("negative", lambda q: 1 - q.x)(a_query(net, x, y, "l2")).upper
    double = Attack("negative", lambda q: 1 - q.x.double())(a_query(net, x, y, "l2")).upper
    assert plain is not None and bool(plain.isfinite().all())
    torch.testing.assert_close(double, plain, rtol=1e-5, atol=0)


def test_an_attack_may_put_the_network_into_eval_mode() -> None:
    """As libraries do; the scaled network of a doubt is a new module, which is in train mode."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    x = images(1, 3, 1.0)
    y = net(x).argmax(1)

    def settled(q: Query) -> Tensor:
        q.net.eval()
        return 1 - q.x

    assert net.training
    assert Attack("settled", settled)(a_query(net, x, y, "l2")).upper is not None
