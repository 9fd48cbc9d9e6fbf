"""Attacks of torchattacks: APGD at a given epsilon, FAB. Defects of the library are kept out, see each."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from marginbench.benchmarks.attacks._linear import classes_in_play, top_rivals
from marginbench.benchmarks.attacks._together import copies_at_once, first_that_fools
from marginbench.benchmarks.attacks._wrap import LIBRARY_NORM, Logits, isolated
from marginbench.benchmarks.attacks.attack import attack
from marginbench.benchmarks.attacks.ray import Closest, inside_box, is_adversarial
from marginbench.benchmarks.estimator import Query

DLR_CLASSES = 4  # that the difference-of-logits-ratio loss needs


@attack()
def apgd(q: Query, *, steps: PositiveInt = 30, restarts: PositiveInt = 1) -> Tensor:
    """torchattacks' Auto-PGD on the DLR loss at one epsilon (Croce and Hein, ICML 2020, arXiv 2003.01690).

    DLR = -(z_y - max_{j != y} z_j) / (z_pi1 - z_pi3) needs 4 classes. NOTE: with 2 or 3 classes the loss is
    the cross-entropy of the logits centred and divided by their largest absolute value, see `Logits`; like DLR
    it depends on neither shift nor scale of the logits, but it is another loss.

    Args:
        steps: backward passes per start, plus one.
        restarts: random starts.

    Returns:
        [B, C, H, W] float32: an adversarial point in the ball, x itself where none was found.
    """
    loss = "dlr" if classes_in_play(q.net, q.x) >= DLR_CLASSES else "ce"
    return _apgd(q, Logits(q.net, q.x.device, nowhere=True), steps, restarts, loss)


@attack()
def apgd_ce(q: Query, *, steps: PositiveInt = 30, restarts: PositiveInt = 1, original: bool = False) -> Tensor:
    """torchattacks' Auto-PGD on cross-entropy at one epsilon (Croce and Hein, ICML 2020, arXiv 2003.01690).

    Cross-entropy saturates: on logits that lie far apart its gradient underflows. It is therefore taken of the
    logits centred and divided by their largest absolute value, see `Logits`. `original` takes it of the logits as they
    are, as AutoAttack does; the result then depends on their scale.

    Args:
        steps: backward passes per start, plus one.
        restarts: random starts.
        original: cross-entropy of the logits as they are.

    Returns:
        [B, C, H, W] float32: an adversarial point in the ball, x itself where none was found.
    """
    model = Logits(q.net, q.x.device, standardised=not original, nowhere=True)
    return _apgd(q, model, steps, restarts, "ce")


@attack()
def apgd_t(q: Query, *, steps: PositiveInt = 30, restarts: PositiveInt = 1, targets: PositiveInt = 3) -> Tensor:
    """torchattacks' Auto-PGD on the targeted DLR loss at one epsilon (Croce and Hein, ICML 2020, arXiv 2003.01690).

    For each of the classes t with the largest logits other than y, until an attack succeeds, it maximises

        -(z_y - z_t) / (z_pi1 - (z_pi3 + z_pi4) / 2)

    which depends on neither scale nor shift of the logits. It needs 4 classes. NOTE: with 2 or 3 classes the
    loss is z_t - z_y, of logits centred and divided by their largest absolute value; that is not AutoAttack, and a
    line in the log says so.

    The library's own targeted version is not used: in L2 it steps every image by the step size of the first one
    (`step_size[0]`). This runs the steps of its APGD with the targeted loss.

    Args:
        steps: backward passes per start and target, plus one.
        restarts: random starts per target.
        targets: classes; AutoAttack has 9.

    Returns:
        [B, C, H, W] float32: an adversarial point in the ball, x itself where none was found.
    """
    net, x, y = q.net, q.x, q.y
    with isolated(net, q.generator), torch.no_grad():
        import torchattacks

        model, count = Logits(net, x.device, nowhere=True), classes_in_play(net, x)
        rivals = top_rivals(model, x, y, max(0, min(targets, count - 1)))
        enough = count >= DLR_CLASSES
        if not enough:
            _not_autoattack()
        library = torchattacks.APGD(model, norm=LIBRARY_NORM[q.norm], eps=q.epsilon, steps=steps, loss="dlr")

        def follow(rows: Tensor, tries: Tensor) -> None:
            library.dlr_loss = _TargetedLoss(rivals[rows, tries // restarts], ratio=enough)

        return _until_fooled(library, q, rivals.shape[1] * restarts, follow)


class _TargetedLoss:
    """z_t - z_y for targets t [B], with `ratio` divided by z_pi1 - (z_pi3 + z_pi4) / 2."""

    def __init__(self, target: Tensor, ratio: bool) -> None:
        self.target, self.ratio = target, ratio

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        gap = logits.gather(1, self.target[:, None]) - logits.gather(1, y[:, None])
        if self.ratio:
            largest = logits.topk(DLR_CLASSES, dim=1).values
            gap = gap / (largest[:, :1] - (largest[:, 2:3] + largest[:, 3:4]) / 2 + 1e-12)
        return gap[:, 0]


@cache
def _not_autoattack() -> None:
    logging.getLogger(__name__).warning(
        "apgd_t: fewer than %d classes: logit differences take the place of targeted DLR: this is not AutoAttack",
        DLR_CLASSES,
    )


@attack(minimum_norm=True)
def fab_t(q: Query, *, steps: PositiveInt = 20, restarts: PositiveInt = 1, targets: PositiveInt = 3) -> Tensor:
    """torchattacks' targeted FAB, a minimum-norm attack (Croce and Hein, ICML 2020, arXiv 1907.02044).

    For each of the classes t with the largest logits other than y, it steps to the hyperplane on which z_t and
    z_y, linearised, are equal, exactly within [0, 1], with a pull towards x. AutoAttack's version stops at the
    first target that gives a point within epsilon; this one goes on, and returns the closest point of all targets: the
    verdict at epsilon is the same. The scale of the logits has no effect.

    Args:
        steps: forward and backward passes per start and target.
        restarts: starts, the first of them x itself, the others drawn within epsilon / 2.
        targets: classes; AutoAttack has 9.

    Returns:
        [B, C, H, W] float32: the closest adversarial point seen, x itself where there is none.
    """
    net, x, y = q.net, q.x, q.y
    with isolated(net, q.generator), torch.no_grad():
        import torchattacks

        model, closest = Logits(net, x.device, nowhere=True), Closest(x, q.norm)
        # The norm by name: its default is Linf. Ranks from the top of all logits, so that 2 is the first rival.
        library = torchattacks.FAB(model, norm=LIBRARY_NORM[q.norm], eps=q.epsilon, steps=steps)
        order = model(x).argsort(1, descending=True)
        ranks = min(targets, classes_in_play(net, x) - 1)
        for first, last in ((0, 1), (1, restarts)):
            runs = [rank for rank in range(1, 1 + ranks) for _ in range(first, last)]
            together = copies_at_once(len(x), q.fitting)
            for begin in range(0, len(runs), together):
                some = runs[begin : begin + together]
                library.target_class = order[:, some].T.flatten()
                rows = torch.arange(len(x), device=x.device).repeat(len(some))
                found = library.attack_single_run_targeted(x[rows], y[rows], use_rand_start=first > 0)
                for point in inside_box(found, x[rows]).detach().split(len(x)):
                    closest.offer(point, is_adversarial(net, point, y))
        return closest.point


def _apgd(q: Query, model: Logits, steps: int, restarts: int, loss: str) -> Tensor:
    with isolated(model.net, q.generator), torch.no_grad():
        import torchattacks

        library = torchattacks.APGD(model, norm=LIBRARY_NORM[q.norm], eps=q.epsilon, steps=steps, loss=loss)
        return _until_fooled(library, q, restarts, lambda rows, tries: None)


def _until_fooled(library: Any, q: Query, tries: int, prepare: Callable[[Tensor, Tensor], None]) -> Tensor:
    """The point of the first of several tries of APGD that fools the network, for each image; x itself if none does.

    Most images that can be fooled are fooled by the first try, which is made alone. Of the others as many are made at
    once as are hardly slower than one.

    Args:
        prepare: called with the images [N] and the number of the try [N] for each row of the next run.
    """
    x, y = q.x, q.y
    found, left, done = x.clone(), torch.arange(len(x), device=x.device), 0
    while len(left) and done < tries:
        together = 1 if done == 0 else min(tries - done, copies_at_once(len(left), q.fitting))
        rows = left.repeat(together)
        prepare(rows, torch.arange(done, done + together, device=x.device).repeat_interleave(len(left)))
        _, robust, _, point = library.attack_single_run(x[rows], y[rows])
        found[left], fooled = first_that_fools(~robust, inside_box(point, x[rows]).detach(), x[left])
        left, done = left[~fooled], done + together
    return found
