"""What an evaluation gives, and what all of them share: its costs, a frozen network, margins behind the last layer."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marginbench.benchmarks.evaluation.partial import Found, Partial
from marginbench.benchmarks.machine.deadline import Deadline
from marginbench.benchmarks.probes.scan import Probe, Subject
from marginbench.benchmarks.unchanged import NetworkState
from marginbench.methods import MarginbenchError, Net, logit_margin
from marginbench.methods.held import is_linear
from marginbench.methods.hooks import in_words
from marginbench.methods.maths.perturb import eval_mode


@dataclass(frozen=True)
class Evaluated:
    """Per-point arrays [N], what each estimator cost or why it was not applicable, and the doubts."""

    arrays: dict[str, np.ndarray]
    estimators: dict[str, dict[str, Any]]
    doubts: dict[str, str]  # name to what was seen
    explanations: dict[str, str]  # name to what the doubt means
    recalled: float = 0.0  # seconds that an earlier, interrupted call has spent on some of the estimators


@contextmanager
def frozen(net: Net) -> Iterator[None]:
    """A block with the network in eval mode and its parameters without gradients; afterwards it is as before."""
    free = [parameter for parameter in net.parameters() if parameter.requires_grad]
    with eval_mode(net):
        net.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in free:
                parameter.requires_grad_(True)


@dataclass
class Facts:
    estimators: dict[str, dict[str, Any]]
    deadline: Deadline
    recalled: float = 0.0  # seconds

    def add(self, name: str, **values: Any) -> None:
        entry = self.estimators.setdefault(name, {})
        for key, value in values.items():
            entry[key] = value if isinstance(value, str) else entry.get(key, 0) + value

    def merge(self, other: "Facts") -> None:
        self.recalled += other.recalled
        for name, values in other.estimators.items():
            self.add(name, **values)

    def ask(self, kept: Partial, name: str, where: str, device: torch.device, estimate: Callable[[], Found]) -> Found:
        """What was found before, under the key `where`, or is found now, if there is time left; and its cost."""
        found = kept.recall(where, device)
        if found is not None:
            self.recalled += found.facts.get("seconds", 0.0)
        else:
            self.deadline.check(f"before {name}")
            self.deadline.enter(f"in {name}")
            start = time.perf_counter()
            found = estimate()
            if "not_applicable" not in found.facts:  # a reason may be gone when the run is resumed
                found.facts["seconds"] = time.perf_counter() - start
                kept.keep(where, found)
        self.add(name, **found.facts)
        return found


def probed(
    key: str, probe: Probe, subject: Subject, known: Mapping[str, Tensor], facts: Facts, kept: Partial
) -> dict[str, Tensor]:
    """The arrays of a probe, found before or now.

    Raises:
        MarginbenchError: they are no tensors, one has the name of a known array, or the network is not as it was.
    """

    def measure() -> Found:
        network = NetworkState(subject.net)
        arrays: Any = probe.measure(subject)
        if not isinstance(arrays, dict) or not all(isinstance(array, Tensor) for array in arrays.values()):
            raise MarginbenchError(f"probe {key!r}: measure() gives {in_words(arrays)}; needed are tensors by name")
        if (part := network.differs_from(subject.net, subject.test.images(slice(1)))) is not None:
            raise MarginbenchError(f"probe {key!r} leaves the network with other {part}: work on a copy of it")
        return Found(arrays, {})

    measured = facts.ask(kept, key, key, subject.test.device, measure).arrays
    if taken := measured.keys() & known.keys():
        raise MarginbenchError(f"probe {key!r}: the array name {min(taken)!r} is taken: choose another")
    return measured


def output_margins(net: Net, y: Tensor, logits: Tensor, features: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Margins behind the last layer: no bound on the input margin, reported beside it.

    `output_margin` = z_y - max_{j != y} z_j. `feature_margin` = (z_y - z_m) / (|w_y - w_m| |phi|_max) with the
    runner-up m and the largest feature norm of the evaluated images (Weinstein et al., PMM, eq. 8). NaN where the
    logits decide nothing. There is none where the last layer only scales, as behind an ensemble: its features would be
    the logits.

    Args:
        features: gives those [N, d] of all images, for the longest of a part is another one. Not asked in vain.
    """
    rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1)  # where it is that of a NaN, so is the margin
    margins = {"output_margin": logit_margin(logits, y)}
    layer = net.decision_net()[-1]
    if is_linear(layer) and not _only_scales(layer.weight):
        with torch.no_grad():
            phi = features()
            scores = layer(phi)
            gap = (scores.gather(1, y[:, None]) - scores.gather(1, rival[:, None])).squeeze(1)
            between = (layer.weight[y] - layer.weight[rival]).norm(dim=1)
            margins["feature_margin"] = gap / (between * phi.norm(dim=1).max()).clamp_min(1e-30)
    return margins


def _only_scales(weight: Tensor) -> bool:
    rows, columns = weight.shape
    return rows == columns and torch.equal(weight, weight[0, 0] * torch.eye(rows).to(weight))
