"""A copy of a stranger's model is evaluated: it answers as the model with all its wrappers does, or is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from model_support import Following, mlp, with_compiled_forward
from torch import Tensor, nn

from marginbench.benchmarks import evaluate_model
from marginbench.benchmarks.models.plain import copied
from marginbench.methods import MarginbenchError

pytestmark = pytest.mark.usefixtures("the_compiler_is_reset")


class Upside(nn.DataParallel):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(1 - x)
        return out


class Holding(nn.Module):
    """A child of a name that `torch.compile` gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._orig_mod(1 - x)
        return out


def negative(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (1 - given[0],)


def with_hook(model: nn.Module) -> nn.Module:
    model.register_forward_pre_hook(negative)
    return model


def with_forward(model: nn.Module) -> nn.Module:
    inner = model.forward
    model.forward = lambda x: inner(1 - x)  # type: ignore[method-assign]
    return model


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "subclass": lambda: Upside(mlp()),
    "hook": lambda: with_hook(nn.DataParallel(mlp())),
    "forward": lambda: with_forward(nn.DataParallel(mlp())),
    "name": lambda: Holding(mlp()),
    "inside": lambda: nn.Sequential(with_hook(nn.DataParallel(mlp()))),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_a_wrapper_does_is_evaluated(kind: str, tiny: Path) -> None:
    found = evaluate_model(WRAPPED[kind](), suite=str(tiny), out=tiny.parent / "out", name=kind)
    plain = evaluate_model(with_hook(mlp()), suite=str(tiny), out=tiny.parent / "out", name="plain")
    for array in ("prediction", "upper_l2", "upper_linf"):
        assert np.allclose(found.arrays[array], plain.arrays[array], atol=1e-4)


def test_a_compiled_forward_is_taken_off_only_where_it_is_that_of_the_class() -> None:
    model = with_forward(mlp())
    model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    assert "forward" in vars(copied(model, "model"))
    assert "forward" not in vars(copied(with_compiled_forward(), "model"))


LOSSY: dict[str, Callable[[], nn.Module]] = {
    "graph": lambda: with_hook(torch.fx.symbolic_trace(mlp())),
    "graph with a masked class": lambda: with_hook(torch.fx.symbolic_trace(Following(mask=-1e9))),
    "graph inside": lambda: nn.Sequential(with_hook(torch.fx.symbolic_trace(mlp()))),
    "graph, forward": lambda: with_forward(torch.fx.symbolic_trace(mlp())),
    "compiled": lambda: with_hook(torch.compile(mlp(), backend="eager")),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_a_model_that_its_copy_does_not_answer_as_is_refused(kind: str, tiny: Path) -> None:
    with pytest.raises(MarginbenchError, match="does not answer as the model does"):
        evaluate_model(LOSSY[kind](), suite=str(tiny), out=tiny.parent / "out", name="mine")
