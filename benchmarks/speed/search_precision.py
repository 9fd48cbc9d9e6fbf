"""What searching in TF32 costs the attacks, whose points are judged in float32 either way.

Networks are trained with `--methods` on the suite's data, and attacked on correct images of the validation split, never
on test images. On CUDA both are run; on a CPU TF32 is imitated: factors of convolutions and of products, and the
gradients that leave them, are rounded to ten bits.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from marginbench.benchmarks.attacks import attack as attacks
from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.evaluation.sandwich import REFERENCES
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.speed import turns
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import NORMS
from marginbench.methods.spec import split_specs

BITS = 13  # of float32's 23 that TF32 drops
ROUNDED = (F.conv2d, F.linear)
STREAM = "search_precision"


def main() -> None:
    words = turns.parse(__doc__, suite="digits", methods="ce,mma,ibp", points=150, device="auto")
    suite = load_suite(words.suite)
    data = suite.load_data().to(resolve_device(words.device))
    split = data.validation
    x, y = split.images(slice(words.points)), split.y[: words.points]
    rows = []
    for spec in split_specs(words.methods):
        classifier = turns.Classifier.trained(spec, suite, data)
        index, reference = classifier.correct(x, y), data.train.images(slice(REFERENCES))
        for norm in NORMS:
            for name in (name for name in PRESETS["exhaustive"] if ATTACKS[name].gradient):
                query = replace(classifier.query(x[index], y[index], norm, STREAM, name, norm), reference=reference)
                plain, coarse = (distances(name, query, coarse) for coarse in (False, True))
                rows.append((spec, norm, name, *differences(plain, coarse, suite.evaluation.epsilon[norm])))
    headers = (
        "method",
        "norm",
        "attack",
        "robust %",
        "with TF32",
        "median distance",
        "with TF32",
        "found",
        "with TF32",
    )
    print(turns.table(rows, headers, ("", "", "", ".1f", ".1f", ".4f", ".4f", ".1%", ".1%")))
    print(f"\nsuite {suite.name}, {turns.where(data, 'correct points of the validation split only')}")


def distances(name: str, query: Query, coarse: bool) -> Tensor:
    """[B], what an attack finds with either arithmetic and the same random numbers."""
    query.generator.manual_seed(0)
    with searching(coarse, query.x.device):
        upper = ATTACKS[name](query).upper
    assert upper is not None
    return upper


def differences(plain: Tensor, coarse: Tensor, epsilon: float) -> Iterator[float]:
    """Robust accuracy in %, median distance and share of points found, without and with TF32."""
    yield from (100 * float((upper > epsilon).float().mean()) for upper in (plain, coarse))
    yield from (float(upper.median()) for upper in (plain, coarse))
    yield from (float(upper.isfinite().float().mean()) for upper in (plain, coarse))


@contextlib.contextmanager
def searching(coarse: bool, device: torch.device) -> Iterator[None]:
    """A block in which attacks search in TF32, or in float32, whatever the device."""

    def search(net: nn.Module, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        return Rounded() if coarse else contextlib.nullcontext()

    with contextlib.ExitStack() as stack:
        if not coarse or device.type != "cuda":
            stack.enter_context(mock.patch.object(attacks, "fast_search", search))
        stack.enter_context(mock.patch.object(attacks, "is_coarse_on", lambda device: coarse))
        yield


class Rounded(TorchFunctionMode):
    """A block in which convolutions and linear layers compute about as with TF32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ROUNDED:
            args = (*(_Round.apply(factor) for factor in args[:2]), *args[2:])
        return func(*args, **(kwargs or {}))


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return rounded(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return rounded(gradients[0])


def rounded(values: Tensor) -> Tensor:
    """The nearest float32 numbers with ten bits after the first."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + (1 << BITS - 1)) & -(1 << BITS)).view(torch.float32)


if __name__ == "__main__":
    main()
