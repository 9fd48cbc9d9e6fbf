"""Reasons to distrust a number. One function for each: its docstring is the explanation that the tables print.

Any file may add one: see `evidence.doubt`. `gradient.py`, `held_out.py`, `recheck.py`, `rounding.py`, `weak_attack.py`
and `weak_rejection.py` have one each.
"""

import itertools
import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.attacks.ray import attached, changes_class, inside_box
from marginbench.benchmarks.evaluation.disguise import nearly_probabilities, probabilities
from marginbench.benchmarks.evaluation.evidence import DOUBTS, Evidence, collect, doubt, explanation
from marginbench.benchmarks.evaluation.gradient import gradient_mismatch
from marginbench.benchmarks.evaluation.held_out import surer_of_held_out
from marginbench.benchmarks.evaluation.recheck import not_confirmed
from marginbench.benchmarks.evaluation.rounding import rounded_away
from marginbench.benchmarks.evaluation.weak_attack import weak_attack
from marginbench.benchmarks.evaluation.weak_rejection import weak_rejection
from marginbench.benchmarks.machine.memory import Chunks, rows_at_once
from marginbench.benchmarks.statistics.paired import LEVEL
from marginbench.methods import NORMS, Net, Norm, logit_margin, predicted_class
from marginbench.methods.maths.perturb import pgd
from marginbench.methods.words import counted

__all__ = [
    "DOUBTS",
    "collect",
    "doubt",
    "explanation",
    "gradient_mismatch",
    "not_confirmed",
    "rounded_away",
    "surer_of_held_out",
    "weak_attack",
    "weak_rejection",
]

TINY = 1e-30
ROUNDING = 1e-3  # of a distance: on images of one or two pixels random directions are as good as any
PROBED = 64  # points on which networks are asked again
GLANCE, HARDLY = 16, 0.005  # points that are asked first, and what they may differ by if that is enough
STEPS = 10  # of projected gradient ascent at least, where attacks are doubted
STRIDE = 1 / 40  # of the box, across which no such step is longer
WEAK = 1 / 3  # of the share of a class in the images: so seldom a weak network may predict it
ABOVE = 1 / 9  # of what lies above chance: accuracy below that is near it; with 10 classes that is 2/K
INVALID = "invalid"  # of an estimator in the record: at how many points its radius or its image is none
HARDLY_SCALED = (0.99, 1.003, 1.01)  # factors of logits
SCALE, SHIFT = 100.0, 50.0  # of logits, and their least spread once scaled


@doubt
def contradiction(e: Evidence) -> str | None:
    """A certified radius exceeds the distance of an adversarial example: a wrong certificate or a wrong attack."""
    count = sum(int((e.arrays[f"lower_{n}"] > e.arrays[f"upper_{n}"])[e.correct].sum()) for n in NORMS)
    return counted(count, "point") if count else None


@doubt
def invalid_answer(e: Evidence) -> str | None:
    """A certificate gives radii that are NaN or negative, which count as 0, or an attack gives images with pixels that
    are NaN, which count as those of the original: it is wrong, or the network is broken.
    """
    found = [f"{name}: {counted(cost[INVALID], 'point')}" for name, cost in e.estimators.items() if INVALID in cost]
    return ", ".join(found) or None


@doubt
def collapse(e: Evidence) -> str | None:
    """The network predicts a single class, never some of the classes, is near chance, or gives NaN or infinity.

    Never: those that are missing have so many images that a network which predicts each a third as often as it is
    there misses them with p < 5 %, corrected for the choice of the classes. Near chance: with K classes, accuracy is
    below 2/K and has gone less than 1/9 of the way from 1/K to 1.
    """
    if broken := int((e.arrays["output_margin"].isnan() | e.arrays["output_margin"].isposinf()).sum()):
        return f"logits not finite for {broken} of {counted(len(e.y), 'image')}"
    predicted = e.arrays["prediction"].unique()
    present, images = e.y.unique(return_counts=True)
    if len(predicted) == 1 and not torch.equal(predicted, present):  # the only class there is may be right
        return "one class for every image"
    seen = []
    if missing := _never(images[~torch.isin(present, predicted)], len(present)):
        seen.append(f"never predicted: {missing} of {len(present)} classes")
    accuracy, chance = float(e.correct.float().mean()), 1 / e.num_classes
    if accuracy < min(chance + ABOVE * (1 - chance), 2 * chance):
        seen.append(f"accuracy {accuracy:.1%}, by chance {chance:.1%}")
    return ", ".join(seen) or None


def _never(images: Tensor, classes: int) -> int:
    """How many classes are missing, by the images of each [M] int64; 0 where a weak network may miss as many."""
    together = WEAK * images.sort(descending=True).values.double().cumsum(0)
    chances = (math.comb(classes, number) * math.exp(-float(of)) for number, of in enumerate(together, 1))
    return len(images) if any(chance < LEVEL for chance in chances) else 0


