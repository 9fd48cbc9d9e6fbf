"""Checks on whole runs and on the network that comes out."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from marginbench.benchmarks.attacks.deepfool import deepfool
from marginbench.benchmarks.attacks.fmn import fmn
from marginbench.benchmarks.attacks.ray import attached
from marginbench.benchmarks.contract.field_check import fields_matter
from marginbench.benchmarks.contract.fixtures import (
    CLASSES,
    CheckFailedError,
    NotTestedError,
    require,
    small_data,
    small_suite,
    step,
)
from marginbench.benchmarks.contract.label_check import forward_ignores_labels
from marginbench.benchmarks.contract.process_check import nothing_kept
from marginbench.benchmarks.contract.replay_check import replays
from marginbench.benchmarks.estimator import Query, ask
from marginbench.benchmarks.evaluation.recheck import ABSOLUTE, RELATIVE
from marginbench.benchmarks.training.kept import pack, unpack
from marginbench.benchmarks.training.loop import Trained, train
from marginbench.benchmarks.training.run import Run
from marginbench.methods import NORMS, MarginbenchError, Method, Norm, logit_margin, predicted_class
from marginbench.methods.errors import one_line
from marginbench.methods.words import counted

EPOCHS = 40  # of 64 images in batches of 32
FITS = 0.9  # training accuracy


def same_seed_same_weights(method: Method) -> None:
    """Two runs with one seed give the same weights, whatever the state of the global generators."""
    nets = []
    for noise in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise)
            nets.append(train(method, small_suite(epochs=3), small_data(), repetition=0).net)
    for (name, a), (_, b) in zip(nets[0].state_dict().items(), nets[1].state_dict().items(), strict=True):
        require(torch.equal(a, b), f"{name} differs between two runs with the same seed")


def checkpoint_changes_nothing(method: Method) -> None:
    """State saved in the middle and loaded into a fresh run continues as if nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        through = Run(method, small_suite(epochs=4), small_data(), repetition=0)
        state = None
        for done in range(6):
            if done == 3:
                state = copy.deepcopy(through.state_dict())
            step(through)
        resumed = Run(method, small_suite(epochs=4), small_data(), repetition=0)
        assert state is not None
        resumed.load_state_dict(state)
        for _ in range(3):
            step(resumed)
    for (name, a), (_, b) in zip(through.net.state_dict().items(), resumed.net.state_dict().items(), strict=True):
        require(torch.equal(a, b), f"{name} differs after a checkpoint: keep state in buffers or ctx.table")


def network_reloads(method: Method) -> None:
    """The trained network comes back from its file with the same logits, to the bit."""
    trained, x = _trained(method), small_data().test.images(slice(None))
    try:
        again = unpack(pack(trained.net), trained.blueprint, x.device)
    except MarginbenchError as error:
        raise CheckFailedError(str(error)) from None
    with torch.no_grad():
        same = torch.equal(trained.net(x), again(x))
    require(same, "a network that was saved and loaded gives other logits: keep all state in parameters and buffers")


def forward_gives_logits(method: Method) -> None:
    """net(x) gives [B, K] logits, not probabilities; in eval mode it is deterministic and image by image."""
    net, x = _trained(method).net, small_data().test.images(slice(16))
    with torch.no_grad():
        z = net(x)
        require(z.shape == (16, CLASSES) and bool(z.isfinite().all()), f"net(x) is {tuple(z.shape)} or not finite")
        simplex = bool((z >= 0).all()) and torch.allclose(z.sum(1), torch.ones(16), atol=1e-3)
        require(not simplex, "net(x) gives probabilities: it must give logits")
        require(torch.equal(z, net(x)), "net(x) differs from call to call in eval mode")
        alone = torch.cat([net(image[None]) for image in x])
        require(torch.allclose(z, alone, rtol=1e-3, atol=1e-4), "net(x) depends on the other images of the batch")


def decision_net_agrees(method: Method) -> None:
    """net.decision_net() has the same logit gaps as the network, up to a positive factor per image."""
    net, x = _trained(method).net, small_data().test.images(slice(16))
    with torch.no_grad():
        gaps, scores = (z - z.mean(1, keepdim=True) for z in (net(x), net.decision_net()(x)))
    cosine = torch.nn.functional.cosine_similarity(gaps.double(), scores.double())
    require(bool((cosine > 1 - 1e-5).all()), f"smallest cosine with the logits' gaps {float(cosine.min()):.4f}")


def learns(method: Method) -> str:
    """It fits 64 easy examples, or as many of them as its Info.underfit says; given longer if it needs to."""
    epochs, accuracy = _training(method).epochs, _training(method).accuracy
    reached = (
        f"training accuracy {accuracy:.0%} on {len(small_data().train)} easy examples after {counted(epochs, 'epoch')}"
    )
    underfit = method.info.underfit
    if underfit is None:
        advice = "does it minimise its loss? Where the objective does not let it, say so in Info.underfit"
        require(accuracy >= FITS, f"{reached}: {advice}")
        return reached if epochs > EPOCHS else ""
    require(2 / CLASSES <= underfit.accuracy < FITS, f"Info.underfit: {underfit.accuracy} is no share to declare")
    require(accuracy >= underfit.accuracy, f"{reached}, less than the {underfit.accuracy:.0%} of Info.underfit")
    require(accuracy < FITS, f"{reached}: Info.underfit is not needed")
    return f"{reached}: {underfit.reason}"


