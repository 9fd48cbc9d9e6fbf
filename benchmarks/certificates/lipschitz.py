"""Certified radii by Lipschitz constants: one number for the whole input space, so loose, but almost free."""

import torch
from torch import Tensor, nn

from marginbench.methods import Norm, NotApplicable
from marginbench.methods.maths.lipschitz import lipschitz_radius


def global_radius(
    net: nn.Sequential,
    x: Tensor,
    label: Tensor,
    norm: Norm,
    *,
    upper: Tensor | None = None,
    at: Tensor | None = None,
    last_layer: bool = True,
) -> Tensor | NotApplicable:
    """min_{j != label} (z_label - z_j) / (L ||w_label - w_j||_2) in L2; in L-infinity that, divided by sqrt(D).

    L bounds the Lipschitz constant of the features in L2 by the product of the layers' norms in float64, w are the
    rows of the last layer (Tsuzuku, Sato, Sugiyama, NeurIPS 2018, arXiv 1802.04034). Since ||d||_2 <= sqrt(D)
    ||d||_inf for D pixels, a radius in L2 holds one in L-infinity.

    Args:
        net: images in [0, 1] to logits [B, K], in eval mode, with a linear last layer.
        x: [B, C, H, W]; label: [B] int64, the true classes.
        upper, at: unused; the signature is common to all certificates.
        last_layer: use the rows of the last layer; without, sqrt(2) times its norm, as for any function to R^K.

    Returns:
        [B] radii in pixels, 0 for a wrong prediction; or the layer for which no bound is known.
    """
    found = lipschitz_radius(net, x, last_layer)
    if isinstance(found, NotApplicable):
        return found
    with torch.no_grad():
        radius = torch.where(net(x).argmax(1) == label, found.radius, 0)
    return radius if norm == "l2" else radius / x[0].numel() ** 0.5 * (1 - 1e-6)