@doubt
def unattacked(e: Evidence) -> str | None:
    """No attack found an adversarial example for some correct points: their upper bound is infinite."""
    if not e.correct.any():
        return None
    share = max(float(e.arrays[f"upper_{n}"][e.correct].isinf().float().mean()) for n in NORMS)
    return f"{share:.1%} of correct points" if share > 0 else None


@doubt
def zero_gradient(e: Evidence) -> str | None:
    """The gradient of the logit gap vanishes at more than 1 % of the correct points: white-box attacks are blind."""
    x, y = e.x[e.correct], e.y[e.correct]
    if len(x) == 0:
        return None

    def gradient(part: slice) -> Tensor:
        image = x[part].requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(logit_margin(attached(e.net, image), y[part]).sum(), image)[0]

    grad = torch.cat(Chunks(rows_at_once(e.net, x)).map(gradient, len(x)))
    size = grad.flatten(1).abs().amax(1)
    share = float(((size == 0) | ~size.isfinite()).float().mean())
    return f"{share:.1%} of correct points" if share > 0.01 else None


@doubt
def no_backward(e: Evidence) -> str | None:
    """A white-box attack made no backward pass, so it cannot have used gradients."""
    used = {f"{name}_{norm}" for name in e.with_gradient() for norm in NORMS}
    idle = [name for name, cost in e.estimators.items() if name in used and cost.get("backward") == 0]
    return ", ".join(idle) if idle and bool(e.correct.any()) else None


@doubt
def black_box_wins(e: Evidence) -> str | None:
    """Black-box attacks come 5 % nearer than all white-box attacks on more than 5 % of the correct points."""
    share = 0.0
    for norm in NORMS:
        near = e.nearest(norm, e.without_gradient()) < 0.95 * e.nearest(norm, e.with_gradient())
        share = max(share, float(near[e.correct].float().mean())) if e.correct.any() else share
    return f"{share:.1%} of correct points" if share > 0.05 else None


@doubt
def noise_wins(e: Evidence) -> str | None:
    """Random directions come 0.1 % nearer than all white-box attacks on more than 1 % of the correct points."""
    controls = [name for name, attack in e.attacks.items() if attack.control]
    share = 0.0
    for norm in NORMS:
        near = e.nearest(norm, controls) < (1 - ROUNDING) * e.nearest(norm, e.with_gradient())
        share = max(share, float(near[e.correct].float().mean())) if e.correct.any() else share
    return f"{share:.1%} of correct points" if share > 0.01 else None


@doubt
def scale_dependence(e: Evidence) -> str | None:
    """A white-box attack finds other distances (by 2 %) when logits are multiplied by 100 and shifted by 50.

    Where their spread is below 1, they are multiplied until it is 100: the shift must not round them away. Not
    where factors of 0.99 to 1.01 change the distances half as much: any rounding leads such an attack elsewhere.
    Nor where attacks that do not depend on the scale come as near.
    """
    index = e.correct.nonzero()[: rows_at_once(e.net, e.x, most=PROBED), 0]
    if len(index) == 0:
        return None
    scaled = _scaled(e.net, e.x[index])
    for norm in NORMS:
        independent: list[str] = []
        for name in _nearest_first(e, norm, index):
            if e.attacks[name].settings.get("original"):  # AutoAttack's own cross-entropy: it does depend, as is known
                continue
            sums = partial(_with_both, e, e.attacks[name], norm, e.nearest(norm, independent))
            for points in (index[:GLANCE], index):  # of 22 networks of digits, few points differed by 0.25 % at most
                before, after, lost = sums(points, scaled)
                if lost == 0 and abs(after - before) <= HARDLY * before:
                    break
            change = _change(before, after, lost, index)
            if change > 1 and change > 2 * max(
                _change(*sums(index, _behind(e.net, factor, 0.0)), index) for factor in HARDLY_SCALED
            ):
                return f"{name} in {norm}: sum of distances {before:.3g} becomes {after:.3g}, {lost} points differ"
            independent.append(name)
    return None


def _nearest_first(e: Evidence, norm: Norm, index: Tensor) -> list[str]:
    """The white-box attacks, those first that come nearest most often."""
    names = sorted(e.with_gradient())
    nearest = e.nearest(norm, names)
    often = {name: int((e.arrays[f"upper_{norm}_{name}"] == nearest)[index].sum()) for name in names}
    return sorted(names, key=lambda name: -often[name])


def _change(before: float, after: float, lost: int, index: Tensor) -> float:
    """As a share of what is tolerated."""
    return max(lost / max(1, 0.02 * len(index)), abs(after - before) / max(0.02 * before, TINY))


