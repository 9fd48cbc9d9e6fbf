"""Networks of torchvision, which is imported on use because that takes time.

Their sums are torchvision's blocks, not `Residual`: Lipschitz bounds do not apply to `mobilenet_v2` and `resnet50`, and
the certificate names the block.
"""

from torch import nn

from marginbench.benchmarks.nets.layers import Shape
from marginbench.benchmarks.nets.mobile import SMALL
from marginbench.benchmarks.nets.network import network


@network("vgg16_bn", width=64, smallest=32, channels_last=True)
def vgg16_bn(shape: Shape, width: int) -> nn.Sequential:
    """The convolutions of VGG-16 (Simonyan and Zisserman, ICLR 2015, configuration D), each with batch norm.

    What remains, 1x1 for images of 32x32, is averaged, and the head is one linear layer on 512 features instead of two
    hidden layers of 4096 units: the form in which VGG is used on CIFAR-10.
    """
    from torchvision.models.vgg import cfgs, make_layers

    channels = [v if v == "M" else v // 64 * width for v in cfgs["D"]]
    features = make_layers(channels, batch_norm=True)
    _accept(shape[0], features[0])
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            _initialise(layer)
    left = (shape[1] // 32, shape[2] // 32)
    return _without_inplace(nn.Sequential(*features, nn.AvgPool2d(left), nn.Flatten()))


@network("mobilenet_v2", width=32, smallest=8, channels_last=True)
def mobilenet_v2(shape: Shape, width: int) -> nn.Sequential:
    """Sandler et al. (CVPR 2018, arXiv 1801.04381), for images of 224x224; smaller ones skip the first two strides.

    Channels are rounded to multiples of 8, and the last layer has at least 1280, as in torchvision.
    """
    from torchvision.models import MobileNetV2

    small = min(shape[1:]) < SMALL
    blocks = [
        [1, 16, 1, 1],
        [6, 24, 2, 1 if small else 2],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]  # torchvision's own table: expansion, channels, repetitions, stride
    features = MobileNetV2(width_mult=width / 32, inverted_residual_setting=blocks).features
    _accept(shape[0], features[0][0])
    if small:
        features[0][0].stride = (1, 1)
    return _without_inplace(nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten()))


@network("resnet50", width=64, smallest=32, channels_last=True)
def resnet50(shape: Shape, width: int) -> nn.Sequential:
    """ResNet-50 for ImageNet (He et al., CVPR 2016), with the stride in the 3x3 convolutions, as in torchvision.

    The width is that of the 3x3 convolutions in the first stage, torchvision's `width_per_group`; the sums keep theirs.
    """
    from torchvision.models.resnet import Bottleneck, ResNet

    net = ResNet(Bottleneck, [3, 4, 6, 3], width_per_group=width)
    _accept(shape[0], net.conv1)
    *layers, _ = net.children()  # all but the head
    return _without_inplace(nn.Sequential(*layers, nn.Flatten()))


def _accept(channels: int, first: nn.Conv2d) -> None:
    """Give the first convolution new weights for images that are not RGB."""
    if channels != first.in_channels:
        first.in_channels = channels
        first.weight = nn.Parameter(first.weight.new_empty(first.out_channels, channels, *first.kernel_size))
        _initialise(first)


def _initialise(layer: nn.Conv2d) -> None:
    """As torchvision does."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _without_inplace(body: nn.Sequential) -> nn.Sequential:
    """Methods and bounds look at the inputs of layers, which must not be overwritten."""
    for layer in body.modules():
        if isinstance(layer, nn.ReLU | nn.ReLU6):
            layer.inplace = False
    return body
