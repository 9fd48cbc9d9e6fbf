"""Certificates: lower bounds of the margin, in the norm asked for, for images in [0, 1].

A certificate takes `(net, x, label, norm, *, upper=None, at=None, **settings)` and returns [B] radii, 0 where it
certifies nothing, or `NotApplicable` with the reason. `crown.certified_radius` documents arguments and settings.
One that also finds adversarial images returns `Exact`; `milp` works in float64 as it is and knows no `at`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from torch import Tensor, nn

from marginbench.benchmarks.certificates.crown import INSTALL, certified_radius
from marginbench.benchmarks.certificates.lipschitz import global_radius
from marginbench.methods import Net, Norm, NotApplicable, Radii


@dataclass(frozen=True)
class Exact:
    """Margins of B images, enclosed; float32, on the device of the images."""

    lower: Tensor  # [B] proven; inf where the whole box is proven to hold no adversarial image
    upper: Tensor  # [B] distance of an adversarial image, inf where none was found
    solved: Tensor  # [B] bool: lower >= (1 - gap) upper - 1e-5
    seconds: Tensor  # [B] wall time


Certificate = Callable[..., Tensor | Exact | NotApplicable]
Certify = Callable[[Net, Tensor, Norm], Radii | NotApplicable]  # that of a method, about its own networks


def _milp(
    net: nn.Sequential, x: Tensor, label: Tensor, norm: Norm, *, upper: Tensor | None = None, time_limit: float = 60.0
) -> Exact | NotApplicable:
    """`exact_margins`: exact L-infinity margins of small networks."""
    from marginbench.benchmarks.certificates.milp import exact_margins  # scipy.optimize is slow to import

    return exact_margins(net, x, label, norm, upper=upper, time_limit=time_limit)


CERTIFICATES: dict[str, Certificate] = {
    "ibp": partial(certified_radius, method="IBP"),
    "crown_ibp": partial(certified_radius, method="CROWN-IBP"),
    "crown": partial(certified_radius, method="CROWN"),
    "alpha_crown": partial(certified_radius, method="alpha-CROWN"),
    "lipschitz": global_radius,
    "milp": _milp,
}


def missing(names: Iterable[str]) -> str | None:
    """What to install for certificates of these names, if anything; without it their columns stay empty."""
    bounds = [name for name in names if getattr(CERTIFICATES[name], "func", None) is certified_radius]
    return f"{', '.join(bounds)}: {INSTALL}" if bounds and find_spec("auto_LiRPA") is None else None
