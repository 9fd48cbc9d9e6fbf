"""A network that a suite names like the built-in ones, given with --plugin: network = { name = "wide_and_flat" }."""

from math import prod

from torch import nn

from marginbench.benchmarks import network


@network("wide_and_flat", width=32)
def wide_and_flat(shape: tuple[int, int, int], width: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), width), nn.ReLU())
