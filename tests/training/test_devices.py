"""Training on another device than the CPU: `meta`, which only knows shapes, stands for a GPU.

What a method leaves on the host meets a tensor of the device somewhere, and a result that is looked at is not there.
"""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.training.run import Run
from marginbench.methods import Batch, Context, Loss, Method, Net, create, rows
from marginbench.methods.baselines.ce import CE
from marginbench.methods.context import Reads
from marginbench.methods.maths.bounds import sketch as _sketch

META = torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices, numbers of the host excepted."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor) and leaf.dim()]
        devices = {tensor.device.type for tensor in tensors}
        assert len(devices) < 2, f"{function} on {' and '.join(sorted(devices))}"
        return function(*args, **(options or {}))


class _Generator(torch.Generator):
    device = META  # type: ignore[assignment]


def step_on_meta(method: Method, network: str, at: int) -> set[str]:
    """Step `at` of 40, with everything that training moves to a device on `meta`.

    Returns:
        The devices of what it leaves: loss, weights, momenta, tables.
    """
    suite, data = small_suite(epochs=20), small_data()
    run = Run(method, suite.model_copy(update={"network": Network(name=network, width=4)}), data, 0)
    run.net, run._fill = run.net.to(META), run._fill.to(META)
    run.split = Split(data.train.x.to(META), data.train.y.to(META), 255)
    run.ctx.generator = _Generator()
    run.optimiser = torch.optim.SGD(method.param_groups(run.net), lr=0.1, momentum=0.9, foreach=False)
    run.ctx.step = at
    with OneDevice(), run.ctx.noting(Reads([])):
        loss = run._do(run._batch())
    momenta = [state["momentum_buffer"] for state in run.optimiser.state.values()]
    assert momenta, "no weight has been trained"
    left = [
        loss.total,
        *loss.parts.values(),
        *run.net.parameters(),
        *run.net.buffers(),
        *momenta,
        *run.ctx.tables.values(),
    ]
    return {tensor.device.type for tensor in left}


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not know `meta`, and is off in these recipes."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())


@pytest.mark.parametrize(("network", "at"), [("cnn", 0), ("cnn", 30), ("resnet20", 30)])
@pytest.mark.parametrize("row", rows())
def test_every_row_trains_on_its_device_alone(row: str, network: str, at: int) -> None:
    assert step_on_meta(create(row), network, at) == {"meta"}


@pytest.mark.parametrize("spec", ["convex_polytope", "convex_polytope(norm=l2)", "roll"])
def test_estimates_are_made_on_the_device_too(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sketch, "WIDE", 0)
    assert step_on_meta(create(spec), "cnn", 30) == {"meta"}


class LeftBehind(CE):
    """A table that no `.to` moves."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        return Loss(super().loss(net, batch, ctx).total + net(batch.x)[torch.arange(len(batch.y)), batch.y].mean())


class Looks(CE):
    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        loss = super().loss(net, batch, ctx)
        return loss if float(loss.total) > 0 else Loss(2 * loss.total)


@pytest.mark.parametrize("mutant", [LeftBehind, Looks])
def test_what_is_left_on_the_host_is_noticed(mutant: type[Method]) -> None:
    with pytest.raises((AssertionError, RuntimeError), match=r"cpu and meta|meta tensors"):
        step_on_meta(mutant(), "cnn", 0)
