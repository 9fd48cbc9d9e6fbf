"""Reasons to distrust a number. One function for each: its docstring is the explanation that the tables print."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.presets import ATTACKS, BLACK_BOX, MINIMUM_NORM, upper_bound
from marginbench.benchmarks.attacks.ray import changes_class
from marginbench.benchmarks.certificates.listed import Certify
from marginbench.benchmarks.evaluation.recheck import unconfirmed
from marginbench.benchmarks.machine.memory import ROWS, Chunks
from marginbench.benchmarks.suites.schema import Evaluation
from marginbench.methods import NORMS, Net, Norm, logit_margin
from marginbench.methods.maths.perturb import pgd

PROBE = 64  # points on which networks are probed again
SCALE, SHIFT = 100.0, 50.0


@dataclass(frozen=True)
class Evidence:
    """What the doubts look at: the network, the images, the per-point arrays, the settings and costs of estimators."""

    net: Net
    x: Tensor  # [N, C, H, W]
    arrays: Mapping[str, Tensor]
    estimators: Mapping[str, Mapping[str, Any]]
    settings: Evaluation
    num_classes: int
    certify: Certify  # the network's own certificate

    @property
    def correct(self) -> Tensor:
        return self.arrays["prediction"] == self.arrays["label"]

    def best(self, norm: str, black_box: bool) -> Tensor:
        """Smallest distance [N] that the attacks of one kind found; what certificates found hides no weak attack."""
        names = [name for name in self.settings.attacks if (name in BLACK_BOX) == black_box]
        infinite = torch.full_like(self.arrays[f"upper_{norm}"], torch.inf)
        return torch.stack([infinite, *(self.arrays[f"upper_{norm}_{name}"] for name in names)]).amin(0)


def contradiction(e: Evidence) -> str | None:
    """A certified radius exceeds the distance of an adversarial example: a wrong certificate or a wrong attack."""
    count = sum(int((e.arrays[f"lower_{n}"] > e.arrays[f"upper_{n}"])[e.correct].sum()) for n in NORMS)
    return f"{count} points" if count else None


def collapse(e: Evidence) -> str | None:
    """The network predicts a single class, is near chance, or gives logits that are not finite."""
    if not bool(e.arrays["output_margin"].isfinite().all()):
        return "logits not finite"
    if len(e.arrays["prediction"].unique()) == 1:
        return "one class for every image"
    accuracy = float(e.correct.float().mean())
    return f"accuracy {accuracy:.1%}" if accuracy < 2 / e.num_classes and e.num_classes > 2 else None


def unattacked(e: Evidence) -> str | None:
    """No attack found an adversarial example for some correct points: their upper bound is infinite."""
    if not e.correct.any():
        return None
    share = max(float(e.arrays[f"upper_{n}"][e.correct].isinf().float().mean()) for n in NORMS)
    return f"{share:.1%} of correct points" if share > 0 else None


def zero_gradient(e: Evidence) -> str | None:
    """The gradient of the logit gap vanishes at more than 1 % of the correct points: white-box attacks are blind."""
    x, y = e.x[e.correct], e.arrays["label"][e.correct]
    if len(x) == 0:
        return None

    def gradient(part: slice) -> Tensor:
        image = x[part].requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(logit_margin(e.net(image), y[part]).sum(), image)[0]

    grad = torch.cat(Chunks(ROWS).map(gradient, len(x)))
    size = grad.flatten(1).abs().amax(1)
    share = float(((size == 0) | ~size.isfinite()).float().mean())
    return f"{share:.1%} of correct points" if share > 0.01 else None


def no_backward(e: Evidence) -> str | None:
    """A white-box attack made no backward pass, so it cannot have used gradients."""
    idle = [
        name
        for name, cost in e.estimators.items()
        if name.rsplit("_", 1)[0] in set(ATTACKS) - BLACK_BOX and cost.get("backward") == 0
    ]
    return ", ".join(idle) if idle and bool(e.correct.any()) else None


def black_box_wins(e: Evidence) -> str | None:
    """Black-box attacks come 5 % nearer than all white-box attacks on more than 5 % of the correct points."""
    share = 0.0
    for norm in NORMS:
        near = e.best(norm, black_box=True) < 0.95 * e.best(norm, black_box=False)
        share = max(share, float(near[e.correct].float().mean())) if e.correct.any() else share
    return f"{share:.1%} of correct points" if share > 0.05 else None


def noise_wins(e: Evidence) -> str | None:
    """Random directions come nearer than all white-box attacks on more than 1 % of the correct points."""
    share = 0.0
    for norm in NORMS:
        noise = e.arrays.get(f"upper_{norm}_noise")
        if noise is not None and e.correct.any():
            near = noise < e.best(norm, black_box=False)
            share = max(share, float(near[e.correct].float().mean()))
    return f"{share:.1%} of correct points" if share > 0.01 else None


def scale_dependence(e: Evidence) -> str | None:
    """A white-box attack finds other distances (by 2 %) when logits are multiplied by 100 and shifted by 50."""
    x, y = e.x[e.correct][:PROBE], e.arrays["label"][e.correct][:PROBE]
    nets = (e.net, _scaled(e.net))
    for norm in NORMS:
        for name in sorted(set(e.settings.attacks) - BLACK_BOX):
            if e.settings.attacks[name].get("original"):  # AutoAttack's own cross-entropy: it does depend, as is known
                continue
            reached = [_attack(e, net, x, y, name, norm) for net in nets]
            both = reached[0].isfinite() & reached[1].isfinite()
            lost = int((reached[0].isfinite() != reached[1].isfinite()).sum())
            before, after = (float(distances[both].sum()) for distances in reached)
            if lost > 0.02 * len(x) or abs(after - before) > 0.02 * before:
                return f"{name} in {norm}: sum of distances {before:.3g} becomes {after:.3g}, {lost} points differ"
    return None


def _attack(e: Evidence, net: Net, x: Tensor, y: Tensor, name: str, norm: Norm) -> Tensor:
    stream = torch.Generator(x.device).manual_seed(0)
    common = {"epsilon": e.settings.epsilon[norm], "reference": e.x, "generator": stream}
    return upper_bound(name, net, x, y, norm, **common, **e.settings.attacks[name])


def batch_dependence(e: Evidence) -> str | None:
    """The logits of an image depend on the other images of its batch, or change from call to call."""
    with torch.no_grad():
        together = e.net(e.x[:PROBE])
        alone = torch.cat([e.net(image[None]) for image in e.x[:PROBE:8]])
    error = float((together[::8] - alone).abs().max() / together.abs().max().clamp_min(1e-30))
    return f"relative difference {error:.1g}" if error > 1e-3 else None


def returns_probabilities(e: Evidence) -> str | None:
    """The outputs are probabilities, not logits: where they round to 0 or 1 gradients vanish and margins tie."""
    with torch.no_grad():
        return "every row is non-negative and sums to 1" if are_probabilities(e.net(e.x[:PROBE])) else None


def are_probabilities(out: Tensor) -> bool:
    """Whether the rows [B, K] are non-negative and sum to 1."""
    return bool((out >= 0).all()) and bool(((out.sum(1) - 1).abs() < 1e-3).all())


def unbounded_attack(e: Evidence) -> str | None:
    """Gradient attacks free to move anywhere in the box leave more than 1 % of the correct points where they are."""
    shares = []
    for norm in NORMS:
        names = [name for name in e.settings.attacks if name in MINIMUM_NORM]
        if names and e.correct.any():
            found = torch.stack([e.arrays[f"upper_{norm}_{name}"] for name in names]).amin(0)
            shares.append(float(found[e.correct].isinf().float().mean()))
    return f"{max(shares):.1%} of correct points" if shares and max(shares) > 0.01 else None


def radius_zero(e: Evidence) -> str | None:
    """With a radius of 0 robust accuracy is not clean accuracy: the network answers to one image in two ways."""
    with torch.no_grad():
        moved = Chunks(ROWS).rows(e.net, e.x).argmax(1) != e.arrays["prediction"]
    for norm in NORMS:
        moved |= e.correct & (e.arrays[f"upper_{norm}"] <= 0)
    return f"{float(moved.float().mean()):.1%} of the points" if bool(moved.any()) else None


def not_falling(e: Evidence) -> str | None:
    """Of 64 points projected gradient ascent moves 5 % fewer at a larger radius (1, 2, 4 times that of the suite)."""
    x, y = e.x[e.correct][:PROBE], e.arrays["label"][e.correct][:PROBE]
    for norm in NORMS:
        robust = [_pgd_accuracy(e.net, x, y, norm, factor * e.settings.epsilon[norm]) for factor in (1, 2, 4)]
        if any(after > before + 0.05 for before, after in itertools.pairwise(robust)):
            return f"{norm}: robust accuracy " + ", ".join(f"{accuracy:.1%}" for accuracy in robust)
    return None


def _pgd_accuracy(net: Net, x: Tensor, y: Tensor, norm: Norm, epsilon: float, steps: int = 10) -> float:
    if len(x) == 0:
        return 0.0
    radius = x.new_full((len(x),), epsilon)
    delta = pgd(
        lambda image: -logit_margin(net(image), y),
        x,
        torch.zeros_like(x),
        epsilon=radius,
        step=2.5 * radius / steps,
        steps=steps,
        norm=norm,
    )
    with torch.no_grad():
        return float((~changes_class(net(x + delta), y)).float().mean())


def not_confirmed(e: Evidence) -> str | None:
    """Computed again in float64, some certified radii do not hold, of a random twentieth: rounding decided them."""
    return "; ".join(unconfirmed(e.net, e.certify, e.x, e.arrays, e.settings.certificates)) or None


DOUBTS: dict[str, Callable[[Evidence], str | None]] = {
    check.__name__: check
    for check in (
        contradiction,
        collapse,
        unattacked,
        zero_gradient,
        no_backward,
        black_box_wins,
        noise_wins,
        scale_dependence,
        batch_dependence,
        returns_probabilities,
        unbounded_attack,
        radius_zero,
        not_falling,
        not_confirmed,
    )
}


def collect(evidence: Evidence) -> dict[str, str]:
    """All doubts about one run: name to what was seen."""
    found = {name: check(evidence) for name, check in DOUBTS.items()}
    return {name: seen for name, seen in found.items() if seen is not None}


def _scaled(net: Net) -> Net:
    class Scaled(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return SCALE * z + SHIFT

    return Net(net.normalise, net.body, nn.Sequential(net.head, Scaled()))


def explanation(name: str) -> str:
    """What a doubt means, for the legend of a table."""
    check = DOUBTS.get(name)
    return (check.__doc__ if check else None) or "a doubt that this version does not know"
