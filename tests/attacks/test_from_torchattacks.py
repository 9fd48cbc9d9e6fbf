"""Attacks of torchattacks: as strong as the originals, without their faults."""

from typing import Any

import pytest
import torch
from attack_support import Scaled, found, ignores_other_images, images, predicted, propose, propose_by, random_net
from torch import nn

from marginbench.benchmarks.attacks._wrap import Logits
from marginbench.benchmarks.attacks.from_file import foreign
from marginbench.benchmarks.attacks.ray import is_adversarial, tighten
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.methods import NORMS, Norm


def library_apgdt(model: nn.Module, norm: str, epsilon: float) -> Any:
    import torchattacks

    return torchattacks.APGDT(model, norm=norm, eps=epsilon, steps=30, n_classes=2)


def test_the_librarys_own_targeted_apgd_depends_on_the_first_image_in_l2() -> None:
    assert ignores_other_images(foreign(library_apgdt), "linf")
    assert not ignores_other_images(foreign(library_apgdt), "l2"), "repaired? then it could be used"


@pytest.mark.parametrize("norm", NORMS)
def test_targeted_apgd_finds_what_the_librarys_own_finds(norm: Norm) -> None:
    net, x = random_net(18, classes=10), images(18, 60, 1.0)
    y = predicted(net, x)
    radius = found("deepfool", net, x, y, norm).median()  # about half of the images can be broken

    def library(model: nn.Module, norm: str, epsilon: float) -> Any:
        import torchattacks

        return torchattacks.APGDT(model, norm=norm, eps=float(radius), steps=100, n_classes=10)

    theirs = tighten(net, x, propose_by(foreign(library), net, x, y, norm), y, norm)[1].isfinite()
    point = propose_by(ATTACKS["apgd_t"], net, x, y, norm, epsilon=float(radius), steps=100, targets=9)
    ours = tighten(net, x, point, y, norm)[1].isfinite()
    assert 0.3 < theirs.float().mean() < 0.7
    assert (ours == theirs).float().mean() > 0.98


def test_cross_entropy_of_the_original_depends_on_the_scale() -> None:
    net, x = random_net(19), images(19, 20, 1.0)
    y = predicted(net, x)
    large = Scaled(net, 1e4, 0.0)  # cross-entropy saturates
    for original in (False, True):
        points = [propose("apgd_ce", n, x, y, "linf", original=original, epsilon=0.05) for n in (net, large)]
        shares = [float(is_adversarial(net, point, y).float().mean()) for point in points]
        assert (shares[1] < shares[0] - 0.1) == original, shares


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_targeted_apgd_says_when_it_is_not_autoattack(classes: int, caplog: pytest.LogCaptureFixture) -> None:
    from marginbench.benchmarks.attacks import from_torchattacks

    from_torchattacks._not_autoattack.cache_clear()
    net, x = random_net(20, classes), images(20, 10, 1.0)
    propose("apgd_t", net, x, predicted(net, x), "l2")
    assert ("not AutoAttack" in caplog.text) == (classes < 4)


def test_logits_for_libraries_keep_the_order_and_the_modes() -> None:
    net, x = random_net(21), images(21, 10, 1.0)
    model = Logits(net, x.device)
    assert torch.equal(model(x).argsort(1), net(x).argsort(1))
    torch.testing.assert_close(Logits(Scaled(net, 7.0, -3.0), x.device)(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Logits(net, x.device, standardised=False)(x), net(x))
    model.train()
    assert not any(m.training for m in net.modules())
