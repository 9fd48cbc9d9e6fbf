"""Building blocks of the residual and the mobile networks."""

from torch import nn

Shape = tuple[int, int, int]  # channels, height, width of the images


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without bias, next to batch norm; padded so that stride 1 keeps the size and stride 2 halves it.

    Weights are normal with variance 2 / (k^2 outputs) (He et al., ICCV 2015, section 2.2).
    """
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def pool(shape: Shape, halvings: int) -> list[nn.Module]:
    """The mean over what remains of images of this shape after `halvings` strides of 2, rounded up: flat features.

    The size is written out because certificates know this layer but not the adaptive one.
    """
    left = (-(-shape[1] // 2**halvings), -(-shape[2] // 2**halvings))
    return [nn.AvgPool2d(left), nn.Flatten()]
