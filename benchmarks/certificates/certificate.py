"""A certificate as the benchmark sees it: a function that gives radii, what is true of it, and its registry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

from torch import Tensor, nn

from marginbench.benchmarks.certificates.masked import without_masked
from marginbench.benchmarks.estimator import Answer, Estimator, Query, check_signature
from marginbench.benchmarks.extras import Needs
from marginbench.benchmarks.registry import Registry
from marginbench.methods import MarginbenchError

Prove = Callable[..., Tensor | Answer]
"""(q, *, settings) -> [B] certified radii in pixels, 0 where nothing is certified, or an `Answer`.

An `Answer` says why there are no radii (`reason`), or also gives adversarial images that were found (`points`)
and their distances (`upper`). These are measured again: the evaluation believes none.
"""


@dataclass(frozen=True)
class Certificate(Estimator):
    """A function that gives certified radii, for the layers of `Net.decision_net()`."""

    needs: Needs | None = None
    float64: bool = False  # it works in float64 as it is: the evaluation need not compare its radii with those there
    exact_on_linear: bool = False  # on a linear network its radii are the margins, up to the tolerance of a search

    def __call__(self, q: Query, **settings: Any) -> Answer:
        """The answer; radii alone are its `lower`. The function does not see classes that are masked by -inf.

        Raises:
            MarginbenchError: neither a real radius for each image nor a reason, or the function wrote into the images.
        """
        if isinstance(q.net, nn.Sequential) and len(q.x):
            asked = without_masked(q)
            if isinstance(asked, str):
                return Answer(reason=asked)
            q = asked
        found = self._ask(q, settings)
        answer = found if isinstance(found, Answer) else Answer(lower=found)
        if found is None or (answer.lower is None and not answer.reason):
            what = "None" if found is None else "an Answer with neither `lower` nor `reason`"
            raise MarginbenchError(f"certificate {self.name!r} returned {what}: return radii [B], or say why not")
        for values in (answer.lower, answer.upper, answer.solved):
            if values is not None and not (isinstance(values, Tensor) and values.shape == q.y.shape):
                shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise MarginbenchError(f"certificate {self.name!r} returned {shape}, shape {tuple(q.y.shape)} needed")
            if values is not None and values.is_complex():
                raise MarginbenchError(f"certificate {self.name!r} returned {values.dtype}: real numbers are needed")
        if answer.points is not None and answer.points.shape != q.x.shape:
            given, needed = tuple(answer.points.shape), tuple(q.x.shape)
            raise MarginbenchError(f"certificate {self.name!r} returned points {given}, images {needed} needed")
        lower, upper, points, solved = map(_detached, (answer.lower, answer.upper, answer.points, answer.solved))
        return Answer(lower, upper, points, solved, answer.reason)


def _detached(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach()


OWN = "own"  # the name in records of the certificate that a method has of its own networks
CERTIFICATES: Registry[Certificate] = Registry(reserved=[OWN])


@overload
def certificate(function: Prove, /) -> Certificate: ...


@overload
def certificate(
    *, needs: Needs | None = ..., float64: bool = ..., exact_on_linear: bool = ...
) -> Callable[[Prove], Certificate]: ...


def certificate(
    function: Prove | None = None,
    /,
    *,
    needs: Needs | None = None,
    float64: bool = False,
    exact_on_linear: bool = False,
) -> Certificate | Callable[[Prove], Certificate]:
    """A decorator: the function is a certificate, which suites may list by its name. For the traits see `Certificate`.

    Raises:
        MarginbenchError: another file has a certificate of that name, the name is "own", or the function has arguments
            beside the query that are not settings.
    """

    def add(function: Prove) -> Certificate:
        check_signature(function)
        found = Certificate(function.__name__, function, needs, float64, exact_on_linear)
        CERTIFICATES.add(found.name, found, function)
        return found

    return add if function is None else add(function)
