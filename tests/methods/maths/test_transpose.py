"""Transposed convolutions by a matrix product are those of torch."""

import pytest
import torch
from torch.nn import functional as F

from marginbench.methods.maths.transpose import FEW, conv_transpose2d


@pytest.mark.parametrize("outputs", [1, 3, FEW + 1])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "output_padding"),
    [
        ((4, 4), (2, 2), (1, 1), (0, 0)),
        ((3, 3), (1, 1), (1, 1), (0, 0)),
        ((1, 1), (1, 1), (0, 0), (0, 0)),
        ((5, 3), (2, 3), (1, 0), (1, 2)),
        ((1, 1), (2, 2), (0, 0), (1, 1)),
    ],
)
def test_it_is_the_transposed_convolution(
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    output_padding: tuple[int, int],
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(2, outputs, *kernel, generator=generator, dtype=torch.float64).requires_grad_()
    got = conv_transpose2d(x, weight, stride, padding, output_padding)
    want = F.conv_transpose2d(x, weight, None, stride, padding, output_padding)
    assert got.shape == want.shape
    assert torch.allclose(got, want, atol=1e-12)
    along = torch.randn(want.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad((out * along).sum(), (x, weight)) for out in (got, want)), strict=True):
        assert torch.allclose(a, b, atol=1e-12)
