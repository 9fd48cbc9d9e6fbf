"""State that follows the labels of the batch is no leak; what is kept of an image's own label is one."""

from typing import Any

import pytest
import torch
from contract_support import Mutant
from torch import Tensor, nn

from marginbench.benchmarks.contract.check import run_check
from marginbench.methods import Batch, Context, Loss, Method, Net, Task, class_mask, cross_entropy


class Head(nn.Module):
    """Linear logits, to which `change` does what the labels of the last batch have led to."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.seen: dict[str, Tensor] = {}
        self.register_buffer("prior", torch.zeros(linear.out_features))
        self.register_buffer("centres", torch.zeros(linear.out_features, linear.in_features))

    def forward(self, phi: Tensor) -> Tensor:
        z: Tensor = self.linear(phi)
        return self.change(z, phi) if self.seen else z

    def change(self, z: Tensor, phi: Tensor) -> Tensor:
        raise NotImplementedError


class Follows(Mutant):
    """L = CE(z, y), with a head that is told the labels after the loss."""

    head: Any = Head

    def build(self, net: Net, task: Task) -> Net:
        net.head = self.head(net.head)
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        phi = net.features(batch.x)
        loss = cross_entropy(net.head(phi), batch)
        assert isinstance(net.head, Head)
        net.head.seen = {"y": batch.y, "phi": phi.detach()}
        return Loss(loss)


class Scale(Head):
    """All logits are stretched by what the labels give, and shifted."""

    def change(self, z: Tensor, phi: Tensor) -> Tensor:
        return z * (1 + self.seen["y"].double().std().to(z)) + self.seen["y"].sum() / 100


class Prior(Head):
    """Logits are adjusted by how frequent the classes were."""

    def change(self, z: Tensor, phi: Tensor) -> Tensor:
        return z + (1 + self.seen["y"].bincount(minlength=z.shape[1])).log()


class Centres(Head):
    """The classes' mean features attract: images of a class move together."""

    def change(self, z: Tensor, phi: Tensor) -> Tensor:
        own = class_mask(self.seen["y"], z.shape[1]).to(phi)
        centres = own.T @ self.seen["phi"] / own.sum(0)[:, None].clamp_min(1)
        return z - torch.cdist(phi, centres)


class Kept(Head):
    """The label of each place in the batch gains."""

    def change(self, z: Tensor, phi: Tensor) -> Tensor:
        return z + 0.01 * class_mask(self.seen["y"], z.shape[1])


class KeptBesideAScale(Scale):
    """The same, with a scale that follows the labels too."""

    def change(self, z: Tensor, phi: Tensor) -> Tensor:
        return super().change(z, phi) + 0.01 * class_mask(self.seen["y"], z.shape[1])


class Confident(Head):
    """Where the label was right the logits grow: the decision is the same, the confidence is not."""

    def change(self, z: Tensor, phi: Tensor) -> Tensor:
        return z * (1 + 0.1 * (z.argmax(1) == self.seen["y"])[:, None])


class Remembered(Head):
    """The label of the nearest image of the batch gains: it is found by content, not by place."""

    def change(self, z: Tensor, phi: Tensor) -> Tensor:
        nearest = torch.cdist(phi, self.seen["phi"]).argmin(1)
        return z + 0.01 * class_mask(self.seen["y"][nearest], z.shape[1])


@pytest.mark.parametrize("head", [Scale, Prior, Centres], ids=lambda head: head.__name__)
def test_state_that_follows_the_labels_is_accepted(head: type[Head]) -> None:
    result = run_check("forward_ignores_labels", told(head))
    assert result.status == "passed", result.reason


@pytest.mark.parametrize("head", [Kept, KeptBesideAScale, Confident, Remembered], ids=lambda head: head.__name__)
def test_a_label_that_reaches_its_own_image_is_refused(head: type[Head]) -> None:
    result = run_check("forward_ignores_labels", told(head))
    assert result.status == "failed"
    assert "another label of image" in result.reason and "raised" not in result.reason


def told(head: type[Head]) -> Method:
    return Follows(head=head)
