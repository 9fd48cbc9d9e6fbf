"""Axes of classes are found wherever they are, and a batch may come in any order."""

from typing import Any

import pytest
import torch
from contract_support import Mutant
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax, normalize
from torch.nn.utils.parametrizations import orthogonal

from marginbench.benchmarks.contract.check import run_check
from marginbench.methods import Batch, Context, Loss, Method, Net, class_mask, cross_entropy, logit_margin


class RareClassesWeighMore(Mutant):
    """L = w_y CE(z, y), with w_y = n / (K n_y): honest, as the classes are renamed with their counts."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        counts = torch.tensor(ctx.task.class_counts, dtype=torch.float32)
        weight = counts.sum() / (len(counts) * counts)
        return Loss(nn.functional.cross_entropy(net(batch.x), batch.y, weight=weight))


class Centres(nn.Module):
    """z_k = 8 max_c cos(phi, w_kc), with w [3 K, d], class by class or not."""

    def __init__(self, features: int, classes: int, by_class: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * classes, features))
        self.by_class = by_class

    def forward(self, phi: Tensor) -> Tensor:
        cosine = linear(normalize(phi), normalize(self.weight))
        return 8 * (cosine.unflatten(1, (-1, 3)).amax(2) if self.by_class else cosine.unflatten(1, (3, -1)).amax(1))


class CentresByClass(Mutant):
    """L = CE(z, y), with three centres of each class side by side."""

    def build(self, net: Net, task: Any) -> Net:
        assert isinstance(net.head, nn.Linear)
        net.head = Centres(net.head.in_features, task.num_classes, by_class=True)
        return net


class CentresByTurns(Mutant):
    """L = CE(z, y), with the first centres of all classes before the second ones."""

    def build(self, net: Net, task: Any) -> Net:
        assert isinstance(net.head, nn.Linear)
        net.head = Centres(net.head.in_features, task.num_classes, by_class=False)
        return net


class Columns(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(features, classes))

    def forward(self, phi: Tensor) -> Tensor:
        return 8 * normalize(phi) @ normalize(self.kernel, dim=0)


class ClassesInColumns(Mutant):
    """L = CE(z, y), with weights [d, K]."""

    def build(self, net: Net, task: Any) -> Net:
        assert isinstance(net.head, nn.Linear)
        net.head = Columns(net.head.in_features, task.num_classes)
        return net


class OnlineSmoothing(Mutant):
    """L = CE(z, y) + CE(z, s_y), with the rows s_y [K, K] following the predictions for each class."""

    def build(self, net: Net, task: Any) -> Net:
        net.register_buffer("soft", torch.full((task.num_classes, task.num_classes), 1 / task.num_classes))
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        z, soft = net(batch.x), net.get_buffer("soft")
        loss = cross_entropy(z, batch) - (soft[batch.y] * log_softmax(z, 1)).sum(1).mean()
        with torch.no_grad():
            of = class_mask(batch.y, z.shape[1]).float()
            soft.lerp_((of.T @ z.softmax(1)) / of.sum(0).clamp_min(1)[:, None], 0.1)
        return Loss(loss)


class Orthogonal(Mutant):
    """L = CE(z, y), with orthonormal rows in the last layer."""

    def build(self, net: Net, task: Any) -> Net:
        orthogonal(net.head)
        return net


class Mixture(nn.Module):
    def __init__(self, features: int, classes: int, count: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(features, classes) for _ in range(count))
        self.mix = nn.Parameter(torch.linspace(-1, 1, count))

    def forward(self, phi: Tensor) -> Tensor:
        return torch.stack([head(phi) for head in self.heads], 2) @ self.mix.softmax(0)


class FiveHeads(Mutant):
    """L = CE(z, y), z the mean of five heads, as many as there are classes, with learnt weights."""

    def build(self, net: Net, task: Any) -> Net:
        assert isinstance(net.head, nn.Linear)
        net.head = Mixture(net.head.in_features, task.num_classes, 5)
        return net


class HeadOfEachClass(Mutant):
    """L = CE(z, y), with a mixture of as many heads as there are classes: which is of which is not to be known."""

    def build(self, net: Net, task: Any) -> Net:
        assert isinstance(net.head, nn.Linear)
        net.head = Mixture(net.head.in_features, task.num_classes, task.num_classes)
        return net


SOUND = (RareClassesWeighMore, CentresByClass, CentresByTurns, ClassesInColumns, OnlineSmoothing, Orthogonal, FiveHeads)


@pytest.mark.parametrize("method", SOUND, ids=lambda method: method.__name__)
def test_what_treats_classes_alike_passes_wherever_their_axes_are(method: type[Method]) -> None:
    result = run_check("relabelling_invariant", method())
    assert result.status == "passed", result.reason


class FavouredColumn(ClassesInColumns):
    """L = CE(z, y) + z_0, with weights [d, K]."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        z = net(batch.x)
        return Loss(cross_entropy(z, batch) + 0.1 * z[:, 0].mean())


class FavouredCentre(CentresByClass):
    """L = w_y CE(z, y), w_y by the index of the class, with three centres of each."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        weight = torch.arange(1.0, ctx.task.num_classes + 1)
        return Loss(nn.functional.cross_entropy(net(batch.x), batch.y, weight=weight))


class FavouredRow(Orthogonal):
    """L = CE(z, y) + z_0, with orthonormal rows in the last layer."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        z = net(batch.x)
        return Loss(cross_entropy(z, batch) + 0.1 * z[:, 0].mean())


@pytest.mark.parametrize("method", [FavouredColumn, FavouredCentre, FavouredRow], ids=lambda method: method.__name__)
def test_a_class_that_is_favoured_is_found_wherever_the_axes_are(method: type[Method]) -> None:
    result = run_check("relabelling_invariant", method())
    assert result.status == "failed" and "the loss changes by" in result.reason


def test_what_cannot_be_renamed_is_said_to_be_so() -> None:
    result = run_check("relabelling_invariant", HeadOfEachClass())
    assert result.status == "skipped" and "net.head.heads.5.bias belongs to which class is not known" in result.reason


class PairsAtRandom(Mutant):
    """L = mean margin loss of each image with the label of another one, drawn at random."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        z, other = net(batch.x), torch.randperm(len(batch.y), generator=ctx.generator)
        return Loss(cross_entropy(z, batch) - 0.1 * logit_margin(z, batch.y[other]).mean())


def test_the_order_of_images_is_no_question_where_numbers_are_drawn() -> None:
    result = run_check("batch_order", PairsAtRandom())
    assert result.status == "skipped" and "draws random numbers" in result.reason
