"""Certified radii are computed again in float64, and what that does not confirm is a doubt."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import a_query
from torch import Tensor

from marginbench.benchmarks.certificates.crown import crown
from marginbench.benchmarks.certificates.scan import CERTIFICATES, Certificate
from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.benchmarks.evaluation.evaluated import Evaluated
from marginbench.benchmarks.evaluation.evidence import Evidence
from marginbench.benchmarks.evaluation.recheck import FEW, LEAST, recheck
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.benchmarks.training.loop import train
from marginbench.methods import Net, Norm, NotApplicable, Radii, create

SETTINGS = Evaluation(
    points=64,
    epsilon={"linf": 0.05, "l2": 0.25},
    attacks={"fmn": {}},
    certificates={"crown": {}, "ibp": {}, "lipschitz": {}, "alpha_crown": {"iterations": 2}},
)


@pytest.fixture(scope="module")
def trained() -> Net:
    return train(create("ce"), small_suite(), small_data(), 0).net


def none(net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
    return NotApplicable("none")


def evaluated(net: Net, certify: Any = none) -> Evaluated:
    return evaluate(net, certify, small_data(), SETTINGS, "test")


def test_float64_confirms_every_certificate_of_a_trained_network(trained: Net) -> None:
    found = evaluated(trained)
    assert all((found.arrays[f"lower_{norm}_{name}"] > 0).any() for norm in ("l2", "linf") for name in CERTIFIED)
    assert "not_confirmed" not in found.doubts


CERTIFIED = ("crown", "ibp", "lipschitz", "alpha_crown")


@pytest.mark.parametrize("name", CERTIFIED)
def test_a_certificate_that_is_too_large_is_not_confirmed(
    trained: Net, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrong radii of the search stay below the distances of attacks: nothing else would see them."""
    honest = CERTIFICATES[name]

    def stretched(q: Query, *, iterations: int = 2) -> Tensor | Answer:
        found = honest(q, **({"iterations": iterations} if "iterations" in honest.settings else {}))
        exempt = q.x.dtype == torch.float64 if name == "lipschitz" else q.at is not None
        return found if found.lower is None or exempt else 1.05 * found.lower

    monkeypatch.setitem(CERTIFICATES, name, Certificate(name, stretched))
    found = evaluated(trained)
    assert f"{name} in l2: " in found.doubts["not_confirmed"] and "contradiction" not in found.doubts


