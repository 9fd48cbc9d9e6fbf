"""Bounds take as many images at once as fit into memory, however the network was written, and say when none does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Start
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.certificates import _bounds, _memory, crown
from marginbench.benchmarks.certificates._compat import load_auto_lirpa
from marginbench.benchmarks.certificates._memory import Footprint
from marginbench.benchmarks.machine import memory
from marginbench.benchmarks.machine.allocations import Allocations
from marginbench.benchmarks.models.adapter import adapt

PIXELS = 16


def layers(width: int = 16) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = nn.Conv2d(1, width, 5, padding=2), nn.Conv2d(width, 32, 5, padding=2)
        dense, last = nn.Linear(32 * 16, 100), nn.Linear(100, 10)
    shrink = nn.MaxPool2d(2)
    net = nn.Sequential(first, nn.ReLU(), shrink, second, nn.ReLU(), shrink, nn.Flatten(), dense, nn.ReLU(), last)
    return net.eval().requires_grad_(False)


class Own(nn.Module):
    """The same network as a class with a forward of its own."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.one, self.two, self.three, self.four = net[0], net[3], net[7], net[9]
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.one(x)))
        x = self.pool(torch.relu(self.two(x)))
        out: Tensor = self.four(torch.relu(self.three(x.view(x.size(0), -1))))
        return out


def images(count: int) -> Tensor:
    return torch.rand(count, 1, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))


def bounds(net: nn.Module, x: Tensor, **settings: Any) -> _bounds.Bounds:
    with torch.no_grad():
        q = a_query(net, x, net(x).argmax(1), "linf")
    return _bounds.Bounds(load_auto_lirpa(), q, _bounds.Search("CROWN", **settings))


def available(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(_memory, "available", lambda device: int(size))


def test_the_same_network_gets_the_same_chunk_as_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    x, net = images(3), layers(8)
    as_class = adapt(Own(net).eval(), nn.Identity(), x).decision_net()
    sizes = [bounds(one, x).footprint.image for one in (net, as_class)]
    widest = 4 * (8 * 16 * 16) ** 2  # from the windows of the first pooling back to the convolution
    assert sizes == [widest, widest]
    assert [bounds(one, x).chunks.size for one in (net, as_class)] == [16, 16]
    available(monkeypatch, 2.5 * widest)
    assert bounds(net, x).chunks.size == 1


def test_small_networks_keep_the_usual_chunk() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS**2, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    assert bounds(net, images(3)).chunks.size == 128


def test_many_classes_count() -> None:
    """The specification of 400 images with 1,000 classes alone is 1.6 GB, and is made for the images of a chunk."""
    net = (
        nn.Sequential(nn.Flatten(), nn.Linear(PIXELS**2, 32), nn.ReLU(), nn.Linear(32, 1000))
        .eval()
        .requires_grad_(False)
    )
    x = images(40)
    with torch.no_grad():
        q = a_query(net, x, net(x).argmax(1), "linf")
    with Allocations() as made:
        of = bounds(net, x)
    assert of.chunks.size == 16 and made.peak < 100e6
    with_classes = crown.crown(q, rounds=1).lower
    assert with_classes is not None and (with_classes >= 0).all()


@pytest.mark.parametrize("certificate", [crown.crown, crown.alpha_crown])
def test_one_image_that_does_not_fit_has_no_certificate_and_says_why(
    monkeypatch: pytest.MonkeyPatch, certificate: Any
) -> None:
    x, net = images(3), layers()
    available(monkeypatch, 3e6)
    found = certificate(a_query(net, x, net(x).argmax(1), "linf"))
    assert found.lower is None
    assert found.reason.startswith("needs at least 0.0")
    assert found.reason.endswith(" for one image; 0.003 GB are available (--memory)")


def test_real_memory_that_runs_out_for_one_image_is_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: _bounds.Bounds, *_: Any) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(_bounds.Bounds, "_margin", fail)
    monkeypatch.setattr(memory, "available", lambda device: 5 * 10**9)
    x, net = images(2), layers()
    assert crown.crown(a_query(net, x, net(x).argmax(1), "linf")).reason == (
        "needs more than the 5 GB that are available for one image (--memory)"
    )


def test_fewer_images_at_once_give_similar_radii(monkeypatch: pytest.MonkeyPatch) -> None:
    x, net = images(6), layers()
    q = a_query(net, x, net(x).argmax(1), "linf")
    whole = crown.certified_radius(q, _bounds.Search("CROWN", rounds=4, chunk=6))
    needed = _needed(net, x)
    sizes: list[int] = []
    margin = _bounds.Bounds._margin

    def counted(self: _bounds.Bounds, epsilon: Tensor, index: Tensor, method: _bounds.Bound) -> Tensor:
        found = margin(self, epsilon, index, method)
        if method == "CROWN":  # others take less
            sizes.append(len(index))
        return found

    monkeypatch.setattr(_bounds.Bounds, "_margin", counted)
    available(monkeypatch, 0.5 * needed)
    parts = crown.certified_radius(q, _bounds.Search("CROWN", rounds=4, chunk=6))
    assert isinstance(whole, Tensor) and isinstance(parts, Tensor) and max(sizes) in (1, 2, 3)
    assert (parts > 0).all() and ((parts / whole - 1).abs() < 0.5).float().mean() > 0.6  # bounds depend on the batch


def _needed(net: nn.Module, x: Tensor) -> int:
    """Bytes of a pass with all images."""
    of = bounds(net, x, chunk=len(x))
    with pytest.MonkeyPatch.context() as patch:
        made = Allocations()
        patch.setattr(Footprint, "guard", lambda *_: made)
        of.margin(torch.full((len(x),), 1e-3), torch.arange(len(x)), "CROWN")
    return made.peak


CROWDED = """
import resource, sys
from contextlib import nullcontext
sys.path[:0] = sys.argv[2:]
import torch
from test_memory import images, layers
from support import a_query
from marginbench.benchmarks.certificates import _bounds, crown
from marginbench.benchmarks.certificates._memory import Footprint
from marginbench.benchmarks.machine import memory
from marginbench.benchmarks.machine.budget import _status

torch.set_num_threads(1)
net, x = layers(), images(12)
q = a_query(net, x, net(x).argmax(1), "linf", at=torch.full((12,), 0.1))
crown.ibp(q.rows(slice(2)), rounds=1)  # imports and tracing
if sys.argv[1] == "careless":
    Footprint.guard = lambda *_: nullcontext()
raised = []
found_out = memory.out_of_memory
memory.out_of_memory = lambda error: (raised.append(type(error).__name__), found_out(error))[1]
room = 2**30
resource.setrlimit(resource.RLIMIT_AS, (_status()["VmSize"] + room, resource.RLIM_INFINITY))
found = crown.certified_radius(q, _bounds.Search("CROWN", rounds=1, chunk=12))
print(sorted(set(raised)), isinstance(found, torch.Tensor), getattr(found, "reason", ""))
"""


@pytest.mark.parametrize(("way", "said"), [("careful", "['OverBudgetError'] True"), ("careless", "'RuntimeError'")])
def test_a_limit_on_the_address_space_is_never_hit(start: Start, way: str, said: str) -> None:
    """The careless twin hits it: where the kernel overcommits, as usual, it would have been killed."""
    program = start(CROWDED, way, Path(__file__).parent, Path(__file__).parents[1])
    assert program.wait() == 0, program.err
    assert said in program.out