def attackable(method: Method) -> None:
    """At nearly every correct point there is a gradient, and gradient attacks find an adversarial example."""
    for norm in NORMS:
        x, upper = _distances(method, norm)
        share = float(upper.isfinite().float().mean())
        require(share >= 0.95, f"{norm}: gradient attacks succeed on {share:.0%} of the correct points")
    net, x = _trained(method).net, x.clone().requires_grad_()
    with torch.enable_grad():
        logits = attached(net, x)
        (slope,) = torch.autograd.grad(logit_margin(logits, predicted_class(logits)).sum(), x)
    share = float((slope.flatten(1).abs().amax(1) > 0).float().mean())
    require(share >= 0.95, f"the logits have a gradient at {share:.0%} of the correct points: it is masked")


def certificate_sound(method: Method) -> None:
    """No attack finds an adversarial example within a certified radius, and no radius is NaN or negative.

    Asked about the network in float64, as an evaluation does for some of the images, the certificate holds too.
    """
    net = _trained(method).net
    reasons: dict[Norm, str] = {}
    for norm in NORMS:
        x, upper = _distances(method, norm)
        answer = ask(method.certify, net, x, norm)
        if answer.lower is None:
            reasons[norm] = answer.reason
            continue
        radius = answer.lower
        require(radius.shape == upper.shape, f"{norm}: radius has shape {tuple(radius.shape)}, needed [B]")
        require(not bool(radius.isnan().any()) and bool((radius >= 0).all()), f"{norm}: NaN or negative radius")
        broken = int((radius > upper).sum())
        require(not broken, f"{norm}: {broken} adversarial examples lie within the certified radius")
        _confirm(method, x, norm, radius)
    if len(reasons) == len(NORMS):
        alike = len(set(reasons.values())) == 1
        told = [f"{norm}: {reason}" for norm, reason in reasons.items()]
        raise NotTestedError(answer.reason if alike else "; ".join(told))


def _confirm(method: Method, x: Tensor, norm: Norm, radius: Tensor) -> None:
    """The radii [B] of images x, once more in float64."""
    precise = copy.deepcopy(_trained(method).net).double()
    hint = f"{norm}: certify is also asked about the network and images in float64, to see what rounding does, and"
    try:
        again = ask(method.certify, precise, x.double(), norm).lower
    except Exception as error:  # the method under test may raise anything
        raise CheckFailedError(f"{hint} raised {one_line(error)}: create tensors with the dtype of x") from None
    require(again is not None, f"{hint} does not apply there")
    assert again is not None
    short = int((~(again >= radius * (1 - RELATIVE) - ABSOLUTE)).sum())
    require(not short, f"{hint} does not confirm {short} of {len(x)} radii there")


@dataclass(frozen=True)
class _Training:
    trained: Trained
    epochs: int
    accuracy: float  # on the training images


@lru_cache(maxsize=2)
def _training(method: Method) -> _Training:
    """Trained in EPOCHS, or four times as long if it does not fit the training images before."""
    first = _train(method, EPOCHS)
    return first if first.accuracy >= FITS else _train(method, 4 * EPOCHS)


def _train(method: Method, epochs: int) -> _Training:
    split = small_data().train
    trained = train(method, small_suite(epochs), small_data(), repetition=0)
    with torch.no_grad():
        right = trained.net(split.images(slice(None))).argmax(1) == split.y
    return _Training(trained, epochs, float(right.float().mean()))


def _trained(method: Method) -> Trained:
    return _training(method).trained


@lru_cache(maxsize=4)
def _distances(method: Method, norm: Norm) -> tuple[Tensor, Tensor]:
    """Correctly classified test images and the distance of their nearest adversarial example."""
    net, test = _trained(method).net.requires_grad_(False), small_data().test
    x, y = test.images(slice(None)), test.y
    with torch.no_grad():
        correct = predicted_class(net(x)) == y
    x, y = x[correct], y[correct]
    require(len(x) >= 16, f"only {len(x)} of 64 test points are classified correctly")
    upper = torch.full((len(x),), torch.inf)
    for attack in (deepfool, fmn):
        distance = attack(Query(net, x, y, norm, 0.1, x, torch.Generator().manual_seed(0))).upper
        assert distance is not None
        upper = torch.minimum(upper, distance)
    return x, upper


CHECKS: tuple[Callable[[Method], str | None], ...] = (
    same_seed_same_weights,
    nothing_kept,
    checkpoint_changes_nothing,
    replays,
    network_reloads,
    forward_gives_logits,
    forward_ignores_labels,
    decision_net_agrees,
    learns,
    fields_matter,
    attackable,
    certificate_sound,
)
