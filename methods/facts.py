"""What can be said about a method without training it: names, norms, claims. Does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Norm = Literal["l2", "linf"]
NORMS: tuple[Norm, ...] = get_args(Norm)

Need = Literal["input_grad", "second_order", "inner_attack", "index", "own_update", "pretrained", "epsilon"]
"""What a method needs beyond one forward and one backward pass.

`input_grad`: differentiates with respect to the input; `second_order`: through such a gradient;
`inner_attack`: searches perturbations of the input, so that images depend on the network (noise does not);
`index`: keeps state per training example; `own_update`: replaces the optimiser step; `pretrained`: starts from a
trained network; `epsilon`: reads the radii of `task.epsilon`, so that other radii mean another training (of methods
that are not built in, this is taken for granted).
"""

Claim = Literal["accuracy", "feature_margin", "input_margin", "certified_radius", "rejection", "smoothed_radius"]
"""What is said to grow, by the method's paper or by a survey.

`accuracy` on clean images; `feature_margin`, the distance from the decision planes behind the last layer;
`input_margin`, the distance of the nearest adversarial image; `certified_radius`; `rejection`, robustness where images
of low confidence may be refused; `smoothed_radius`, certified for the vote over noisy copies of an image.
"""


@dataclass(frozen=True)
class Underfit:
    """That a method does not fit easy images: the share of 64 that it reaches, at least, and why no more."""

    accuracy: float  # in [0.4, 0.9), of the training images of `marginbench check`; chance is 0.2
    reason: str


@dataclass(frozen=True)
class Info:
    """The facts about a method. `marginbench check` compares the declared ones with what it observes."""

    key: str  # the name of the file
    title: str
    family: str  # the name of the folder; of a plug-in, one of the built-in families
    paper: str  # authors, title, venue, arXiv number
    section: str  # where in the paper the objective stands
    year: int
    neutral: Mapping[str, Any] | str  # fields at which it equals cross-entropy, or why there are none
    revision: int = 1  # raise it when behaviour changes: older records then show as stale
    claims: tuple[Claim, ...] = ()  # the leaderboard is compared with them, column by column
    needs: frozenset[Need] = frozenset()
    deviations: tuple[str, ...] = ()  # from the paper, in words
    eager: str = ""  # if a recorded step must not be replayed, why: see Context
    underfit: Underfit | None = None  # for an objective that keeps the network from fitting easy images
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # named settings with rows of their own
    own_family: bool = False  # a plug-in's family is none of the built-in ones
    contract: int = 1  # the `CONTRACT` of marginbench.methods.method when the file was written
