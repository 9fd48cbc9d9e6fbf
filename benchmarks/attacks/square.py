"""Square: random search that changes one window of the image at a time, and only reads logits."""

from bisect import bisect_left

import torch
from pydantic import PositiveInt
from torch import Tensor

from marginbench.benchmarks.attacks._together import copies_at_once, first_that_fools
from marginbench.benchmarks.attacks._windows import WINDOWS
from marginbench.benchmarks.attacks._wrap import Logits
from marginbench.benchmarks.attacks.attack import attack
from marginbench.benchmarks.attacks.ray import select
from marginbench.benchmarks.estimator import Query
from marginbench.methods import logit_margin

SHARE = 0.8  # of the pixels, of the first windows
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries, of `SCHEDULE`, after which windows lose half
SCHEDULE = 10_000
BLOCK = 50  # queries for which numbers are drawn at once


@attack(gradient=False)
@torch.no_grad()
def square(q: Query, *, n_queries: PositiveInt = 100, restarts: PositiveInt = 1, original: bool = False) -> Tensor:
    """Random search at one epsilon: a change stays where the margin f = z_y - max_{j != y} z_j falls.

    Of h x w pixels, in c channels, a window has side s = round(sqrt(p h w)), with p from 0.8, halved after 10, 50, 200,
    500, ..., 8000 queries of 10,000. Its place is drawn, its corner from the first h - s rows and w - s columns, as in
    the authors' code.

        Linf: x' = project(x + delta + 2 e r), with a sign r for each channel of the window, on the ball and the box
        L2:   a second window gives what length it has to the first; in each channel that becomes
              eta(s) r + the window's direction of before, with the length that the two windows had and a share 1 / c of
              what is left of e; delta then has length e, and is cut to the box

    eta(s) rises towards the middle of either half of the window, with opposite signs, the halves above each other or
    side by side. The first delta are stripes of +-e in Linf, and at least 5 x 5 tiles eta in L2.

    After Andriushchenko et al., ECCV 2020, arXiv 1912.00049, Algorithms 1 to 3. Hidden gradients do not stop it.
    Each image and start has windows of its own, as in the authors' code; AutoAttack's gives all images of a batch the
    same, and an image alone has as many. All starts of few images go at once, until one of them succeeds.

    torchattacks' Square is not used: it makes one start after the other, shares the length of windows among all
    channels, and cannot treat images that are not square, nor some that are in L2, as those of 14 x 14 pixels.

    Args:
        n_queries: forward passes per start, beside the first.
        restarts: random starts.
        original: the margin of the logits as they are, and the first `n_queries` of the schedule for 10,000, as
            AutoAttack does; otherwise logits are centred and divided by their largest absolute value, see `Logits`,
            and the schedule is stretched to `n_queries`.

    Returns:
        [B, C, H, W] float32: an adversarial point in the ball, x itself where none was found.
    """
    model = Logits(q.net, q.x.device, standardised=not original, nowhere=True)
    shares = schedule(n_queries, SCHEDULE if original else n_queries)
    found, left, done = q.x.clone(), torch.arange(len(q.x), device=q.x.device), 0
    while len(left) and done < restarts:
        together = min(restarts - done, copies_at_once(len(left), q.fitting))
        found[left], fooled = _search(q.rows(left), model, shares, together)
        left, done = left[~fooled], done + together
    return found


def schedule(n_queries: int, whole: int) -> list[float]:
    """The share of the pixels that a window has, for each query of a schedule for `whole` of them."""
    return [SHARE / 2 ** bisect_left(HALVED, query * SCHEDULE // whole) for query in range(n_queries)]


def _search(q: Query, model: Logits, shares: list[float], starts: int) -> tuple[Tensor, Tensor]:
    """The points [B, C, H, W] of the first starts to succeed, x where none does, and whether one did, [B] bool.

    Images drop out once they are found. Numbers are drawn for all of them, so that none depends on others.
    """
    windows, shape, epsilon = WINDOWS[q.norm], (q.x.shape[1], q.x.shape[2], q.x.shape[3]), q.epsilon
    rows = torch.arange(starts * len(q.x), device=q.x.device)

    def draw(*size: int) -> Tensor:
        return torch.rand(size, generator=q.generator, device=q.x.device)

    found, fooled, left = (
        q.x.clone(),
        torch.zeros_like(q.y, dtype=torch.bool),
        torch.arange(len(q.x), device=q.x.device),
    )
    x, y = q.x.repeat(starts, 1, 1, 1), q.y.repeat(starts)
    point = windows.start(x, epsilon, draw(len(rows), windows.start_numbers(shape)))
    margin = logit_margin(model(point), y)
    numbers = point.new_empty(0)
    for query, share in enumerate([*shares, None]):
        hit = margin < 0
        if bool(hit.any()):
            found[left], fooled[left] = first_that_fools(hit, point, q.x[left])
            stay = ~fooled[left]
            left, kept = left[stay], stay.repeat(starts)
            x, y, point, margin, rows = x[kept], y[kept], point[kept], margin[kept], rows[kept]
        if share is None or not len(left):
            break
        if query % BLOCK == 0:
            numbers = draw(BLOCK, starts * len(q.x), windows.move_numbers(shape))
        trial = windows.move(x, point, epsilon, share, numbers[query % BLOCK, rows])
        reached = logit_margin(model(trial), y)
        better = reached < margin
        point, margin = select(better, trial, point), torch.where(better, reached, margin)
    return found, fooled
