"""A gradient-free upper bound: the line to the nearest image that the network puts in another class."""

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.ray import select
from marginbench.methods import Norm


@torch.no_grad()
def blend(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    *,
    epsilon: float,
    reference: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The nearest reference image, in the given norm, whose predicted class is not y.

    `tighten` finds the class change on the line to it, so this bound exists as soon as the network predicts
    two classes on the reference images, even if it hides its gradients or has none.

    Args:
        epsilon, generator: unused; the signature is common to all attacks.
        reference: [N, C, H, W] float32 images in [0, 1], such as other test images.

    Returns:
        [B, C, H, W] float32; x itself where all reference images are put in class y.
    """
    if len(reference) == 0:
        return x.clone()
    logits = net(reference)
    usable = (logits.argmax(1) != y[:, None]) & logits.isfinite().all(1)
    gaps = torch.cdist(x.flatten(1), reference.flatten(1), p=2.0 if norm == "l2" else torch.inf)
    nearest = gaps.masked_fill(~usable, torch.inf).argmin(1)
    return select(usable.any(1), reference[nearest], x).clamp(0, 1)
