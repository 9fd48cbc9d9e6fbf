"""What the tests of the methods share: tiny float64 networks, batches, and the slow references."""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.nets.make import make_net
from marginbench.methods import (
    Batch,
    Context,
    Method,
    Net,
    Norm,
    Task,
    create,
)

Run = Callable[..., tuple[int, str, str]]  # the fixture `run`
Layers = Sequence[tuple[Tensor, Tensor]]  # (matrix, bias), a ReLU between them
Bounds = list[tuple[Tensor, Tensor]]  # below, above; one pair per layer
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
TASK = Task(input_shape=(1, 4, 4), class_counts=(6, 6, 6, 6), epsilon={"l2": 0.5, "linf": 0.1})


def a_query(net: nn.Module, x: Tensor, y: Tensor, norm: Norm, seed: int = 0, **more: Any) -> Query:
    """A query with what most estimators do not look at filled in; `seed` is that of its generator."""
    stream = torch.Generator(x.device).manual_seed(seed)
    usual: dict[str, Any] = {"epsilon": 0.1, "reference": x[:0], "generator": stream}
    return Query(net, x, y, norm, **usual | more)


def reference(key: str) -> ModuleType:
    path = Path(__file__).parent / "reference" / f"{key}.py"
    spec = importlib.util.spec_from_file_location(f"reference_{key}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def a_net(method: Method, name: str = "mlp", seed: int = 0, task: Task = TASK) -> Net:
    """A random network in float64 with logits of a few units, so that some examples are right."""
    stats = torch.full((task.input_shape[0],), 0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make_net(name, 6 if name == "mlp" else 2, task.input_shape, task.num_classes, stats, 0.6 * stats)
    net = net.double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    return method.build(net, task)


def head_weight(net: Net) -> Tensor:
    """[K, d] class weights."""
    weight = net.head.weight
    assert isinstance(weight, Tensor)
    return weight


def a_batch(net: Net, count: int = 12, right: float = 0.6, seed: int = 0) -> Batch:
    """Random images; a share `right` of the labels is what the network says."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *TASK.input_shape, generator=g, dtype=torch.float64)
    y = torch.randint(TASK.num_classes, (count,), generator=g)
    with torch.no_grad():
        y = torch.where(torch.rand(count, generator=g) < right, net(x).argmax(1), y)
    return Batch(x, y, torch.arange(count))


def a_context(epoch: int = 0, epochs: int = 5, seed: int = 0) -> Context:
    ctx = Context(TASK, steps=2 * epochs, epochs=epochs, generator=torch.Generator().manual_seed(seed))
    ctx.step = 2 * epoch
    return ctx


def stage(spec: str, epoch: int = 0, name: str = "mlp", seed: int = 0) -> tuple[Method, Net, Batch, Context]:
    method = create(spec)
    net = a_net(method, name, seed)
    return method, net, a_batch(net, seed=seed), a_context(epoch, seed=seed)


def gradients(loss: Tensor, net: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, materialize_grads=True))


def assert_same(found: Tensor, wanted: Tensor, net: nn.Module, **tolerance: float) -> None:
    """Equal in value and in the gradient of every weight."""
    close: dict[str, Any] = {**EXACT, **tolerance}
    torch.testing.assert_close(found, wanted, **close)
    pairs: Iterable[tuple[Tensor, Tensor]] = zip(gradients(found, net), gradients(wanted, net), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, **close)
