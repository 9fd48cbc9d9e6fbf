"""Bounds at the suite's radius alone: the certified accuracy of a search, in one pass, and a note in the tables."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from certificate_support import images, network, predicted
from made import EPSILON, a_record
from support import a_query
from torch import Tensor

from marginbench.benchmarks.certificates import _bounds, crown
from marginbench.benchmarks.certificates.scan import CERTIFICATES
from marginbench.benchmarks.records.record import Record, SuiteFacts
from marginbench.benchmarks.tables.render import render
from marginbench.methods import NORMS, MarginbenchError


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("prove", [crown.ibp, crown.crown_ibp, crown.crown, crown.alpha_crown])
def test_certified_accuracy_is_that_of_a_search(norm: Any, kind: str, prove: Any) -> None:
    net, x = network(kind, 1), images(24)
    y = predicted(net, x)
    y[0] = (y[0] + 1) % 5
    found = prove(a_query(net, x, y, norm), rounds=30, tolerance=1e-4).lower
    epsilon = float(found[found > 0].median()) * 1.01
    once = prove(a_query(net, x, y, norm, epsilon=epsilon), at="epsilon").lower
    assert torch.equal(once >= epsilon, found >= epsilon) and 0 < (once > 0).sum() < 23
    assert once[once > 0].unique().tolist() == [pytest.approx(epsilon)] and once[0] == 0
    assert (once <= found * (1 + 1e-6)).all() and once.mean() < found.mean()


def test_every_image_is_bounded_once() -> None:
    net, x = network("cnn", 1), images(9)
    calls: list[Tensor] = []
    query = a_query(net, x, predicted(net, x), "linf", epsilon=1e-3)
    search = _bounds.Search(
        "CROWN", at="epsilon", watch=lambda bound, index: calls.append(index) if bound == "CROWN" else None
    )
    assert isinstance(crown.certified_radius(query, search), Tensor)
    assert [call.tolist() for call in calls] == [[*range(9)]]


def test_the_ball_is_a_little_wider_than_the_radius() -> None:
    """As after a search: the edges of a float32 box are rounded. Twin: a bound that holds up to epsilon alone."""
    net, x = network("cnn", 1), images(9)
    query = a_query(net, x, predicted(net, x), "linf", epsilon=0.01)

    def found(least: Callable[[Tensor], Tensor]) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_bounds.Bounds, "margin", lambda self, epsilon, index, bound: least(epsilon))
            patch.setattr(crown, "check_at_images", lambda *_: 0.0)
            patch.setattr(crown, "check_in_balls", lambda *_: None)
            return crown.crown(query, at="epsilon").lower

    assert (found(lambda epsilon: 0.01 - epsilon) == 0).all()
    assert (found(lambda epsilon: 0.01 + 3e-6 - epsilon) > 0).all()


def test_the_setting_is_checked() -> None:
    assert CERTIFICATES["crown"].settings["at"] == "search"
    with pytest.raises(MarginbenchError, match=r"crown\.at='radius'"):
        CERTIFICATES["crown"].configured({"at": "radius"})


@pytest.mark.parametrize(("table", "noted"), [({"crown": {"at": "epsilon"}, "ibp": {}}, True), ({"crown": {}}, False)])
def test_tables_do_not_call_it_the_mean_certified_radius(table: dict[str, Any], noted: bool) -> None:
    record = at_epsilon(a_record("ce"), table)
    assert record.at_epsilon == ["crown"] * noted
    page = render([record], "md")
    assert ("crown: asked at the suite's radii alone." in page) == noted


def at_epsilon(record: Record, table: dict[str, Any]) -> Record:
    settings = {"name": "toy", "title": "toy", "evaluation": {"epsilon": EPSILON, "certificates": table}}
    return Record(**{**vars(record), "suite": SuiteFacts.of(settings)})
