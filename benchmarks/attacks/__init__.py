"""Upper bounds of the margin: attacks that propose points, and a ray search that makes the points tight.

Every attack has one signature,

    attack(net, x, y, norm, *, epsilon, reference, generator, **settings) -> [B, C, H, W] float32 in [0, 1]

where `net` maps images [B, C, H, W] float32 in [0, 1] to logits [B, K], is in eval mode and has frozen
parameters; x are images that it classifies as y ([B] int64); `epsilon` is a radius in pixels of [0, 1], for
attacks inside a ball; `reference` holds images [N, C, H, W], for attacks that start from other images;
`generator` (on the device of x) is the only source of randomness. Its own settings have defaults. It returns
one point per image, x itself where it has failed, and leaves global random state, parameters, modes and
inputs as they were. Only `tighten` decides what a point is worth: its distance, or +inf if it is not
adversarial.
"""

from collections.abc import Callable

from torch import Tensor

from marginbench.benchmarks.attacks.blend import blend
from marginbench.benchmarks.attacks.deepfool import deepfool
from marginbench.benchmarks.attacks.fmn import fmn
from marginbench.benchmarks.attacks.library import apgd, square
from marginbench.benchmarks.attacks.noise import noise
from marginbench.benchmarks.attacks.ray import distance, is_adversarial, tighten

__all__ = ["ATTACKS", "BLACK_BOX", "Attack", "distance", "is_adversarial", "tighten"]

Attack = Callable[..., Tensor]

ATTACKS: dict[str, Attack] = {
    "deepfool": deepfool,
    "fmn": fmn,
    "apgd": apgd,
    "square": square,
    "blend": blend,
    "noise": noise,
}
BLACK_BOX = frozenset({"square", "blend", "noise"})
"""The attacks that use no gradients: a network that hides its gradients cannot stop them."""