def _with_both(
    e: Evidence, attack: Attack, norm: Norm, others: Tensor, index: Tensor, scaled: Net
) -> tuple[float, float, int]:
    """Sums of the distances that an attack finds with logits as they are and scaled, and how many it finds once.

    Each is that of the other attacks [N], where they come nearer.
    """
    reached = [attack(replace(e.query(norm, index), net=net)).upper for net in (e.net, scaled)]
    one, other = (torch.fmin(distances, others[index]) for distances in reached if distances is not None)
    both = one.isfinite() & other.isfinite()
    return float(one[both].sum()), float(other[both].sum()), int((one.isfinite() != other.isfinite()).sum())


@doubt
def batch_dependence(e: Evidence) -> str | None:
    """The logits of an image depend on the other images of its batch, or change from call to call."""
    asked = torch.cat([few := e.x[:PROBED:8], 0.25 + few / 2])  # grey ones: of others the extremes are 0 and 1 as well
    with torch.no_grad():
        together = e.net(torch.cat([e.x[:PROBED], asked]))[-len(asked) :]
        alone = torch.cat([e.net(image[None]) for image in asked])
    size = together.where(together.isfinite(), 0.0).abs().max().clamp_min(TINY)
    same = (together == alone) | (together.isnan() & alone.isnan())
    error = float((together - alone).where(~same, 0.0).abs().max() / size)
    return None if error <= 1e-3 else f"relative difference {error:.1g}"  # not finite: in one batch alone


@doubt
def returns_probabilities(e: Evidence) -> str | None:
    """The outputs are probabilities, or nearly: where they round to 0 or 1 gradients vanish and margins tie."""
    return probabilities(e.net, e.x[:PROBED]) or nearly_probabilities(e.net, e.x[:PROBED])


@doubt
def unbounded_attack(e: Evidence) -> str | None:
    """Gradient attacks without a radius find no adversarial example for more than 1 % of the correct points."""
    names = [name for name in e.with_gradient() if e.attacks[name].minimum_norm]
    if not names or not e.correct.any():
        return None
    share = max(float(e.nearest(norm, names)[e.correct].isinf().float().mean()) for norm in NORMS)
    return f"{share:.1%} of correct points" if share > 0.01 else None


@doubt
def radius_zero(e: Evidence) -> str | None:
    """With a radius of 0 robust accuracy is not clean accuracy: the network answers to one image in two ways."""
    with torch.no_grad():
        logits = Chunks(rows_at_once(e.net, e.x, gradients=False)).rows(e.net, e.x)
    moved = predicted_class(logits) != e.arrays["prediction"]
    for norm in NORMS:
        moved |= e.correct & (e.arrays[f"upper_{norm}"] <= 0)
    return f"{float(moved.float().mean()):.1%} of the points" if bool(moved.any()) else None


@doubt
def not_falling(e: Evidence) -> str | None:
    """On 64 points, PGD robust accuracy rises by more than 5 percentage points when the radius grows.

    The radii are 1, 2 and 4 times that of the suite, where the box has room for them. Steps are at most 1/40 of the
    box long: longer ones jump over whole regions of a class in tiny images, and end anywhere.
    """
    index = e.correct.nonzero()[: rows_at_once(e.net, e.x, most=PROBED), 0]
    x, y = e.x[index], e.y[index]
    for norm in NORMS:
        robust = [_pgd_accuracy(e.net, x, y, norm, factor * e.epsilon[norm]) for factor in (1, 2, 4)]
        if any(after > before + 0.05 for before, after in itertools.pairwise(robust)):
            return f"{norm}: robust accuracy " + ", ".join(f"{accuracy:.1%}" for accuracy in robust)
    return None


def _pgd_accuracy(net: Net, x: Tensor, y: Tensor, norm: Norm, epsilon: float) -> float:
    if len(x) == 0:
        return 0.0
    room = 1.0 if norm == "linf" else math.sqrt(x[0].numel())
    epsilon = min(epsilon, room)
    radius = x.new_full((len(x),), epsilon)
    steps = max(STEPS, math.ceil(2.5 * epsilon / (STRIDE * room)))
    delta = pgd(
        lambda image: -logit_margin(attached(net, image), y),
        x,
        torch.zeros_like(x),
        epsilon=radius,
        step=2.5 * radius / steps,
        steps=steps,
        norm=norm,
    )
    with torch.no_grad():
        return float((~changes_class(net(inside_box(x + delta, x)), y)).float().mean())


def _scaled(net: Net, x: Tensor) -> Net:
    """The network with larger logits, which the shift does not round away however small they are; none overflow."""
    with torch.no_grad():
        logits = net(x)
    finite = logits.isfinite()
    spread = logits.where(finite, -torch.inf).amax(1) - logits.where(finite, torch.inf).amin(1)
    most = 1e-2 * torch.finfo(logits.dtype).max / max(float(logits.where(finite, 0.0).abs().max()), TINY)
    factor = min(SCALE / min(max(float(spread.median()), TINY), 1.0), most)
    return _behind(net, factor, SHIFT)


def _behind(net: Net, factor: float, shift: float) -> Net:
    class Scaled(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return factor * z + shift

    return Net(net.normalise, net.body, nn.Sequential(net.head, Scaled()))
