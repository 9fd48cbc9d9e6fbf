"""A doubt: what it looks at, how one is added, and how all are asked."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.certificates.certificate import Certificate
from marginbench.benchmarks.estimator import Certify, Query
from marginbench.benchmarks.registry import Registry
from marginbench.benchmarks.unchanged import NetworkState
from marginbench.methods import MarginbenchError, Net, Norm
from marginbench.methods.userfile import BUILT_IN


@dataclass(frozen=True)
class Evidence:
    """One evaluated network: what was asked, and what came out."""

    net: Net  # in eval mode, with frozen parameters
    x: Tensor  # [N, C, H, W] float32
    arrays: Mapping[str, Tensor]  # per image, [N], as in the record
    estimators: Mapping[str, Mapping[str, Any]]  # NAME_NORM to passes and seconds, as in the record
    attacks: Mapping[str, Attack]  # by the suite's names
    certificates: Mapping[str, Certificate]
    epsilon: Mapping[Norm, float]
    num_classes: int
    certify: Certify  # the network's own certificate
    fitting: int | None = None  # images that memory holds at once, as far as that is known

    @property
    def y(self) -> Tensor:
        """[N] int64, the true classes."""
        return self.arrays["label"]

    @property
    def correct(self) -> Tensor:
        """[N] bool."""
        return self.arrays["prediction"] == self.y

    def query(self, norm: Norm, index: Tensor | slice = slice(None)) -> Query:
        """About some of the images; the randomness is the same at every call."""
        stream = torch.Generator(self.x.device).manual_seed(0)
        about = (self.net, self.x[index], self.y[index], norm, self.epsilon[norm], self.x, stream)
        return Query(*about, fitting=self.fitting)

    def nearest(self, norm: Norm, names: Iterable[str]) -> Tensor:
        """Smallest distances [N] that these attacks found.

        Points found by certificates are excluded, so they cannot mask a weak attack.
        """
        infinite = torch.full_like(self.arrays[f"upper_{norm}"], torch.inf)
        return torch.stack([infinite, *(self.arrays[f"upper_{norm}_{name}"] for name in names)]).amin(0)

    def with_gradient(self) -> list[str]:
        """The names of the attacks that use gradients: the white-box attacks."""
        return [name for name, attack in self.attacks.items() if attack.gradient]

    def without_gradient(self) -> list[str]:
        """The names of the others: the black-box attacks."""
        return [name for name, attack in self.attacks.items() if not attack.gradient]


def sample(points: Tensor, count: int) -> Tensor:
    """At most `count` random indices where `points` [N] bool holds; the same in every run with as many of them."""
    index = points.nonzero()[:, 0]
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    return index[order[:count].to(index.device)]


Doubt = Callable[[Evidence], str | None]
"""What was seen, in few words, or None where there is nothing to doubt. The docstring explains it below the tables."""

DOUBTS: Registry[Doubt] = Registry()


def doubt(check: Doubt) -> Doubt:
    """A decorator: every evaluation asks the function, and reports what it sees under the function's name.

    Raises:
        MarginbenchError: another file has a doubt of that name, or it does not explain itself.
    """
    name = getattr(check, "__name__", "")
    if not inspect.getdoc(check):
        raise MarginbenchError(f"{check.__module__}.{name}: a doubt has a docstring, which the tables print")
    DOUBTS.add(name, check)
    return check


def collect(evidence: Evidence) -> dict[str, str]:
    """All doubts about one run: name to what was seen.

    Raises:
        MarginbenchError: one returns something else, or leaves the network otherwise than it was.
    """
    found = {}
    network = NetworkState(evidence.net)
    for name, check in DOUBTS.items():
        seen = check(replace(evidence, arrays={key: values.clone() for key, values in evidence.arrays.items()}))
        if (part := network.differs_from(evidence.net, evidence.x)) is not None:
            raise MarginbenchError(f"doubt {name!r} leaves the network with other {part}: work on a copy of it")
        if seen is not None and not (isinstance(seen, str) and seen):
            problem = "what was seen, in few words, is needed, and None where there is nothing to doubt"
            raise MarginbenchError(f"doubt {name!r} returned {seen!r}: {problem}")
        if seen is not None:
            found[name] = seen
    return found


def is_users(name: str) -> bool:
    """Whether a doubt came with a plug-in: it may be about anything, such as how few points there are."""
    return name in DOUBTS and not DOUBTS[name].__module__.startswith(BUILT_IN)


def explanation(name: str) -> str:
    """What a doubt means, for the legend of a table."""
    check = DOUBTS.get(name)
    if check is None:
        return "a doubt that this version does not know"
    return " ".join((inspect.getdoc(check) or "").split())
