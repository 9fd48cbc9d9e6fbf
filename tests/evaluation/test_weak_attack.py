"""Attacks that are too weak for what is reported are a doubt; the attacks of the suites are not."""

from typing import Any

import pytest
import torch
from evaluation_support import no_certificate
from torch import Tensor, nn

from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.attacks.ray import distance
from marginbench.benchmarks.attacks.scan import ATTACKS, Attack
from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.benchmarks.evaluation import weak_attack as module
from marginbench.benchmarks.evaluation.evaluated import Evaluated
from marginbench.benchmarks.evaluation.evidence import DOUBTS, Evidence, sample
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.benchmarks.training.loop import train
from marginbench.methods import Net, create


def with_attacks(net: Net, attacks: dict[str, Any]) -> Evaluated:
    settings = Evaluation(points=64, epsilon={"linf": 0.05, "l2": 0.25}, attacks=attacks, certificates={})
    return evaluate(net, no_certificate, small_data(), settings, "test")


@pytest.mark.parametrize("method", ["ce", "pgd_at", "ibp"])
def test_the_quick_attacks_are_strong_enough(method: str) -> None:
    net = train(create(method), small_suite(), small_data(), 0).net
    assert "weak_attack" not in with_attacks(net, PRESETS["quick"]).doubts


@pytest.mark.parametrize(
    "attacks",
    [
        {"fmn": {"steps": 2, "targets": 1, "starts": 0}},
        {"apgd": {"steps": 1}, "noise": {}},
    ],
)
def test_a_crippled_attack_is_weak(trained: Net, attacks: dict[str, Any]) -> None:
    seen = with_attacks(trained, attacks).doubts["weak_attack"]
    assert "shorter" in seen


