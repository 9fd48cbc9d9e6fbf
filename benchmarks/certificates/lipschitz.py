"""Certified radii by Lipschitz constants: one number for the whole input space, so loose, but almost free."""

import torch
from torch import Tensor

from marginbench.benchmarks.certificates._branches import with_bounds
from marginbench.benchmarks.certificates._record import Unbounded
from marginbench.benchmarks.certificates._simplify import simplified
from marginbench.benchmarks.certificates.certificate import certificate
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.methods import NotApplicable, predicted_class
from marginbench.methods.maths.lipschitz import lipschitz_radius


@certificate()
def lipschitz(q: Query, *, last_layer: bool = True) -> Tensor | Answer:
    """min_{j != y} (z_y - z_j) / (L ||w_y - w_j||_2) in L2; in L-infinity that, divided by sqrt(D).

    L bounds the Lipschitz constant of the features in L2 by the product of the layers' norms in float64, w are the
    rows of the last layer (Tsuzuku, Sato, Sugiyama, NeurIPS 2018, arXiv 1802.04034). Since ||d||_2 <= sqrt(D)
    ||d||_inf for D pixels, a radius in L2 holds one in L-infinity.

    Args:
        last_layer: use the rows of the last layer; without, sqrt(2) times its norm, as for any function to R^K.

    Returns:
        [B] radii in pixels, 0 for a wrong prediction; or the layer for which no bound is known.
    """
    found = lipschitz_radius(q.layers, q.x, last_layer)
    if isinstance(found, NotApplicable):
        try:
            found = lipschitz_radius(with_bounds(simplified(q.layers, q.x)), q.x, last_layer)
        except Unbounded as error:  # it knows what in the user's own module has no bound
            return Answer(reason=str(error))
    if isinstance(found, NotApplicable):
        return Answer(reason=found.reason)
    with torch.no_grad():
        radius = torch.where(predicted_class(q.net(q.x)) == q.y, found.radius, 0)
    return radius if q.norm == "l2" else radius / q.x[0].numel() ** 0.5 * (1 - 1e-6)
