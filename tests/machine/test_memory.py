"""Memory that runs out: the work goes on in smaller parts, and says so only when one row is too much."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.attacks.scan import ATTACKS, Attack
from marginbench.benchmarks.certificates import _bounds, crown
from marginbench.benchmarks.certificates.scan import CERTIFICATES, Certificate
from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.benchmarks.evaluation import own
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.machine.allocations import HIDDEN
from marginbench.benchmarks.machine.memory import Chunks
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.training.loop import train
from marginbench.methods import Net, Norm, NotApplicable, Radii, create

CPU = "[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU)])
def test_chunks_shrink_until_they_fit_and_cover_everything(error: RuntimeError) -> None:
    tried: list[int] = []

    def rows(part: slice) -> list[int]:
        tried.append(part.stop - part.start)
        if tried[-1] > 3:
            raise error
        return list(range(part.start, part.stop))

    chunks = Chunks(16)
    assert [*chain(*chunks.map(rows, 10))] == list(range(10))
    assert tried == [10, 5, 3, 3, 3, 1] and chunks.size == 3
    assert [*chain(*chunks.map(rows, 4))] == list(range(4)) and tried[6:] == [3, 1]  # it remembers
    assert chunks.map(rows, 0) == []


def test_other_errors_and_a_single_row_that_does_not_fit_are_raised() -> None:
    def fail(part: slice) -> None:
        raise torch.OutOfMemoryError(f"{part.stop - part.start} rows")

    def wrong(part: slice) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(torch.OutOfMemoryError, match=r"^1 rows"):
        Chunks(8).map(fail, 8)
    with pytest.raises(RuntimeError, match="shapes"):
        Chunks(8).map(wrong, 8)


def test_radii_do_not_change_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = make_net("cnn", 2, (1, 8, 8), 3, torch.tensor([0.4]), torch.tensor([0.3])).eval().decision_net()
    x = torch.rand(9, 1, 8, 8)
    label = net(x).argmax(1)
    q = a_query(net, x, label, "linf")
    whole = crown.crown(q).lower
    bound, most = _bounds.Bounds._margin, []

    def small(self: _bounds.Bounds, epsilon: Tensor, index: Tensor, method: _bounds.Bound) -> Tensor:
        if len(index) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        most.append(len(index))
        return bound(self, epsilon, index, method)

    monkeypatch.setattr(_bounds.Bounds, "_margin", small)
    parts = crown.crown(q).lower
    assert whole is not None and parts is not None
    assert max(most) == 2 and torch.allclose(whole, parts, rtol=1e-4) and (whole > 0).all()


def test_an_attack_that_needs_too_much_memory_gets_fewer_points(monkeypatch: pytest.MonkeyPatch) -> None:
    net = train(create("ce"), small_suite(), small_data(), 0).net
    settings = small_suite().evaluation.model_copy(update={"attacks": {"fmn": {}}, "certificates": {}})
    fmn, most = ATTACKS["fmn"], []

    def hungry(q: Query) -> Tensor:
        if len(q.x) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        most.append(len(q.x))
        return fmn.propose(q)

    monkeypatch.setitem(ATTACKS, "fmn", Attack("fmn", hungry))
    monkeypatch.setattr("marginbench.benchmarks.evaluation.evidence.DOUBTS", {})
    found = evaluate(net, lambda net, x, norm: NotApplicable("none"), small_data(), settings, "test")
    assert max(most) <= 10 and len(found.arrays["label"]) == min(settings.points, len(small_data().test))
    correct = found.arrays["label"] == found.arrays["prediction"]
    assert (found.arrays["upper_l2"][correct] > 0).all() and isinstance(net.head, nn.Linear)


def test_work_that_is_repeated_because_memory_ran_out_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = train(create("ce"), small_suite(), small_data(), 0).net
    changes: dict[str, Any] = {"attacks": {"fmn": {}}, "certificates": {"milp": {}}}
    settings = small_suite().evaluation.model_copy(update=changes)

    def solver(q: Query) -> Answer:
        return Answer(lower=torch.zeros(len(q.x)), upper=q.upper, solved=torch.ones(len(q.x)).bool())

    def hungry(net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        if len(x) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return NotApplicable("none")

    monkeypatch.setitem(CERTIFICATES, "milp", Certificate("milp", solver))
    monkeypatch.setattr("marginbench.benchmarks.evaluation.evidence.DOUBTS", {})
    whole, parts = (
        evaluate(net, certify, small_data(), settings, "test")
        for certify in (lambda net, x, norm: NotApplicable("none"), hungry)
    )
    correct = (parts.arrays["label"] == parts.arrays["prediction"]).sum()
    for norm in ("l2", "linf"):
        assert parts.estimators[f"milp_{norm}"]["points"] == parts.estimators[f"milp_{norm}"]["solved"] == correct > 10
        for key in ("forward", "backward"):
            assert parts.estimators[f"fmn_{norm}"][key] == whole.estimators[f"fmn_{norm}"][key] > 0
    assert parts.estimators["own_l2"] == {"not_applicable": "none"}


def test_the_own_certificate_gets_as_many_images_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some write out the rows of all hidden units: 400 MB an image. Twin: what takes them at once would be killed."""
    net = train(create("ce"), small_suite(), small_data(), 0).net
    settings = small_suite().evaluation.model_copy(update={"attacks": {}, "certificates": {}})
    monkeypatch.setattr("marginbench.benchmarks.evaluation.evidence.DOUBTS", {})
    largest: list[int] = []

    def rows(net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        largest.append(len(torch.zeros(len(x), 10**6)))
        return Radii(x.flatten(1).mean(1))

    def under(free: int) -> Any:
        monkeypatch.setattr(own, "available", lambda device: free)
        largest.clear()
        return evaluate(net, rows, small_data(), settings, "test")

    whole = under(10**10)
    assert max(largest) > 20
    parts = under(int(HIDDEN * 4e6 * 10))
    assert 2 <= max(largest) <= 10
    for norm in ("l2", "linf"):
        assert np.array_equal(parts.arrays[f"lower_{norm}_own"], whole.arrays[f"lower_{norm}_own"])
    assert under(10**6).estimators["own_l2"] == {
        "not_applicable": "needs at least 0.006 GB for one image; 0.001 GB are available (--memory)"
    }


def test_an_own_certificate_that_cannot_be_counted_is_asked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto-LiRPA makes tensors of its own type, which is not possible where tensors are counted."""
    net = train(create("ce"), small_suite(), small_data(), 0).net
    settings = small_suite().evaluation.model_copy(update={"attacks": {}, "certificates": {}})
    monkeypatch.setattr("marginbench.benchmarks.evaluation.evidence.DOUBTS", {})

    def shy(net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise RuntimeError("Creating a new Tensor subclass")
        return Radii(x.flatten(1).mean(1))

    assert "lower_l2_own" in evaluate(net, shy, small_data(), settings, "test").arrays

    def broken(net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        raise RuntimeError("wrong shapes")

    with pytest.raises(RuntimeError, match="wrong shapes"):
        evaluate(net, broken, small_data(), settings, "test")