def test_an_attack_that_stops_short_of_the_nearest_point(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points 10 % farther than those of FMN: nothing else would see it. 2 % are tolerated."""
    honest = ATTACKS["fmn"]
    for excess, weak in ((1.10, True), (1.02, False)):

        def longer(q: Query, *, excess: float = excess) -> Tensor:
            return (q.x + excess * (honest.propose(q) - q.x)).clamp(0, 1)

        # `tighten` would undo it: the distances themselves are stretched.
        monkeypatch.setitem(ATTACKS, "fmn", _Stretched("fmn", longer))
        result = with_attacks(trained, {"fmn": {}})
        assert ("weak_attack" in result.doubts) == weak, (excess, result.doubts)
        assert set(result.doubts) <= {"weak_attack"}
        monkeypatch.setitem(ATTACKS, "fmn", honest)


class _Stretched(Attack):
    """Distances as proposed, without the search on the ray."""

    def __call__(self, q: Query, **settings: Any) -> Any:
        point = self.propose(q, **settings)
        return Answer(upper=distance(point.double() - q.x.double(), q.norm), points=point)


def evidence(upper: Tensor) -> Evidence:
    count = len(upper)
    arrays = {"label": torch.zeros(count, dtype=torch.long), "prediction": torch.zeros(count, dtype=torch.long)}
    arrays |= {"upper_l2": upper, "upper_linf": upper}
    net = Net(nn.Identity(), nn.Flatten(), nn.Linear(4, 3))
    x = torch.rand(count, 1, 2, 2)
    return Evidence(net, x, arrays, {}, {}, {}, {"l2": 0.5, "linf": 0.5}, 3, no_certificate)


def test_what_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The middle, the mean and the robust accuracy at epsilon, each for itself; the sample is the same every time."""
    asked: list[Tensor] = []

    def stronger(factor: Tensor | float) -> None:
        def function(q: Query) -> Tensor:
            return q.x

        class Known(Attack):
            def __call__(self, q: Query, **settings: Any) -> Any:
                asked.append(q.x)
                return Answer(upper=torch.as_tensor(factor) * torch.ones(len(q.x)))

        monkeypatch.setattr(module, "STRONGEST", ((Known("known", function), {}),))
        monkeypatch.setattr(module, "EVEN_STRONGER", ())

    check = DOUBTS["weak_attack"]
    stronger(1.0)
    e = evidence(torch.ones(40))
    assert check(e) is None
    stronger(0.94)
    both = str(check(e)).replace("middle", "mean")  # equal but for rounding
    assert both == "mean distance in l2 6% shorter; mean distance in linf 6% shorter"
    assert len(asked[-1]) == 40 and torch.equal(asked[-1], asked[-3]), "the same points in each call"
    stronger(0.5)
    assert "robust accuracy at 0.5 in l2 100 points lower" in str(check(e))
    stronger(torch.inf)
    assert check(e) is None and check(evidence(torch.full((40,), torch.inf))) is None
    stronger(0.9)
    assert "100% shorter" in str(check(evidence(torch.full((40,), torch.inf))))
    assert check(evidence(torch.ones(0))) is None


def test_a_gap_between_two_distances_is_no_weakness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven points near, nine far: one that comes nearer moves the median by 23 %, and the middle by 3 %."""
    upper = torch.tensor([1.0] * 7 + [1.3] * 9)

    class OneNearer(Attack):
        def __call__(self, q: Query, **settings: Any) -> Any:
            far = (upper[sample(torch.ones(16, dtype=torch.bool), 16)] > 1).nonzero()[0]
            return Answer(upper=torch.full((16,), torch.inf).index_fill(0, far[0], 1.0))

    monkeypatch.setattr(module, "STRONGEST", ((OneNearer("known", lambda q: q.x), {}),))
    monkeypatch.setattr(module, "EVEN_STRONGER", ())
    assert DOUBTS["weak_attack"](evidence(upper)) is None


def test_points_in_the_middle_that_come_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean ratio falls by 4 %, the middle of the distances by 6 %."""

    class MiddleNearer(Attack):
        def __call__(self, q: Query, **settings: Any) -> Any:
            return Answer(upper=torch.where(known == 2, 1.88, torch.inf))

    upper = torch.tensor([1.0] * 3 + [2.0] * 10 + [9.0] * 3)
    known = upper[sample(torch.ones(16, dtype=torch.bool), 16)]
    monkeypatch.setattr(module, "STRONGEST", ((MiddleNearer("known", lambda q: q.x), {}),))
    monkeypatch.setattr(module, "EVEN_STRONGER", ())
    assert (
        DOUBTS["weak_attack"](evidence(upper)) == "middle distance in l2 6% shorter; middle distance in linf 6% shorter"
    )


@pytest.mark.parametrize(
    ("first", "further", "said"),
    [(0.995, 0.5, None), (0.97, 0.97, None), (0.97, 0.9, "mean distance in l2 10% shorter; mean distance in linf 10%")],
)
def test_more_points_and_attacks_decide_where_a_few_are_suspicious(
    first: float, further: float, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Known(Attack):
        def __call__(self, q: Query, **settings: Any) -> Any:
            asked.append(len(q.x))
            return Answer(upper=torch.full((len(q.x),), settings["distance"]))

    known = Known("known", lambda q: q.x)
    monkeypatch.setattr(module, "STRONGEST", ((known, {"distance": first}),))
    monkeypatch.setattr(module, "EVEN_STRONGER", ((known, {"distance": further}),))
    found = DOUBTS["weak_attack"](evidence(torch.ones(100)))
    assert found is None if said is None else str(found).startswith(said)
    assert set(asked) == ({module.SAMPLE} if first > 0.98 else {module.SAMPLE, module.MORE})


@pytest.mark.parametrize(("count", "lost", "weak"), [(16, 1, False), (16, 2, True), (64, 3, False), (64, 4, True)])
def test_one_point_is_never_enough(count: int, lost: int, weak: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are a little outside the ball at first, and a little inside it then. The others are far outside."""

    class Known(Attack):
        def __call__(self, q: Query, **settings: Any) -> Any:
            return Answer(upper=torch.where(upper[sample(torch.ones(count).bool(), len(q.x))] < 1, 0.5, torch.inf))

    upper = torch.full((count,), 9.0).index_fill(0, sample(torch.ones(count).bool(), lost), 0.51)
    monkeypatch.setattr(module, "SUSPICIOUS", -1.0)
    monkeypatch.setattr(module, "STRONGEST", ((Known("known", lambda q: q.x), {}),))
    monkeypatch.setattr(module, "EVEN_STRONGER", ())
    assert (DOUBTS["weak_attack"](evidence(upper)) is not None) == weak
