"""MACER: the certified radius of the smoothed classifier, maximised without attacks."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, Norm, NotApplicable, Radii, param


class MACER(Method):
    """L = (1/B) sum_i -log q_y(x_i; 1) + weight sigma/2 max(0, gamma - xi_i) [0 < xi_i < gamma], images x [B, C, H, W].

    q(x; b) = (1/k) sum_j softmax(b z(x + sigma n_j)), n_j ~ N(0, I), and xi = Phi^-1(q_y) - Phi^-1(max_{j != y} q_j)
    with q = q(x; beta): sigma/2 xi is the certified radius of the soft smoothed classifier where xi > 0.
    """

    info: ClassVar[Info] = Info(
        key="macer",
        title="Maximising the certified radius",
        family="certified",
        paper="Zhai, Dan, He, Zhang, Gong, Ravikumar, Hsieh, Wang: MACER: Attack-free and Scalable Robust Training via"
        " Maximizing Certified Radius, ICLR 2020, arXiv 2001.02378",
        section="4, equations 14 to 17, algorithm 1",
        year=2020,
        claims=("smoothed_radius",),
        neutral={"sigma": 0.0},
    )

    sigma: float = param(
        0.25, "standard deviation of the noise", unit="pixels of [0, 1]", source="section 5", search=(0.25, 0.5), ge=0
    )
    weight: float = param(12.0, "lambda", unit="1", source="section 5.1: 12 for sigma 0.25", search=(4.0, 12.0), ge=0)
    gamma: float = param(8.0, "hinge of xi", unit="1", source="section 5.1: 8", search=(4.0, 8.0), gt=0)
    beta: float = param(16.0, "inverse temperature", unit="1", source="section 5.1: 16", search=(8.0, 16.0), gt=0)
    k: int = param(16, "noisy copies of an image", unit="-", source="section 5.1: 16", search=(4, 16), ge=1)

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        shape = (self.k, *batch.x.shape)
        noise = torch.randn(shape, generator=ctx.generator, device=ctx.device, dtype=batch.x.dtype)
        z = net((batch.x + self.sigma * noise).flatten(0, 1)).float().unflatten(0, shape[:2])  # [k, B, K]
        label = batch.y[:, None]
        risk = -(z.log_softmax(2).logsumexp(0) - math.log(self.k)).gather(1, label).mean()
        q = (self.beta * z).softmax(2).mean(0)
        rival = q.scatter(1, label, 0).amax(1)
        xi = _quantile(q.gather(1, label)[:, 0]) - _quantile(rival)
        counts = (xi > 0) & (xi < self.gamma)
        radius = torch.where(counts, self.gamma - xi, 0).mean()
        return Loss(risk + self.weight * self.sigma / 2 * radius, {"risk": risk.detach(), "radius": radius.detach()})

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        return NotApplicable("the certificate is for the smoothed classifier, not for the network")


def _quantile(p: Tensor) -> Tensor:
    """Phi^-1 of probabilities, kept where it and its slope are finite."""
    quantile: Tensor = torch.special.ndtri(p.clamp(1e-5, 1 - 1e-5))
    return quantile
