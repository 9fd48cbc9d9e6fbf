"""What a fresh network depends on: the same blueprint gives the same network, in training and when it is loaded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.training.applicable import building
from marginbench.benchmarks.training.untouched import untouched
from marginbench.methods import MarginbenchError, Method, Net, Norm, Task
from marginbench.methods.hooks import returned
from marginbench.methods.userfile import BUILT_IN


@dataclass(frozen=True)
class Blueprint:
    """All but the statistics of the pixels, which are buffers of the network."""

    method: Method
    network: Network
    task: Task
    stream: str  # seeds the weights, together with the repetition: they are the same for every method
    repetition: int
    checkpoint: Path | None = None  # where a pretrained network starts

    def build(self, mean: Tensor, std: Tensor, device: torch.device) -> Net:
        """The network with fresh weights, as the method builds it.

        Args:
            mean, std: [C] float32 statistics of the training pixels in [0, 1]; sentences have none.
        """
        architecture = self.network.architecture()
        with seeds.seeded(device, self.stream, "init", self.repetition):
            net = make_net(
                architecture,
                self.network.width,
                self.task.input_shape,
                self.task.num_classes,
                mean,
                std,
                self.checkpoint,
            )
            with building(architecture.text), untouched(self.method.build):
                built = returned(self.method.build, self.method.build(net, self.task), Net, "end it with `return net`")
            return built.to(device)


def task_of(
    method: Method,
    input_shape: tuple[int, int, int],
    class_counts: tuple[int, ...],
    epsilon: Mapping[Norm, float] | None,
) -> Task:
    """What a method is told: radii only where they belong to the identity of the training, see `needs_radii`."""
    return Task(input_shape, class_counts, _Undeclared(method) if epsilon is None else epsilon)


def needs_radii(method: Method) -> bool:
    """Whether other radii mean another training: built-in methods say so, and any other may read them."""
    return "epsilon" in method.info.needs or not type(method).__module__.startswith(BUILT_IN)


class _Undeclared(Mapping[Norm, float]):
    """In the place of radii that the identity of the training leaves out."""

    def __init__(self, method: Method) -> None:
        self._key = method.info.key

    def __getitem__(self, norm: Norm) -> NoReturn:
        raise MarginbenchError(
            f"method {self._key} reads task.epsilon: declare it in its Info, as in needs=frozenset({{'epsilon'}}), so"
            " that it is trained again for other radii"
        )

    def __iter__(self) -> Iterator[Norm]:
        return self["l2"]

    def __len__(self) -> int:
        return 0
