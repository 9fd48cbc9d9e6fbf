"""Carlini and Wagner: the search for the weight of the loss."""

import importlib

import pytest
from attack_support import found, images, predicted, random_net

from marginbench.methods import NORMS, Norm


@pytest.mark.parametrize("norm", NORMS)
def test_search_of_cw_goes_both_ways(norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    """From starts that are far too small or large, the search still comes to the same distances."""
    module = importlib.import_module("marginbench.benchmarks.attacks.cw")  # the package holds the function by this name
    net, x = random_net(10, classes=10), images(10, 40, 1.0)
    y = predicted(net, x)
    plain = found("cw", net, x, y, norm, searches=10)
    start = module._linear_start
    for factor in (0.2, 5.0):
        changed = lambda *a, factor=factor: (start(*a)[0], start(*a)[1] * factor, start(*a)[2])  # noqa: E731
        monkeypatch.setattr(module, "_linear_start", changed)
        other = found("cw", net, x, y, norm, searches=10)
        assert other.isfinite().all()
        assert other.mean() < 1.03 * plain.mean(), factor
