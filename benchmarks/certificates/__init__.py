"""Certificates: lower bounds of the margin, in the norm asked for, for images in [0, 1].

A certificate takes `(net, x, label, norm, *, upper=None, **settings)` and returns [B] radii, 0 where it certifies
nothing, or `NotApplicable` with the reason. `crown.certified_radius` documents arguments and settings.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from marginbench.benchmarks.certificates.crown import certified_radius
from marginbench.benchmarks.certificates.lipschitz import global_radius
from marginbench.methods import NotApplicable

Certificate = Callable[..., Tensor | NotApplicable]

CERTIFICATES: dict[str, Certificate] = {
    "ibp": partial(certified_radius, method="IBP"),
    "crown_ibp": partial(certified_radius, method="CROWN-IBP"),
    "crown": partial(certified_radius, method="CROWN"),
    "alpha_crown": partial(certified_radius, method="alpha-CROWN"),
    "lipschitz": global_radius,
}
