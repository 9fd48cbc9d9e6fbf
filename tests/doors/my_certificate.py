"""A custom certificate: the margin of an affine network, in closed form."""

import torch
from torch import Tensor

from marginbench.benchmarks import Answer, Query, certificate


@certificate(exact_on_linear=True)
@torch.no_grad()
def affine(q: Query, *, slack: float = 1e-5) -> Tensor | Answer:
    """min_j (z_y - z_j - slack) / ||w_y - w_j||_dual with logits z = W x + b."""
    pixels = q.x[:1].numel()
    zero, basis = q.x.new_zeros(1, *q.x.shape[1:]), torch.eye(pixels).to(q.x).view(pixels, *q.x.shape[1:])
    weight = (q.net(basis) - q.net(zero)).T  # [K, pixels]
    z = q.net(q.x)
    if not torch.allclose(q.x.flatten(1) @ weight.T + q.net(zero), z, atol=1e-3):
        return Answer(reason="the network is not affine")
    sizes = (weight[q.y][:, None] - weight).norm(p=2 if q.norm == "l2" else 1, dim=2)
    gaps = z.gather(1, q.y[:, None]) - z - slack
    return (gaps / sizes).scatter(1, q.y[:, None], torch.inf).amin(1).clamp(min=0)
