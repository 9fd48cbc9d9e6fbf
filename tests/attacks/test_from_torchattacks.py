"""Attacks of torchattacks: as strong as the originals, without their faults."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_support import (
    EPSILON,
    Scaled,
    found,
    ignores_other_images,
    images,
    predicted,
    propose,
    propose_by,
    random_net,
)
from mutants import mutated
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.attacks._wrap import LIBRARY_NORM, Logits, isolated
from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.attacks.from_file import foreign
from marginbench.benchmarks.attacks.ray import Closest, is_adversarial, tighten
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.estimator import Query
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


def one_steep_class(rank: int) -> nn.Sequential:
    """A linear network of 5 classes. At grey, class r is r / 2 below class 0: `rank` at an L2 distance of rank / 2.

    All others are at 8 at least, and a step towards one of them leads away from that class.
    """
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5)).eval().requires_grad_(False)
    slope = torch.tensor([0.0 if r == 0 else 1 / 6 if r == rank else -0.01 for r in range(5)])
    net[1].get_parameter("weight").copy_(slope[:, None].expand(5, 36))
    net[1].get_parameter("bias").copy_(-torch.arange(5) / 2 - 18 * slope)
    return net


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_targeted_apgd_goes_on_to_the_next_target(norm: Norm, rank: int, restarts: int) -> None:
    """The nearest class is not the one with the largest logit."""
    net, x = one_steep_class(rank), images(26, 6, 0.1)
    y = predicted(net, x)
    assert not y.any()
    radius = 1.2 * rank / 2 / (6 if norm == "linf" else 1)
    honest = ATTACKS["apgd_t"]
    first_only = Attack("apgd_t", mutated(honest.function, "tries // restarts", "0 * tries"))
    for attack, targets, reached in ((honest, rank, rank), (honest, rank - 1, 0), (first_only, 4, 0)):
        point = propose_by(attack, net, x, y, norm, epsilon=radius, restarts=restarts, targets=targets)
        assert predicted(net, point).tolist() == [reached] * len(x)


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


def test_logits_of_two_classes_keep_how_far_apart_they_are() -> None:
    """Divided by their own size, they would be 1 and -1 for every image."""
    net, x = random_net(21, 2), images(21, 10, 1.0)
    model, raw = Logits(net, x.device), net(x)
    gaps = model(x).diff()
    torch.testing.assert_close(gaps / gaps.abs().max(), raw.diff() / raw.diff().abs().max())
    assert float(gaps.abs().max()) == pytest.approx(2)
    scaled = Logits(Scaled(net, 7.0, -3.0), x.device)
    for part in (x, x.flip(3)):  # of the second call the first decides the scale
        torch.testing.assert_close(scaled(part), model(part), rtol=1e-4, atol=1e-5)


def one_after_another(q: Query, steps: int, restarts: int, targets: int) -> Tensor:
    """The library's FAB, asked about one target and one start at a time."""
    import torchattacks

    with isolated(q.net, q.generator), torch.no_grad():
        closest, norm = Closest(q.x, q.norm), LIBRARY_NORM[q.norm]
        model = Logits(q.net, q.x.device, nowhere=True)
        library = torchattacks.FAB(model, norm=norm, eps=q.epsilon, steps=steps, multi_targeted=True)
        for rank in range(2, 2 + targets):
            library.target_class = rank
            for restart in range(restarts):
                point = library.attack_single_run_targeted(q.x, q.y, use_rand_start=restart > 0).clamp(0, 1)
                closest.offer(point, is_adversarial(q.net, point, q.y))
    return closest.point


@pytest.mark.parametrize("fitting", [None, 50])
@pytest.mark.parametrize("norm", NORMS)
def test_fab_follows_all_targets_at_once_to_the_same_points(norm: Norm, fitting: int | None) -> None:
    """Its random numbers are those of one run after the other where an image has a multiple of 16 pixels."""
    net = random_net(22)
    net = nn.Sequential(nn.Conv2d(1, 1, 3).requires_grad_(False), *net)  # to the 6x6 pixels of that network
    net[0].weight.data.fill_(1 / 9)
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(22))
    y = predicted(net, x)
    q = a_query(net, x, y, norm, seed=3, epsilon=EPSILON[norm], fitting=fitting)
    settings = {"steps": 12, "restarts": 3, "targets": 4}
    point = ATTACKS["fab_t"].propose(q, **settings)
    wanted = one_after_another(replace(q, generator=torch.Generator().manual_seed(3)), **settings)
    torch.testing.assert_close(point, wanted, rtol=0, atol=1e-5)
    assert is_adversarial(net, point, y).all()


@pytest.mark.parametrize("norm", NORMS)
def test_two_tries_of_apgd_are_those_of_the_library(norm: Norm) -> None:
    """Of more, all but the first are made at once, with other random numbers."""
    import torchattacks

    net, x = random_net(23), images(23, 40, 1.0)
    y = predicted(net, x)
    epsilon = float(found("deepfool", net, x, y, norm).median())
    q = a_query(net, x, y, norm, seed=3, epsilon=epsilon)
    point = ATTACKS["apgd"].propose(q, steps=12, restarts=2)
    with isolated(net, torch.Generator().manual_seed(3)) as seed:
        model = Logits(net, x.device, nowhere=True)
        library = torchattacks.APGD(
            model, norm=LIBRARY_NORM[norm], eps=epsilon, steps=12, n_restarts=2, seed=seed, loss="dlr"
        )
        wanted = library.forward(x, y)
    torch.testing.assert_close(point, wanted, rtol=0, atol=1e-5)
    share = float(is_adversarial(net, point, y).float().mean())
    assert 0.2 < share < 0.8 and (point[~is_adversarial(net, point, y)] == x[~is_adversarial(net, point, y)]).all()


class Sizes(nn.Module):
    """The network, and how many images it was asked about at once at most."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.most = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.most = max(self.most, len(x))
        logits: Tensor = self.net(x)
        return logits


@pytest.mark.parametrize("name", ["apgd", "apgd_ce", "apgd_t", "fab_t", "square", "fmn", "pdpgd", "alma", "pgd"])
def test_no_more_images_at_once_than_memory_holds(name: str) -> None:
    net, x = Sizes(random_net(24)), images(24, 10, 1.0)
    y = predicted(net, x)
    effort = {"steps": 2, "n_queries": 4, "restarts": 9, "targets": 4, "starts": 9, "kept": 9}
    settings = {key: value for key, value in effort.items() if key in ATTACKS[name].settings}
    reached = []
    for fitting in (None, 35):
        net.most = 0
        q = a_query(net, x, y, "linf", epsilon=0.002, reference=images(25, 30, 1.0), fitting=fitting)
        ATTACKS[name].propose(q, **settings)
        reached.append(net.most)
    assert reached[1] <= 35 < reached[0], reached
