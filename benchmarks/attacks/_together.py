"""Several starts or targets of the same images at once: a network is asked about many in hardly more time than one."""

import torch
from torch import Tensor

from marginbench.benchmarks.attacks.ray import select
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.machine.memory import ROWS, Chunks


def copies_at_once(images: int, fitting: int | None) -> int:
    """How many copies of so many images go through the network at once, one at least.

    Args:
        fitting: images that memory holds, see `Query.fitting`.
    """
    most = ROWS if fitting is None else min(ROWS, fitting)
    return max(1, most // max(1, images))


def first_that_fools(fooled: Tensor, points: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the point of the first of T tries that fools the network, x itself where none does.

    Args:
        fooled: [T * B] bool, try by try; points: [T * B, C, H, W].
        x: [B, C, H, W].

    Returns:
        [B, C, H, W], and whether there is one, [B] bool.
    """
    by_try = fooled.view(-1, len(x))
    first, image = by_try.int().argmax(0), torch.arange(len(x), device=x.device)
    return select(by_try.any(0), points.view(-1, *x.shape)[first, image], x), by_try.any(0)


def reference_logits(q: Query) -> Tensor:
    """[N, K] of `q.reference`, which is not empty, of as many images at once as memory holds."""
    return Chunks(q.fitting or len(q.reference)).rows(q.net, q.reference)
