"""How much a method must fit, and how it says that it does not."""

from typing import ClassVar

import pytest
import torch
from contract_support import Mutant, info
from torch import Tensor, nn

from marginbench.benchmarks.contract.check import run_check
from marginbench.benchmarks.describe import one
from marginbench.methods import Info, Net, Task, Underfit, register


class Unsure(Mutant):
    """L = CE(z, y), of a network that never says the last class: 80 % of the images are right at best."""

    def build(self, net: Net, task: Task) -> Net:
        class Silent(nn.Module):
            def forward(self, z: Tensor) -> Tensor:
                return torch.cat([z[:, :4], z[:, :4].amin(1, keepdim=True) - 1], 1)

        net.head = nn.Sequential(net.head, Silent())
        return net


class UnsureAndSaysSo(Unsure):
    """L = CE(z, y), of the same network."""

    info: ClassVar[Info] = info(key="unsure", underfit=Underfit(0.5, "one class is never said"))


class SaysTooMuch(Unsure):
    """L = CE(z, y), of the same network."""

    info: ClassVar[Info] = info(underfit=Underfit(0.85, "one class is never said"))


class SaysTooLittle(Unsure):
    """L = CE(z, y), of the same network."""

    info: ClassVar[Info] = info(underfit=Underfit(0.1, "one class is never said"))


class SaysSoInVain(Mutant):
    """L = CE(z, y)."""

    info: ClassVar[Info] = info(underfit=Underfit(0.5, "modesty"))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Unsure, r"on 64 easy examples after 160 epochs: .* Info\.underfit"),
        (SaysTooMuch, r"less than the 85% of Info\.underfit"),
        (SaysTooLittle, r"0\.1 is no share to declare"),
        (SaysSoInVain, r"is not needed"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_not_fitted_must_be_declared(method: type[Mutant], words: str) -> None:
    result = run_check("learns", method())
    assert result.status == "failed"
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(result.reason)


def test_what_is_declared_is_said_wherever_the_method_is_described() -> None:
    result = run_check("learns", UnsureAndSaysSo())
    assert result.status == "passed"
    assert "one class is never said" in result.line() and "after 160 epochs" in result.line()
    register(UnsureAndSaysSo)
    assert "Fits 50% of 64 easy training images at least: one class is never said" in one("unsure")
