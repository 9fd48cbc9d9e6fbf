"""Bytes of tensors are counted while they live, and what would exceed a limit is not begun."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from marginbench.benchmarks.machine import memory
from marginbench.benchmarks.machine.allocations import HIDDEN, Allocations, OverBudgetError
from marginbench.benchmarks.machine.memory import APPETITE, ROWS, out_of_memory, rows_at_once

MIB = 2**20


def test_the_peak_is_that_of_the_tensors_that_live_at_once() -> None:
    x = torch.ones(MIB // 4)  # 1 MiB, made outside
    with Allocations() as made:
        y = x + 1
        z = y * 2
        del y
        z.add_(1)
        _ = z.view(2, -1).T
        w = z.repeat(3)
    assert made.peak == HIDDEN * 4 * MIB
    del w


def _scripted(x: Tensor) -> Tensor:
    """As auto-LiRPA does it: TorchScript raises an error of its own in the place of ours."""

    def outer(a: Tensor, b: Tensor) -> Tensor:
        return a[:, None] * b[None]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        product: Tensor = torch.jit.script(outer)(x, x)
    return product


@pytest.mark.parametrize(
    "large",
    [
        lambda x: x[:, None] * x,
        lambda x: x[:, None] @ x[None],
        lambda x: x.repeat(5000),
        lambda x: x.new_zeros(5000, 5000),
        lambda x: torch.eye(5000),
        lambda x: x[None].expand(5000, -1).clone(),
        lambda x: nn.functional.interpolate(x.view(1, 1, -1), scale_factor=5000),
        _scripted,
    ],
)
def test_an_operation_over_the_limit_is_not_begun(
    large: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.ones(5000)
    done: list[int] = []
    count = Allocations._count
    monkeypatch.setattr(
        Allocations, "_count", lambda self, storage: (done.append(storage.nbytes()), count(self, storage))
    )
    with pytest.raises(OverBudgetError) as caught, Allocations(50 * MIB):
        large(x)
    assert out_of_memory(caught.value) and max(done, default=0) < MIB
    assert caught.value.needed == HIDDEN * 10**8 and caught.value.limit == 50 * MIB
    with Allocations(200 * MIB) as made:
        assert large(x).numel() == 25_000_000
    assert made.peak >= HIDDEN * 10**8


def _wide(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 3)).requires_grad_(False)


def test_small_networks_take_all_rows_and_large_ones_a_power_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(5, 1, 4, 4)
    assert rows_at_once(_wide(8), x) == ROWS and rows_at_once(_wide(8), x, most=7) == 7
    found = []
    for free in (APPETITE, 2 * APPETITE, 100 * APPETITE, APPETITE // 4):
        monkeypatch.setattr(memory, "available", lambda device, free=free: free)
        found.append(rows_at_once(_wide(10**6), x))
    assert found[1] == found[2] and all(rows & (rows - 1) == 0 for rows in found), "more changes nothing"
    assert 1 <= found[3] < found[0] < found[1] < ROWS
    each = 3 * 4 * 10**6  # hidden units, those of the ReLU, their gradient
    assert HIDDEN * found[1] * each / 4 < APPETITE < HIDDEN * found[1] * each * 4
    assert rows_at_once(_wide(10**6), x, gradients=False) >= found[3]
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    assert rows_at_once(_wide(8), x) == 1


def test_a_network_that_cannot_be_asked_takes_all_rows() -> None:
    class Moody(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("two images at least")

    assert rows_at_once(Moody(), torch.rand(2, 1, 4, 4)) == ROWS == rows_at_once(Moody(), torch.rand(0, 1, 4, 4))
