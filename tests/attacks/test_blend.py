"""Blending with images of other classes."""

import pytest
import torch
from attack_support import found, images, predicted, propose, random_net
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import distance, is_adversarial, tighten
from marginbench.methods import NORMS, Norm


class Planted(nn.Module):
    """Class 0 everywhere but in a small ball around one image. Without gradients."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image

    def forward(self, x: Tensor) -> Tensor:
        inside = ((x - self.image).flatten(1).norm(dim=1) < 0.5).float()
        return torch.stack([1 - inside, inside, 0 * inside - 1, 0 * inside - 1], 1)


@pytest.mark.parametrize("norm", NORMS)
def test_blend_finds_a_planted_adversarial_example(norm: Norm) -> None:
    reference = images(9, 40, 1.0)
    net, x = Planted(reference[17]), images(5, 10, 0.2)
    y = predicted(net, x)
    assert (y == 0).all()
    assert (found("deepfool", net, x, y, norm) == torch.inf).all()
    point, reached = tighten(net, x, propose("blend", net, x, y, norm), y, norm)
    assert is_adversarial(net, point, y).all()
    assert (reached < distance(reference[17].double() - x.double(), norm)).all()


def test_blend_takes_the_nearest_image_of_another_class() -> None:
    net, x, reference = random_net(6), images(6, 20, 1.0), images(9, 40, 1.0)
    y, classes = predicted(net, x), predicted(net, reference)
    candidate = propose("blend", net, x, y, "linf")
    for image, label, chosen in zip(x, y, candidate, strict=True):
        others = reference[classes != label]
        assert torch.equal(chosen, others[(others - image).abs().flatten(1).amax(1).argmin()])
