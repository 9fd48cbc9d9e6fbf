"""Faults planted in attacks, certificates and the evaluation: the doctor must reject each."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from mutants import mutated
from torch import Tensor, nn

from marginbench.benchmarks.attacks import attack, deepfool, fmn, from_torchattacks, ray
from marginbench.benchmarks.attacks._wrap import isolated
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.certificates import _ball, _bounds, _box, _linear_rules, _trace
from marginbench.benchmarks.certificates._call import RULES
from marginbench.benchmarks.certificates._compat import load_auto_lirpa
from marginbench.benchmarks.certificates.scan import CERTIFICATES
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.benchmarks.evaluation import sandwich
from marginbench.benchmarks.evaluation.canaries import coloured, limited, linear
from marginbench.benchmarks.evaluation.conv_canaries import convolutions, pooled, residual
from marginbench.benchmarks.evaluation.doctor import examine_canaries
from marginbench.benchmarks.evaluation.strength import examine_starts
from marginbench.benchmarks.machine import seeds
from marginbench.methods.maths import lipschitz

CPU = torch.device("cpu")
Plant = Callable[[pytest.MonkeyPatch], None]


def attacking(name: str, change: Callable[[Any, Query], Tensor]) -> Plant:
    """The attack becomes change(attack, query)."""
    honest = ATTACKS[name]

    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setitem(ATTACKS, name, replace(honest, function=lambda q, **_: change(honest.propose, q)))

    return plant


def certifying(change: Callable[[Answer, Query], Any]) -> Plant:
    """What CROWN answers becomes change(answer, query)."""
    honest = CERTIFICATES["crown"]

    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setitem(CERTIFICATES, "crown", replace(honest, function=lambda q, **_: change(honest(q), q)))

    return plant


def twin(where: Any, function: str, old: str, new: str) -> Plant:
    """A function of a module with another expression."""
    return lambda patch: patch.setattr(where, function, mutated(getattr(where, function), old, new))


def forgotten_channels(patch: pytest.MonkeyPatch) -> None:
    honest = CERTIFICATES["lipschitz"]
    twin = replace(honest, function=mutated(honest.function, "q.x[0].numel()", "q.x[0, 0].numel()"))
    patch.setitem(CERTIFICATES, "lipschitz", twin)


def prepared(change: Callable[[nn.Module], None]) -> Plant:
    """The networks that CROWN bounds are changed."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        for name in ("fold_affine", "traceable"):
            honest = getattr(_trace, name)

            def made(net: nn.Module, *rest: Any, honest: Any = honest) -> Any:
                found = honest(net, *rest)
                if found is not None:
                    with torch.no_grad():
                        change(found)
                return found

            patch.setattr(_trace, name, made)

    return plant


def wrong_scale(net: nn.Module) -> None:
    first = next(net.parameters())
    first.mul_(0.5)


def folded_variance(patch: pytest.MonkeyPatch) -> None:
    """Batch norm is folded with another variance than the network's."""
    honest = _trace.fold_affine

    def fold(net: nn.Sequential, *rest: Any) -> Any:
        net = copy.deepcopy(net)
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_var is not None
                layer.running_var.mul_(1.5)
        return honest(net, *rest)

    patch.setattr(_trace, "fold_affine", fold)


def rewritten_variance(patch: pytest.MonkeyPatch) -> None:
    """Batch norm is rewritten with another variance."""
    honest = _linear_rules._batch_norm
    wrong = mutated(honest, "variance.double() + eps", "1.5 * variance.double() + eps")
    patch.setattr(_linear_rules, "_batch_norm", wrong)
    for name in [name for name, made in RULES.items() if made is honest]:
        patch.setitem(RULES, name, wrong)


def narrow_convolutions(patch: pytest.MonkeyPatch) -> None:
    """Intervals behind convolutions are 0.7 times as wide."""
    convolution = load_auto_lirpa().bound_ops.BoundConv
    honest = convolution.interval_propagate

    def narrow(self: Any, *inputs: Any, **rest: Any) -> Any:
        low, high = honest(self, *inputs, **rest)
        middle = (low + high) / 2
        return middle + 0.7 * (low - middle), middle + 0.7 * (high - middle)

    patch.setattr(convolution, "interval_propagate", narrow)


