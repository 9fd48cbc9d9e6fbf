"""The checks that neither the names of the classes nor the order of a batch matter."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from marginbench.benchmarks.contract.fixtures import (
    CLASSES,
    CheckFailedError,
    NotTestedError,
    Stage,
    loss_of,
    require,
    small_data,
    stage,
)
from marginbench.benchmarks.machine import seeds
from marginbench.methods import Batch, Method

MORE = 7  # classes of a second network, in which the axes of classes are longer
PERMUTATION = torch.tensor([2, 0, 4, 1, 3])
INVERSE = PERMUTATION.argsort()
DRAWS = 64
WHAT = ("the loss changes by", "a step changes the loss by another amount, the difference is")


def relabelling_invariant(method: Method) -> None:
    """Renaming the classes, with what the network has of each, leaves the loss as it is, and what a step does to it.

    The axes of classes are those that are longer where there are more classes. One with several numbers for each class
    may have them class by class or not. Where parametrised weights cannot be renamed, their values are.
    """
    given, larger = stage(method), stage(method, steps=1, data=small_data(MORE)).net
    axes, unclear = _class_axes(given.net, larger)
    problems = []
    for by_class in (True, False) if any(axis.each > 1 for axis in axes) else (True,):
        problems.append(_renaming_changes(given, axes, by_class))
        if not problems[-1]:
            return
    if _take_values(given.net) and _take_values(larger):
        axes, _ = _class_axes(given.net, larger)
        if not _renaming_changes(given, axes, by_class=True):
            return
    if unclear:
        raise NotTestedError(f"which part of net.{unclear[0]} belongs to which class is not known, so none is renamed")
    raise CheckFailedError(f"{problems[0]} when classes are renamed")


def batch_order(method: Method) -> None:
    """The order of the images in a batch, each with its label, is nothing to the loss or to what a step does to it."""
    s = stage(method, steps=20)  # logits tell images apart
    found = _draws(s, [0])
    if not all(torch.equal(found, _draws(s, [seed])) for seed in range(1, 8)):
        raise NotTestedError("the loss draws random numbers, which go to other images in another order")
    order = torch.randperm(len(s.batch.y), generator=seeds.generator("cpu", "contract", "order"))
    shuffled = replace(s, batch=Batch(s.batch.x[order], s.batch.y[order], s.batch.index[order]))
    changes = _changes(found, _draws(shuffled, [0]))
    require(not changes, f"{changes} when the batch is in another order: does each image meet its own label?")


class _Axis(NamedTuple):
    tensor: str
    axis: int
    each: int  # numbers for each class


def _class_axes(net: nn.Module, larger: nn.Module) -> tuple[list[_Axis], list[str]]:
    """The axes of classes, and the tensors with other axes or names where there are MORE classes."""
    tensors, others = _tensors(net), _tensors(larger)
    axes, unclear = [], sorted(tensors.keys() ^ others.keys())
    for name in sorted(tensors.keys() & others.keys()):
        sizes, more = tensors[name].shape, others[name].shape
        for axis, (size, longer) in enumerate(zip(sizes, more, strict=False)):
            if size * MORE == longer * CLASSES and size:
                axes.append(_Axis(name, axis, size // CLASSES))
            elif size != longer:
                unclear.append(name)
        if len(sizes) != len(more):
            unclear.append(name)
    return axes, unclear


def _renaming_changes(s: Stage, axes: list[_Axis], by_class: bool) -> str:
    """What renaming changes, in words; nothing, if it does not.

    Args:
        by_class: the numbers of a class stand side by side, as in [K * 3, d] seen as [K, 3, d], and not [3, K, d].
    """
    net, ctx = copy.deepcopy(s.net), copy.copy(s.ctx)
    tensors = _tensors(net)
    with torch.no_grad():
        for name, axis, each in axes:
            places = torch.arange(CLASSES * each)
            places = places.view(CLASSES, each)[INVERSE] if by_class else places.view(each, CLASSES)[:, INVERSE]
            tensors[name].copy_(tensors[name].index_select(axis, places.flatten()))
    ctx.task = replace(ctx.task, class_counts=tuple(ctx.task.class_counts[i] for i in INVERSE.tolist()))
    renamed = Stage(s.method, net, replace(s.batch, y=PERMUTATION[s.batch.y]), ctx)
    if not _changes(_draws(s, [0]), _draws(renamed, [0])):
        return ""
    return _changes(_draws(s, range(DRAWS)), _draws(renamed, range(DRAWS)))  # randomness over classes: compare means


def _take_values(net: nn.Module) -> bool:
    """Replace parametrised weights by their values; whether there were any."""
    layers = [layer for layer in net.modules() if parametrize.is_parametrized(layer)]
    for layer in layers:
        for name in list(layer.parametrizations):  # type: ignore[arg-type]
            parametrize.remove_parametrizations(layer, name)
    return bool(layers)


def _changes(a: Tensor, b: Tensor) -> str:
    """Which of two columns of draws [N, 2] differ beyond rounding and, of several, in the mean too: in words."""
    gap = (a - b).mean(0).abs()
    right = ((a - b).abs() <= 1e-5 + torch.tensor([1e-4, 1e-2]) * b.abs()).all(0)  # in float32, and of a difference
    if len(a) > 1:
        right |= gap < 5 * (a - b).std(0) / len(a) ** 0.5 + 1e-5
    return next((f"{what} {gap[at]:.2g}" for at, what in enumerate(WHAT) if not right[at]), "")


def _draws(s: Stage, numbers: Iterable[int]) -> Tensor:
    """[N, 2] float64: the loss, and how a step as the method makes it changes that, for N seeds. s stays as it is."""
    values = []
    for seed in numbers:
        ctx = copy.copy(s.ctx)
        ctx.tables = copy.deepcopy(s.ctx.tables)
        ctx.generator.manual_seed(seed)
        with seeds.seeded(ctx.device, "contract", "draws", seed):
            values.append(_loss_and_step(Stage(s.method, copy.deepcopy(s.net), s.batch, ctx)))
    return torch.stack(values).double()


def _loss_and_step(s: Stage) -> Tensor:
    before = loss_of(s).total.detach()
    optimiser = torch.optim.SGD(s.method.param_groups(s.net), lr=0.1)
    s.method.update(s.net, s.method.augment(s.batch, s.ctx), s.ctx, optimiser)
    with torch.no_grad():
        s.method.after_step(s.net, s.ctx)
    return torch.stack([before, loss_of(s).total.detach() - before])


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for named in (net.named_parameters, net.named_buffers) for name, tensor in named()}


CHECKS: tuple[Callable[[Method], str | None], ...] = (relabelling_invariant, batch_order)
