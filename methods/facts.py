"""What can be said about a method without training it: names, norms, claims. Does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Norm = Literal["l2", "linf"]
NORMS: tuple[Norm, ...] = get_args(Norm)

Need = Literal["input_grad", "second_order", "inner_attack", "pixels", "index", "own_update", "pretrained", "epsilon"]
NEEDS: Mapping[Need, str] = {
    "input_grad": "the loss differentiates with respect to the input or a hidden layer; features are none",
    "second_order": "the loss differentiates through such a gradient",
    "inner_attack": "searches perturbations of the input, so that images depend on the network; noise does not",
    "pixels": "the loss changes images behind the normalisation; what the hook `augment` does is known without it",
    "index": "keeps a number per training example, in `ctx.table`",
    "own_update": "replaces the optimiser step, by the hook `update`",
    "pretrained": "trains for a while with another objective first",
    "epsilon": "reads the suite's radii, `task.epsilon`; taken for granted of a plug-in, which may leave it out",
}
"""What each means."""

Claim = Literal["accuracy", "feature_margin", "input_margin", "certified_radius", "rejection", "smoothed_radius"]
CLAIMS: Mapping[Claim, str] = {
    "accuracy": "the share of test images that are classified correctly",
    "feature_margin": "the distance from the decision planes behind the last layer, relative to the longest feature",
    "input_margin": "the distance of the nearest adversarial image",
    "certified_radius": "the radius within which no adversarial image can be",
    "rejection": "robustness where images of low confidence may be refused",
    "smoothed_radius": "the radius certified for the vote over noisy copies of an image",
}
"""What each means."""


def _explain(literal: Any, what: str, words: Mapping[Any, str]) -> None:
    """Let `help()` say what the values of a Literal mean."""
    literal.__doc__ = "\n".join([what, "", *(f"{name}: {text}." for name, text in words.items())])


_explain(Need, "What a method needs beyond one forward and one backward pass: values of `Info.needs`.", NEEDS)
_explain(Claim, "What is said to grow, by the method's paper or a survey: values of `Info.claims`.", CLAIMS)


@dataclass(frozen=True)
class Underfit:
    """That a method does not fit easy images.

    Attributes:
        accuracy: the share of the training images of `marginbench check` that it reaches at least, in [0.4, 0.9);
            chance is 0.2.
        reason: why it is no more.
    """

    accuracy: float
    reason: str


@dataclass(frozen=True)
class Info:
    """The facts about a method. `marginbench check` compares the declared ones with what it observes.

    Attributes:
        key: the name that specs and tables use; the name of the file.
        title: in words, for lists.
        family: the name of the folder; of a plug-in, one of the built-in families, or see `own_family`.
        paper: authors, title, venue, arXiv number.
        section: where in the paper the objective stands.
        year: of the paper.
        neutral: fields at which it equals cross-entropy, as in {"weight": 0.0}, or a sentence why there are none.
        revision: raise it when behaviour changes: older records then show as stale.
        claims: what is said to grow; the tables compare it with cross-entropy. See `help(Claim)`.
        needs: what it does beyond one forward and one backward pass. See `help(Need)`.
        deviations: from the paper, a sentence each.
        eager: if a recorded step must not be replayed, why: see `help(Context)`.
        underfit: for an objective that keeps the network from fitting easy images. See `help(Underfit)`.
        presets: named settings with rows of their own, as in {"my_margin_heavy": {"weight": 1.0}}.
        own_family: the family of a plug-in is none of the built-in ones.
        contract: the `CONTRACT` of marginbench.methods.method when the file was written: the version of the hooks.
    """

    key: str
    title: str
    family: str
    paper: str
    section: str
    year: int
    neutral: Mapping[str, Any] | str
    revision: int = 1
    claims: tuple[Claim, ...] = ()
    needs: frozenset[Need] = frozenset()
    deviations: tuple[str, ...] = ()
    eager: str = ""
    underfit: Underfit | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own_family: bool = False
    contract: int = 1