def weak_convolutions(patch: pytest.MonkeyPatch) -> None:
    """Coefficients that go back through convolutions lose a third."""
    convolution = load_auto_lirpa().bound_ops.BoundConv
    honest = convolution.bound_backward

    def weak(self: Any, lower: Any, upper: Any, *x: Any, **rest: Any) -> Any:
        coefficients, *biases = honest(self, lower, upper, *x, **rest)
        for a in coefficients[0]:
            if a is not None and hasattr(a, "patches"):
                a.patches = 0.7 * a.patches
            elif a is not None:
                a.mul_(0.7)
        return coefficients, *biases

    patch.setattr(convolution, "bound_backward", weak)


def without_box(patch: pytest.MonkeyPatch) -> None:
    """Neither the attack nor what judges it knows that pixels end at 0 and 1."""
    patch.setattr(ray, "inside_box", lambda candidate, x: candidate)
    patch.setattr(attack, "tighten", mutated(ray.tighten, ".clamp(0, 1)", ""))
    honest = deepfool.to_hyperplane

    def through(start: Tensor, *rest: Any) -> Any:
        return honest(0 * start + 0.5, *rest)

    patch.setattr(deepfool, "to_hyperplane", through)
    function = mutated(ATTACKS["deepfool"].function, "moved.clamp(0, 1)", "moved")
    patch.setitem(ATTACKS, "deepfool", replace(ATTACKS["deepfool"], function=function))


