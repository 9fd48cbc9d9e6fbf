"""The margin sandwich: per test point and norm, certified radius <= margin <= nearest adversarial example found.

A margin is the distance, in pixels of [0, 1], from an image to the nearest image in the box that the network
does not assign to the true class. A misclassified point has margin 0. Nothing here asks which method made the network.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks.presets import upper_bound
from marginbench.benchmarks.certificates.listed import CERTIFICATES, Certify, Exact
from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.evaluation import doubts
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.deadline import Deadline
from marginbench.benchmarks.machine.device import no_tf32
from marginbench.benchmarks.machine.memory import ROWS, Chunks
from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.probes.clever import clever_arrays
from marginbench.benchmarks.probes.rejection import rejection_arrays
from marginbench.benchmarks.probes.smoothing import smoothing_arrays
from marginbench.benchmarks.suites.schema import Evaluation
from marginbench.methods import NORMS, Net, NotApplicable, Radii, logit_margin

REFERENCES = 2000  # training images that the blend attack may walk towards


@dataclass(frozen=True)
class Evaluated:
    """Per-point arrays [N], what each estimator cost or why it was not applicable, and the doubts."""

    arrays: dict[str, np.ndarray]
    estimators: dict[str, dict[str, Any]]
    doubts: dict[str, str]


@no_tf32()
def evaluate(
    net: Net,
    certify: Certify,
    data: Dataset,
    settings: Evaluation,
    *names: str | int,
    deadline: Deadline | None = None,
) -> Evaluated:
    """Enclose the margin of each of the first `settings.points` test images, in L2 and L-infinity.

    Without TF32: attacks and certificates must see the same logits, or they contradict each other near the boundary.

    Args:
        net: network in eval mode, images in [0, 1] to logits.
        certify: the network's own certificate.
        data: its test split is evaluated; its training images are targets of the blend attack.
        settings: radii, attacks and certificates.
        names: what the randomness of the attacks is seeded from.
        deadline: asked before each estimator.

    Raises:
        DeadlineError: it took too long.
    """
    net = net.eval().requires_grad_(False)
    total = min(settings.points, len(data.test))
    reference = data.train.images(slice(REFERENCES))
    facts = _Facts({}, deadline or Deadline())

    def enclose(part: slice) -> tuple[dict[str, Tensor], _Facts]:
        x, y = data.test.images(part), data.test.y[part]
        stream = seeds.generator(x.device, "attacks", *names, part.start)
        cost = _Facts({}, facts.deadline)  # of this attempt: one that memory stops counts for nothing
        return _sandwich(net, certify, x, y, settings, reference, stream, cost), cost

    chunks, costs = zip(*Chunks(ROWS).map(enclose, total), strict=True)
    columns = dict.fromkeys(key for chunk in chunks for key in chunk)
    # a chunk without correct points has no certificates
    tensors = {key: torch.cat([chunk.get(key, chunk["upper_l2"]) for chunk in chunks]) for key in columns}
    for cost in costs:
        facts.merge(cost)
    images = data.test.images(slice(total))
    test = replace(data.test, x=data.test.x[:total], y=data.test.y[:total])
    if settings.rejection is not None:
        with facts.timed("rejection"):
            stream = seeds.generator(images.device, "rejection", *names)
            options = settings.rejection.model_dump()
            tensors |= rejection_arrays(net, test, data.validation, settings.epsilon, stream, **options)
    if settings.smoothing is not None:
        with facts.timed("smoothing"):
            seed = seeds.derive_seed("smoothing", *names)
            tensors |= smoothing_arrays(net, test, seed, **settings.smoothing.model_dump())
    if settings.clever is not None:
        with facts.timed("clever"):
            stream = seeds.generator(images.device, "clever", *names)
            tensors |= clever_arrays(net, test, generator=stream, **settings.clever.model_dump())
    evidence = doubts.Evidence(net, images, tensors, facts.estimators, settings, data.num_classes, certify)
    with facts.timed("doubts"):
        found = doubts.collect(evidence)
    arrays = {key: tensor.cpu().numpy() for key, tensor in tensors.items()}
    return Evaluated(arrays, facts.estimators, found)


@dataclass
class _Facts:
    estimators: dict[str, dict[str, Any]]
    deadline: Deadline

    def begin(self, name: str) -> float:
        """The time, if there is any left."""
        self.deadline.check(f"before {name}")
        return time.perf_counter()

    def add(self, name: str, **values: Any) -> None:
        entry = self.estimators.setdefault(name, {})
        for key, value in values.items():
            entry[key] = value if isinstance(value, str) else entry.get(key, 0) + value

    def merge(self, other: "_Facts") -> None:
        for name, values in other.estimators.items():
            self.add(name, **values)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = self.begin(name)
        yield
        self.add(name, seconds=time.perf_counter() - start)


def _sandwich(
    net: Net,
    certify: Certify,
    x: Tensor,
    y: Tensor,
    settings: Evaluation,
    reference: Tensor,
    stream: torch.Generator,
    facts: _Facts,
) -> dict[str, Tensor]:
    with torch.no_grad():
        logits = net(x)
    prediction = logits.argmax(1)
    correct = prediction == y
    out = {"label": y, "prediction": prediction, **output_margins(net, x, y, logits)}
    x, y = x[correct], y[correct]

    def spread(values: Tensor) -> Tensor:
        full = torch.zeros(len(correct), device=values.device)
        full[correct] = values.float()
        return full

    for norm in NORMS:
        upper = torch.full((len(x),), torch.inf, device=x.device)
        for name, options in settings.attacks.items():
            with PassCounter(net) as passes:
                start = facts.begin(f"{name}_{norm}")
                common = {"epsilon": settings.epsilon[norm], "reference": reference, "generator": stream}
                distance = upper_bound(name, net, x, y, norm, **common, **options)
                seconds = time.perf_counter() - start
            facts.add(f"{name}_{norm}", forward=passes.forward, backward=passes.backward, seconds=seconds)
            out[f"upper_{norm}_{name}"] = spread(distance)
            upper = torch.minimum(upper, distance)
        lower = torch.zeros_like(upper)
        for name, options in settings.certificates.items() if len(x) else ():
            start = facts.begin(f"{name}_{norm}")
            found = CERTIFICATES[name](net.decision_net(), x, y, norm, upper=upper, **options)
            radius = found.lower if isinstance(found, Exact) else found
            lower = torch.maximum(lower, _record(radius, f"{name}_{norm}", start, facts, out, spread))
            if isinstance(found, Exact):
                facts.add(f"{name}_{norm}", points=len(x), solved=int(found.solved.sum()))
                out[f"upper_{norm}_{name}"] = spread(found.upper)
                upper = torch.minimum(upper, found.upper)
        if len(x):
            start = facts.begin(f"own_{norm}")
            own = certify(net, x, norm)
            radius = own.radius if isinstance(own, Radii) else own
            lower = torch.maximum(lower, _record(radius, f"own_{norm}", start, facts, out, spread))
        out[f"upper_{norm}"], out[f"lower_{norm}"] = spread(upper), spread(lower)
    return out


def _record(
    radius: Tensor | NotApplicable,
    name: str,
    start: float,
    facts: _Facts,
    out: dict[str, Tensor],
    spread: Callable[[Tensor], Tensor],
) -> Tensor:
    if isinstance(radius, NotApplicable):
        facts.add(name, not_applicable=radius.reason)
        return torch.zeros(())
    facts.add(name, seconds=time.perf_counter() - start)
    radius = radius.float().nan_to_num(nan=0.0, posinf=torch.inf).clamp_min(0)  # NaN certifies nothing
    estimator, norm = name.rsplit("_", 1)
    out[f"lower_{norm}_{estimator}"] = spread(radius)
    return radius


def output_margins(net: Net, x: Tensor, y: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """Margins behind the last layer: no bound on the input margin, reported beside it.

    `output_margin` = z_y - max_{j != y} z_j. `feature_margin` = (z_y - z_m) / (|w_y - w_m| |phi|_max) with the
    runner-up m and the largest feature norm of the evaluated images (Weinstein et al., PMM, eq. 8).
    """
    rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    margins = {"output_margin": logit_margin(logits, y)}
    layer = net.decision_net()[-1]
    if isinstance(layer, nn.Linear):
        with torch.no_grad():
            phi = net.features(x)
            scores = layer(phi)
            gap = (scores.gather(1, y[:, None]) - scores.gather(1, rival[:, None])).squeeze(1)
            between = (layer.weight[y] - layer.weight[rival]).norm(dim=1)
            margins["feature_margin"] = gap / (between * phi.norm(dim=1).max()).clamp_min(1e-30)
    return margins