@pytest.mark.parametrize(("float64", "points"), [(False, LEAST), (True, FEW)])
@pytest.mark.parametrize("share", [1.0, 0.9])
def test_a_certificate_that_is_cut_off_at_known_distances_is_not_confirmed(
    trained: Net, share: float, float64: bool, points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where attacks have come less near it goes beyond: no claimed radius contradicts them."""

    def cut(q: Query, *, iterations: int = 2) -> Tensor:
        assert q.upper is not None
        return (share * q.upper).clamp_max(9.0)

    monkeypatch.setitem(CERTIFICATES, "ibp", Certificate("ibp", cut, float64=float64))
    doubts = evaluated(trained).doubts
    assert f"ibp in l2: {points} of {points} points, beyond an adversarial example" in doubts["not_confirmed"]
    assert "contradiction" not in doubts


def own(in_float64: Callable[[Tensor], Radii | NotApplicable]) -> Any:
    """A certificate of 0.001 pixels in float32, and something else in float64."""
    return lambda net, x, norm: (
        Radii(torch.full((len(x),), 1e-3)) if x.dtype == torch.float32 else in_float64(x.new_full((len(x),), 1e-3))
    )


def test_the_networks_own_certificate_is_confirmed_too(trained: Net) -> None:
    def fail(r: Tensor) -> Radii:
        raise TypeError("expected float32\nfound float64")

    assert "not_confirmed" not in evaluated(trained, own(Radii)).doubts
    assert "not_confirmed" not in evaluated(trained, own(lambda r: Radii(r - 1e-5))).doubts, "resolution of a search"
    for certificate, seen in (
        (own(lambda r: Radii(0.98 * r)), f"own in l2: {LEAST} of {LEAST} points"),
        (own(lambda r: Radii(r * torch.nan)), f"own in linf: {LEAST} of {LEAST} points"),
    ):
        assert seen in evaluated(trained, certificate).doubts["not_confirmed"]
    for certificate, reason in (
        (own(lambda r: NotApplicable("only float32")), "only float32"),
        (own(fail), "TypeError: expected float32"),
    ):
        found = evaluated(trained, certificate)
        assert "not_confirmed" not in found.doubts and found.estimators["own_l2"]["unchecked"] == reason


def test_what_a_batch_misses_is_tried_alone(trained: Net) -> None:
    """Bounds may depend on the images beside an image; one that holds is a proof."""

    def certificate(first: float) -> Any:
        def certify(net: Net, x: Tensor, norm: Norm) -> Radii:
            radius = x.new_full((len(x),), 1e-3)
            if x.dtype == torch.float64 and len(x) > 1:
                radius[:2] = 0.0
            elif x.dtype == torch.float64:
                radius[:] = first
            return Radii(radius)

        return certify

    assert "not_confirmed" not in evaluated(trained, certificate(1e-3)).doubts
    assert f"own in l2: 2 of {LEAST} points" in evaluated(trained, certificate(9e-4)).doubts["not_confirmed"]


@pytest.mark.parametrize(("certified", "asked"), [(801, 41), (100, 16), (9, 9)])
def test_a_twentieth_of_the_points_and_sixteen_at_least_are_asked(trained: Net, certified: int, asked: int) -> None:
    seen: list[int] = []

    def certify(net: Net, x: Tensor, norm: Norm) -> Radii:
        seen.append(len(x))
        return Radii(torch.ones(len(x)))

    arrays = {"label": torch.zeros(1000, dtype=torch.long), "lower_l2_own": (torch.arange(1000) < certified).float()}
    arrays["upper_l2"] = torch.full((1000,), torch.inf)
    x = torch.zeros(1000, 1, 4, 4)
    assert recheck(Evidence(trained, x, arrays, {}, {}, {}, SETTINGS.epsilon, 2, certify)) == {}
    assert seen == [asked]


def test_a_twentieth_of_the_points_is_taken_at_random(trained: Net) -> None:
    seen: list[Tensor] = []

    def certify(net: Net, x: Tensor, norm: Norm) -> Radii:
        assert x.dtype == torch.float64 and next(net.parameters()).dtype == torch.float64
        seen.append(x)
        return Radii(torch.ones(len(x)))

    x = torch.arange(1000.0).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    arrays = {"label": torch.zeros(1000, dtype=torch.long), "lower_l2_own": (torch.arange(1000) >= 200).float()}
    arrays["upper_l2"] = torch.full((1000,), torch.inf)
    evidence = Evidence(trained, x, arrays, {}, {}, {}, SETTINGS.epsilon, 2, certify)
    assert recheck(evidence) == {}
    (points,) = (x[:, 0, 0, 0] for x in seen)
    assert len(points.unique()) == 40 and points.min() >= 200
    assert points.min() < 300 and points.max() > 900 and not torch.equal(points, points.sort()[0])
    assert next(trained.parameters()).dtype == torch.float32


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_radius_is_checked_instead_of_searched(trained: Net, norm: Norm) -> None:
    net = trained.double().decision_net()
    x, y = small_data().test.images(slice(20)).double(), small_data().test.y[:20]
    q = a_query(net, x, y, norm)
    largest = crown(q, tolerance=1e-4, rounds=30).lower
    assert largest is not None and (largest > 0).sum() > 10
    holds, fails = (crown(replace(q, at=factor * largest)).lower for factor in (1.0, 1.01))
    trained.float()
    assert holds is not None and torch.equal(holds, largest)
    assert fails is not None and (fails == 0).all()