def in_half(net: nn.Module, points: Tensor, y: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        return net(points).float().argmax(1) != y


@dataclass(frozen=True)
class Mutant:
    plant: Plant
    canary: Callable[[], Any]
    attack: str = "deepfool"
    certificate: str = "lipschitz"
    verdict: str = "not a bound"


other = {"l2": "linf", "linf": "l2"}
MUTANTS = {
    "channels forgotten between norms": Mutant(forgotten_channels, lambda: coloured(0.25, 0.25, 0.25)),
    "the mean of a normalisation": Mutant(
        twin(lipschitz, "layer_bound", "layer.std.double().abs().min()", "layer.std.double().mean()"),
        lambda: coloured(0.2, 0.25, 0.4),
    ),
    "the sign of FMN's step": Mutant(
        twin(fmn, "ascent", "return gradient.sign()", "return -gradient.sign()"), linear, "fmn", verdict="within 2%"
    ),
    "the rivals are off by one": Mutant(
        twin(deepfool, "top_rivals", ".indices", ".indices.add(1) % others.shape[1]"), linear, verdict="within 2%"
    ),
    "gradients on the walls": Mutant(lambda patch: patch.setattr(ray, "HAIR", 0.0), limited, verdict="within 2%"),
    "gradients on the walls, for a library": Mutant(
        lambda patch: patch.setattr(ray, "HAIR", 0.0), limited, "apgd", verdict="finds"
    ),
    "limits to the box stay in certified networks": Mutant(
        lambda patch: [patch.delitem(_box.LIMITS, name) for name in [*_box.LIMITS]],
        limited,
        certificate="crown",
        verdict="should reach",
    ),
    "no clamp to the box": Mutant(without_box, convolutions),
    "candidates are not checked again": Mutant(
        lambda patch: patch.setattr(attack, "tighten", mutated(ray.tighten, "found &= ", "found |= True | ")),
        linear,
        "apgd",
    ),
    "distances of the wrong norm": Mutant(twin(ray, "distance", 'norm == "l2"', 'norm != "l2"'), linear),
    "the network is asked in half precision": Mutant(
        lambda patch: patch.setattr(ray, "is_adversarial", in_half), linear
    ),
    "APGD at half the radius": Mutant(
        attacking("apgd", lambda run, q: run(replace(q, epsilon=q.epsilon / 2))), linear, "apgd", verdict="finds"
    ),
    "the radius of the other norm": Mutant(
        attacking("apgd_ce", lambda run, q: run(replace(q, epsilon=residual().epsilon[other[q.norm]]))),
        residual,
        "apgd_ce",
        verdict="finds",
    ),
    "the norms of the library are swapped": Mutant(
        lambda patch: patch.setattr(from_torchattacks, "LIBRARY_NORM", {"l2": "Linf", "linf": "L2"}),
        residual,
        "apgd",
        verdict="finds",
    ),
    "Square does nothing": Mutant(
        attacking("square", lambda _, q: q.x.clone()), linear, "square", verdict="finds nothing"
    ),
    "a ball of 0.9 times the radius": Mutant(
        lambda patch: patch.setattr(_bounds, "ball", lambda lib, x, e, norm: _ball.ball(lib, x, 0.9 * e, norm)),
        linear,
        certificate="crown",
    ),
    "a wrong dual norm": Mutant(
        lambda patch: patch.setattr(
            _ball, "least_in_ball_and_box", lambda a, low, high, epsilon: -a.abs().amax(-1) * epsilon
        ),
        linear,
        certificate="crown",
    ),
    "a rival is left out": Mutant(
        twin(_bounds, "_rivals", "torch.arange(1, classes,", "torch.arange(2, classes,"),
        linear,
        certificate="crown",
    ),
    "narrow intervals of convolutions": Mutant(narrow_convolutions, pooled, certificate="ibp"),
    "weak coefficients of convolutions": Mutant(weak_convolutions, residual, certificate="crown"),
    "a wrong normalisation in the trace": Mutant(prepared(wrong_scale), residual, certificate="crown"),
    "a wrong normalisation in the fold": Mutant(prepared(wrong_scale), convolutions, certificate="crown"),
    "a wrong variance in the fold": Mutant(folded_variance, convolutions, certificate="crown"),
    "a wrong variance in the rewriting": Mutant(rewritten_variance, residual, certificate="crown"),
    "radii in normalised pixels": Mutant(
        certifying(lambda answer, _: 4 * answer.lower if answer.lower is not None else answer),
        residual,
        certificate="crown",
    ),
    "radii that are too short": Mutant(
        certifying(lambda answer, _: 0.7 * answer.lower if answer.lower is not None else answer),
        residual,
        certificate="crown",
        verdict="should reach",
    ),
    "a certificate that refuses": Mutant(
        certifying(lambda answer, _: Answer(reason="out of order")),
        pooled,
        certificate="crown",
        verdict="not applicable: out of order",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    mutant.plant(monkeypatch)
    results = examine_canaries(CPU, [mutant.canary], [mutant.attack], [mutant.certificate])
    verdicts = [r.verdict for r in results if r.estimator.endswith((mutant.attack, mutant.certificate))]
    refused = [v for v in verdicts if "not applicable" in v]  # a certificate may notice by itself
    assert refused or any(mutant.verdict in verdict for verdict in verdicts), verdicts


@pytest.mark.parametrize(
    ("kind", "best", "last"),
    [
        ("lower bound", "torch.maximum(lower, radius)", "radius"),
        ("upper bound", 'torch.fmin(upper, found["upper"])', 'found["upper"]'),
    ],
)
def test_the_last_estimator_in_the_place_of_the_best_is_named(
    kind: str, best: str, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> set[str]:
        results = examine_canaries(CPU, [linear], ["deepfool", "noise"], ["crown", "lipschitz"])
        return {result.verdict for result in results if result.estimator == kind}

    assert asked() == {"pass"}
    monkeypatch.setattr(sandwich._Enclosure, "_bounds", mutated(sandwich._Enclosure._bounds, best, last))
    assert "FAIL: not the best of all estimators" in asked()  # in one norm the last one may be the best


def test_without_a_fault_nothing_is_named() -> None:
    asked = {(mutant.attack, mutant.certificate): mutant.canary for mutant in MUTANTS.values()}
    for (attack_name, certificate), canary in asked.items():
        results = list(examine_canaries(CPU, [canary], [attack_name], [certificate]))
        assert [r for r in results if r.verdict != "pass" and attack_name in r.estimator] == []


def frozen_library(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(from_torchattacks, "isolated", lambda net, _: isolated(net, torch.Generator().manual_seed(0)))


def frozen_streams(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seeds, "derive_seed", lambda *names: 7)


def one_start(patch: pytest.MonkeyPatch) -> None:
    honest = ATTACKS["apgd"]
    patch.setitem(ATTACKS, "apgd", replace(honest, function=mutated(honest.function, "steps, restarts,", "steps, 1,")))


@pytest.mark.parametrize(
    ("plant", "where", "verdict"),
    [
        (frozen_library, "restarts: apgd", "two seeds give the same points"),
        (one_start, "restarts: apgd", "starts find"),
        (frozen_streams, "evaluation", "another seed gives the same distances"),
    ],
)
def test_frozen_seeds_are_seen(plant: Plant, where: str, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in ATTACKS if name not in ("apgd", "noise")]:
        monkeypatch.delitem(ATTACKS, name)
    assert all(result.verdict == "pass" for result in examine_starts(CPU))
    plant(monkeypatch)
    found = {result.estimator: result.verdict for result in examine_starts(CPU)}
    assert verdict in found[where]
