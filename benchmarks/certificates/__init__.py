"""Certificates: lower bounds of the margin, in the norm asked for, for images in [0, 1].

A certificate takes `(net, x, label, norm, *, upper=None, at=None, **settings)` and returns [B] radii, 0 where it
certifies nothing, or `NotApplicable` with the reason. `crown.certified_radius` documents arguments and settings.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from marginbench.benchmarks.certificates.crown import certified_radius
from marginbench.benchmarks.certificates.lipschitz import global_radius
from marginbench.methods import Net, Norm, NotApplicable, Radii

Certificate = Callable[..., Tensor | NotApplicable]
Certify = Callable[[Net, Tensor, Norm], Radii | NotApplicable]  # that of a method, about its own networks


def _proven(
    net: nn.Sequential,
    x: Tensor,
    label: Tensor,
    norm: Norm,
    *,
    upper: Tensor | None = None,
    at: Tensor | None = None,
    time_limit: float = 60.0,
) -> Tensor | NotApplicable:
    """The lower ends of `exact_margins`: exact L-infinity margins of small networks."""
    from marginbench.benchmarks.certificates.milp import exact_margins  # scipy.optimize is slow to import

    found = exact_margins(net, x, label, norm, upper=upper, time_limit=time_limit)
    return found if isinstance(found, NotApplicable) else found.lower


CERTIFICATES: dict[str, Certificate] = {
    "ibp": partial(certified_radius, method="IBP"),
    "crown_ibp": partial(certified_radius, method="CROWN-IBP"),
    "crown": partial(certified_radius, method="CROWN"),
    "alpha_crown": partial(certified_radius, method="alpha-CROWN"),
    "lipschitz": global_radius,
    "milp": _proven,
}
