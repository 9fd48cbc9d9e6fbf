"""A gradient-free upper bound: the line to the nearest image that the network puts in another class."""

import torch
from torch import Tensor

from marginbench.benchmarks.attacks._together import reference_logits
from marginbench.benchmarks.attacks.attack import attack
from marginbench.benchmarks.attacks.ray import select
from marginbench.benchmarks.estimator import Query
from marginbench.methods import predicted_class


@attack(gradient=False)
@torch.no_grad()
def blend(q: Query) -> Tensor:
    """The nearest image of `q.reference`, in the norm of the query, which the network does not put in class y.

    `tighten` finds the class change on the line to it, so this bound exists as soon as the network predicts
    two classes on the reference images, even if it hides its gradients or has none.

    Returns:
        [B, C, H, W] float32; x itself where all reference images are put in class y.
    """
    x, reference = q.x, q.reference
    if len(reference) == 0:
        return x.clone()
    usable = predicted_class(reference_logits(q)) != q.y[:, None]
    gaps = torch.cdist(x.flatten(1), reference.flatten(1), p=2.0 if q.norm == "l2" else torch.inf)
    nearest = gaps.masked_fill(~usable, torch.inf).argmin(1)
    return select(usable.any(1), reference[nearest], x).clamp(0, 1)
