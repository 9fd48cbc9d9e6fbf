"""Euclidean operator norms of linear layers: bounds that hold, in float64, and power iteration from below."""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROUNDING = 1e-9  # relative; the float64 eigenvalues below are right to about 1e-13
DENSE_INPUTS = 1024  # up to this many inputs a convolution is written out as a matrix, and its norm is exact


def matrix_norm(matrix: Tensor) -> Tensor:
    """Largest singular value over a batch of matrices [..., m, n], rounded up: float64 scalar."""
    matrix = matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)
    gram = matrix @ matrix.mH if matrix.shape[-2] <= matrix.shape[-1] else matrix.mH @ matrix
    largest = eigenvalue_bound(gram) if gram.is_cuda else torch.linalg.eigvalsh(gram)[..., -1]
    norm: Tensor = largest.clamp_min(0).max().sqrt() * (1 + ROUNDING)
    return norm


def eigenvalue_bound(gram: Tensor, squarings: int = 26) -> Tensor:
    """At least the largest eigenvalues of positive matrices [..., n, n], at most n^(1/2p) times that, p = 2^squarings.

    They are ||G^p||_F^(1/p). Unlike eigvalsh, this does not synchronise with a GPU.
    """
    bound, power = 1.0, 1.0
    for _ in range(squarings + 1):
        size = torch.linalg.matrix_norm(gram, keepdim=True)
        bound = bound * size[..., 0, 0] ** power
        gram = gram / size.clamp_min(torch.finfo(torch.float64).tiny)
        gram, power = gram @ gram, power / 2
    return torch.as_tensor(bound)


def convolution_norm(
    weight: Tensor, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Upper bound on the norm of a zero-padded, strided convolution: float64 scalar.

    Args:
        weight: [O, C, kh, kw].
        size: height and width of the input.
    """
    weight = weight.to(torch.float64)
    inputs = weight.shape[1] * size[0] * size[1]
    if inputs <= DENSE_INPUTS:
        return matrix_norm(convolution_matrix(weight, size, stride, padding))
    return circular_norm(weight, size, stride, padding)


def convolution_matrix(
    weight: Tensor, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The convolution written out, [O * positions, C * pixels], differentiable. Arguments as above.

    A product with zeros and ones: the entries are exact, and it is faster than a convolution of unit vectors.
    """
    kernel = (weight.shape[2], weight.shape[3])
    joined = _joined(kernel, size, stride, padding, weight.dtype, weight.device)
    entries = weight.flatten(2) @ joined.flatten(1)  # [O, C, positions * pixels]
    matrix: Tensor = entries.unflatten(2, joined.shape[1:]).transpose(1, 2).flatten(2).flatten(0, 1)
    return matrix


def reached_outputs(weight: Tensor, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """For every input of the convolution the indices of the outputs that it can reach, [C * pixels, s].

    The number s is that of the best connected input; the others are padded with outputs that they do not reach.
    """
    kernel = (weight.shape[2], weight.shape[3])
    joined = _joined(kernel, size, stride, padding, weight.dtype, weight.device).amax(0).T  # [pixels, positions]
    most = (-(-k // s) for k, s in zip(kernel, stride, strict=True))
    positions = joined.topk(min(math.prod(most), joined.shape[1]), dim=1)[1]
    channels = torch.arange(weight.shape[0], device=weight.device)[:, None] * joined.shape[1]
    return (positions[:, None] + channels).flatten(1).repeat(weight.shape[1], 1)


@cache  # never evicted: recorded steps refer to these tensors by address
@torch.inference_mode(False)
def _joined(
    kernel: tuple[int, int],
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """1 where a tap of the kernel joins a position of the output to a pixel, else 0: [taps, positions, pixels]."""
    axes = []
    for k, n, s, p in zip(kernel, size, stride, padding, strict=True):
        tap, position, pixel = (torch.arange(count, device=device) for count in (k, (n + 2 * p - k) // s + 1, n))
        axes.append(tap[:, None, None] + s * position[:, None] - p == pixel)
    both = axes[0][:, None, :, None, :, None] & axes[1][None, :, None, :, None, :]
    return both.flatten(4).flatten(2, 3).flatten(0, 1).to(dtype)


def circular_norm(weight: Tensor, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """The bound for large inputs: norm of the circular convolution on the padded grid. Arguments as above.

    With stride s the pixels of one s x s cell become channels (polyphase form), so that the stride is 1. Padding
    the input keeps its norm; on the padded grid the wanted outputs are some of the outputs of the circular
    convolution, which is block diagonal in the Fourier basis: its norm is the largest one of a block [O, C s s].
    """
    cells = [-(-(n + 2 * p) // s) for n, p, s in zip(size, padding, stride, strict=True)]
    taps = [-(-k // s) for k, s in zip(weight.shape[2:], stride, strict=True)]
    short = [t * s - k for t, s, k in zip(taps, stride, weight.shape[2:], strict=True)]
    kernel = F.pad(weight.to(torch.float64), (0, short[1], 0, short[0]))
    kernel = kernel.view(*weight.shape[:2], taps[0], stride[0], taps[1], stride[1])
    kernel = kernel.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)  # [O, C s s, taps, taps]
    blocks = torch.fft.rfft2(kernel, s=cells)  # the other half holds the conjugates, of equal norm
    return matrix_norm(blocks.permute(2, 3, 0, 1))


def apply(layer: nn.Linear | nn.Conv2d, v: Tensor) -> Tensor:
    """The layer without its bias, on v [1, ...]; differentiable in the weights."""
    if isinstance(layer, nn.Linear):
        return F.linear(v, layer.weight)
    return F.conv2d(v, layer.weight, None, layer.stride, layer.padding)


def power_iterate(operator: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
    """A^T A v / ||A^T A v|| for a linear map A, given as a function; v itself where that vanishes. v [1, ...].

    ||A v|| approaches the norm of A from below: an estimate for training, never for a certificate.
    """
    with torch.enable_grad():
        v = v.detach().requires_grad_()
        half_square = operator(v).square().sum() / 2
    (image,) = torch.autograd.grad(half_square, v)
    norm = image.norm()
    return torch.where(norm > 0, image / norm, v.detach())
