"""Fixture of the tests of the evaluation."""

import pytest

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.training.loop import train
from marginbench.methods import Net, create


@pytest.fixture(scope="module")
def trained() -> Net:
    return train(create("ce"), small_suite(), small_data(), 0).net
