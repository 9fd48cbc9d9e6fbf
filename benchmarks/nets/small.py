"""Networks without batch norm and sums: every bound applies to them, except to the LeNets, which have max pooling."""

from itertools import pairwise

from torch import nn

from marginbench.benchmarks.nets.layers import Shape
from marginbench.benchmarks.nets.network import network


@network("linear", width=16)
def linear(shape: Shape, width: int) -> nn.Sequential:
    """No body at all; the width has no effect."""
    return nn.Sequential(nn.Flatten())


@network("mlp", width=16)
def mlp(shape: Shape, width: int) -> nn.Sequential:
    """Two hidden layers of `width` units."""
    inputs = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), *_hidden(inputs, width, width))


@network("cnn", width=16, smallest=4)
def cnn(shape: Shape, width: int) -> nn.Sequential:
    """Two 4x4 convolutions of stride 2, one hidden layer."""
    return _strided(shape, [(width, 4), (2 * width, 4)], 4 * width)


@network("cnn4", width=16, smallest=4)
def cnn4(shape: Shape, width: int) -> nn.Sequential:
    """The network of Wong and Kolter (ICML 2018, arXiv 1711.00851, section 4), their later papers' "small" one.

    Convolutions of 16 and 32 channels, 4x4, stride 2; a hidden layer of 100. GloRo (ICML 2021) calls it 2C2F.
    """
    return _strided(shape, [(width, 4), (2 * width, 4)], round(6.25 * width))


@network("cnn7", width=32, smallest=4)
def cnn7(shape: Shape, width: int) -> nn.Sequential:
    """The "large" network of Wong, Schmidt, Metzen, Kolter (NeurIPS 2018, arXiv 1805.12514); 4C3F in GloRo.

    Convolutions of 32, 32, 64, 64 channels, alternately 3x3 and 4x4, the latter of stride 2; two hidden layers of 512.
    Papers on interval bounds call another network CNN7, with batch norm and five convolutions.
    """
    convolutions = [(width, 3), (width, 4), (2 * width, 3), (2 * width, 4)]
    return _strided(shape, convolutions, 16 * width, 16 * width)


@network("cnn_6c2f", width=32, smallest=4)
def cnn_6c2f(shape: Shape, width: int) -> nn.Sequential:
    """6C2F of the Lipschitz papers on CIFAR-10 (Lee, Lee, Park, NeurIPS 2020; Leino, Wang, Fredrikson, ICML 2021).

    Convolutions of 32, 32, 32, 64, 64, 64 channels, every third 4x4 of stride 2 and the others 3x3, and a hidden layer
    of 512: as in the code of Huang et al. (NeurIPS 2021, github.com/yjhuangcd/local-lipschitz) and of GloRo.
    """
    convolutions = [(c, kernel) for c in (width, 2 * width) for kernel in (3, 3, 4)]
    return _strided(shape, convolutions, 16 * width)


@network("lenet5", width=20, smallest=16)
def lenet5(shape: Shape, width: int) -> nn.Sequential:
    """LeNet-5 as in Caffe's MNIST example: 20 and 50 channels, 500 hidden units, max pooling, one ReLU.

    With 431 thousand weights it is the LeNet-5 of Han et al. (NeurIPS 2015, arXiv 1506.02626, table 1), and not that
    of LeCun et al. (1998), which has 6 and 16 channels.
    """
    second = round(2.5 * width)
    left = ((shape[1] - 4) // 2 - 4) // 2 * (((shape[2] - 4) // 2 - 4) // 2)
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(width, second, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *_hidden(second * left, 25 * width),
    )


@network("lenet5_madry", width=32, smallest=4)
def lenet5_madry(shape: Shape, width: int) -> nn.Sequential:
    """The MNIST network of Madry et al. (ICLR 2018, arXiv 1706.06083): 32 and 64 channels, 1024 hidden units.

    As in their code, github.com/MadryLab/mnist_challenge: 5x5 convolutions that keep the size, max pooling. Papers on
    adversarial training use it on MNIST, and some call it LeNet-5 (Ding et al., ICLR 2020).
    """
    left = (shape[1] // 4) * (shape[2] // 4)
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *_hidden(2 * width * left, 32 * width),
    )


def _strided(shape: Shape, convolutions: list[tuple[int, int]], *hidden: int) -> nn.Sequential:
    """Convolutions (channels, kernel), of stride 2 if 4x4 and stride 1 if 3x3, and hidden layers."""
    inputs, height, width = shape
    layers: list[nn.Module] = []
    for channels, kernel in convolutions:
        stride = kernel - 2
        layers += [nn.Conv2d(inputs, channels, kernel, stride, padding=1), nn.ReLU()]
        inputs, height, width = channels, height // stride, width // stride
    return nn.Sequential(*layers, nn.Flatten(), *_hidden(inputs * height * width, *hidden))


def _hidden(*units: int) -> list[nn.Module]:
    return [layer for a, b in pairwise(units) for layer in (nn.Linear(a, b), nn.ReLU())]
