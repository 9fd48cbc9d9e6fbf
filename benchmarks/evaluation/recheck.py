"""Certificates once more, in float64, for a random share of the certified points: was the slack wide enough?"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.certificates.listed import CERTIFICATES, Certify, Exact
from marginbench.methods import NORMS, Net, Norm, NotApplicable, Radii
from marginbench.methods.errors import one_line

Answer = Tensor | Exact | Radii | NotApplicable

SHARE, LEAST = 0.05, 16  # of the certified points, in each norm and for each certificate
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # pixels; certificates that are not asked `at` a radius keep their slack and resolution
FLOAT64 = {"milp"}  # works in float64 as it is


def unconfirmed(
    net: Net,
    certify: Certify,
    x: Tensor,
    arrays: Mapping[str, Tensor],
    certificates: Mapping[str, Mapping[str, Any]],
) -> Iterable[str]:
    """What float64 does not confirm, in words; nothing if all is well.

    Bounds by auto-LiRPA are computed at the very radius, without slack. Other certificates, and the method's own, give
    their radii anew, and may differ by 0.1 % and 1e-5 pixels: their slack and resolution enter both times.

    Args:
        net: network in eval mode, float32; a copy of it is raised to float64.
        certify: the network's own certificate.
        x: [N, C, H, W] float32 images, arrays their `label` and `lower_NORM_NAME`, each [N].
        certificates: name to settings.
    """
    precise = copy.deepcopy(net).double()
    for norm in NORMS:
        for name in [*certificates, "own"]:
            radius = arrays.get(f"lower_{norm}_{name}")
            if radius is None or name in FLOAT64 or not bool((radius > 0).any()):
                continue
            points = _sample(radius > 0)
            images, label, claimed = x[points].double(), arrays["label"][points], radius[points].double()
            if name == "own":
                prove = partial(_own, certify, precise, images, norm)
            else:
                prove = partial(_listed, name, precise.decision_net(), images, label, norm, claimed, certificates[name])
            yield from _disagreement(prove, claimed, f"{name} in {norm}")


def _own(certify: Certify, net: Net, x: Tensor, norm: Norm, part: slice) -> Answer:
    return certify(net, x[part], norm)


def _listed(
    name: str,
    net: nn.Sequential,
    x: Tensor,
    label: Tensor,
    norm: Norm,
    at: Tensor,
    settings: Mapping[str, Any],
    part: slice,
) -> Answer:
    return CERTIFICATES[name](net, x[part], label[part], norm, at=at[part], **settings)


def _sample(certified: Tensor) -> Tensor:
    """Indices of a random share of the points; the same in every run with as many of them."""
    index = certified.nonzero()[:, 0]
    count = max(LEAST, math.ceil(SHARE * len(index)))
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    return index[order[:count].to(index.device)]


def _disagreement(prove: Callable[[slice], Answer], claimed: Tensor, what: str) -> Iterable[str]:
    """Points whose claimed radii [n] no answer reaches: neither that for all of them nor that for the point alone.

    auto-LiRPA's bounds for an image depend on the images beside it, and do not fall evenly with the radius. Each is a
    proof, but one batch may just miss what another has proved.
    """
    radii = _radii(prove, slice(None))
    if isinstance(radii, NotApplicable):
        yield f"{what}: no answer in float64 ({radii.reason})"
        return
    wrong = 0
    for i in _short(radii, claimed).nonzero()[:, 0].tolist():
        alone = _radii(prove, slice(i, i + 1))
        wrong += isinstance(alone, NotApplicable) or bool(_short(alone, claimed[i]).any())
    if wrong:
        yield f"{what}: {wrong} of {len(claimed)} points"


def _radii(prove: Callable[[slice], Answer], part: slice) -> Tensor | NotApplicable:
    try:
        answer = prove(part)
    except Exception as error:  # a plug-in may raise anything
        return NotApplicable(one_line(error))
    return answer.radius if isinstance(answer, Radii) else answer.lower if isinstance(answer, Exact) else answer


def _short(radius: Tensor, claimed: Tensor) -> Tensor:
    return ~(radius >= claimed * (1 - RELATIVE) - ABSOLUTE)  # NaN confirms nothing
