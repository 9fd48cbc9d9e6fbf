"""Upper bounds of the margin: attacks that propose points, and a ray search that makes the points tight.

Every attack has one signature,

    attack(net, x, y, norm, *, epsilon, reference, generator, **settings) -> [B, C, H, W] float32 in [0, 1]

where `net` maps images [B, C, H, W] float32 in [0, 1] to logits [B, K], is in eval mode and has frozen
parameters; x are images that it classifies as y ([B] int64); `epsilon` is a radius in pixels of [0, 1], for
attacks inside a ball; `reference` holds images [N, C, H, W], for attacks that start from other images;
`generator` (on the device of x) is the only source of randomness. Its own settings have defaults. It returns
one point per image, x itself where it has failed, and leaves global random state, parameters, modes and
inputs as they were. Only `tighten` decides what a point is worth: its distance, or +inf if it is not
adversarial. `upper_bound` runs an attack and asks it.

A suite lists attacks with settings, or names a preset. An attack from elsewhere joins by its file:

    [evaluation]
    attacks = "quick"                 # or a table:

    [evaluation.attacks]
    fmn = { steps = 100 }
    mine = { file = "my_attack.py:make", steps = 20 }   # see foreign.Factory
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from marginbench.benchmarks.attacks.blend import blend
from marginbench.benchmarks.attacks.cw import cw
from marginbench.benchmarks.attacks.ddn import ddn
from marginbench.benchmarks.attacks.deepfool import deepfool
from marginbench.benchmarks.attacks.fmn import fmn
from marginbench.benchmarks.attacks.from_file import foreign, from_file
from marginbench.benchmarks.attacks.library import apgd, apgd_ce, apgd_t, fab_t, square
from marginbench.benchmarks.attacks.noise import noise
from marginbench.benchmarks.attacks.ray import distance, is_adversarial, tighten
from marginbench.methods import Norm

__all__ = [
    "ATTACKS",
    "BLACK_BOX",
    "MINIMUM_NORM",
    "PRESETS",
    "Attack",
    "distance",
    "foreign",
    "is_adversarial",
    "tighten",
    "upper_bound",
]

Attack = Callable[..., Tensor]


class _Attacks(dict[str, Attack]):
    """By name. A name that is not here is that of an attack from elsewhere: its setting `file` says which."""

    def __missing__(self, name: str) -> Attack:
        return from_file


ATTACKS: dict[str, Attack] = _Attacks(
    deepfool=deepfool,
    fmn=fmn,
    ddn=ddn,
    cw=cw,
    fab_t=fab_t,
    apgd=apgd,
    apgd_ce=apgd_ce,
    apgd_t=apgd_t,
    square=square,
    blend=blend,
    noise=noise,
)
BLACK_BOX = frozenset({"square", "blend", "noise"})
"""The attacks that use no gradients: a network that hides its gradients cannot stop them."""
MINIMUM_NORM = frozenset({"deepfool", "fmn", "ddn", "cw"})
"""The white-box attacks that may go as far as they like: only missing gradients can stop them."""

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {"deepfool": {}, "fmn": {}, "apgd": {}, "square": {}, "blend": {}, "noise": {}},
    "autoattack": {
        "apgd_ce": {"steps": 100, "restarts": 1, "original": True},
        "apgd_t": {"steps": 100, "restarts": 1, "targets": 9},
        "fab_t": {"steps": 100, "restarts": 1, "targets": 9},
        "square": {"n_queries": 5000, "restarts": 1, "original": True},
    },
    "exhaustive": {
        "deepfool": {"steps": 30},
        "fmn": {"steps": 200},
        "ddn": {"steps": 200},
        "cw": {"steps": 200, "searches": 9},
        "apgd": {"steps": 100, "restarts": 5},
        "apgd_ce": {"steps": 100, "restarts": 5, "original": True},
        "apgd_t": {"steps": 100, "restarts": 3, "targets": 9},
        "fab_t": {"steps": 100, "restarts": 3, "targets": 9},
        "square": {"n_queries": 5000, "restarts": 3, "original": True},
        "blend": {},
        "noise": {"directions": 32},
    },
}
"""What a suite may name in place of a table of attacks.

quick: minimum-norm attacks that are good enough on small networks, and checks on them. autoattack: the standard
version of AutoAttack (Croce and Hein, ICML 2020, arXiv 2003.01690), with its settings; nothing else may be called by
that name. exhaustive: all attacks, with more steps and restarts.
"""


def upper_bound(name: str, net: nn.Module, x: Tensor, y: Tensor, norm: Norm, /, **settings: Any) -> Tensor:
    """[B] float32: how near the attack called `name` comes, made tight on the ray; +inf where it fails.

    Args:
        settings: epsilon, reference and generator, as above, and the attack's own.
    """
    if len(x) == 0:  # not every network can be asked about no images
        return x.new_zeros(0)
    return tighten(net, x, ATTACKS[name](net, x, y, norm, **settings), y, norm)[1]
