"""Convolutional networks whose margins are known: by construction, or because a program solves a twin of them."""

import copy
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.certificates.milp import milp
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.evaluation.canary import (
    ANY,
    BACKWARD,
    Canary,
    affine_map,
    labelled,
    linear_margins,
    to_planes,
)
from marginbench.methods import NORMS, Net, Norm, Normalise
from marginbench.methods.net import Residual

POINTS = 32
ON = 0.1  # the least input of a ReLU that is always on


def convolutions() -> Canary:
    """Strides, padding, groups, batch norm and average pooling, linear in the box: every ReLU is on.

    The images are 6 x 9 and full of black and white pixels: the nearest adversarial image lies on the walls.
    """
    stream = torch.Generator().manual_seed(11)
    body = nn.Sequential(
        nn.Conv2d(1, 4, (3, 4), (1, 2), (1, 0)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, 2, 1, groups=2),
        nn.ReLU(),
        nn.AvgPool2d((3, 2), 2, (1, 0), ceil_mode=True),
        nn.Flatten(),
    )
    net = _drawn(Normalise(torch.tensor([0.45]), torch.tensor([0.3])), body, (1, 6, 9), 4, stream)
    x = (torch.rand(POINTS, 1, 6, 9, generator=stream) * 2 - 0.5).clamp(0, 1)
    return _known("convolutions, walls", net, x, proven={"linf": BACKWARD})


def residual() -> Canary:
    """Three channels, normalisation inside, residual branches that nearly cancel their shortcuts, all linear."""
    stream = torch.Generator().manual_seed(12)
    body = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))),
        nn.ReLU(),
        Residual(nn.Conv2d(6, 8, 4, 2, 1), nn.Conv2d(6, 8, 1, 2, bias=False)),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
    )
    normalise = Normalise(torch.tensor([0.5, 0.45, 0.4]), torch.tensor([0.2, 0.25, 0.3]))
    net = _drawn(normalise, body, (3, 8, 8), 4, stream)
    x = (0.5 + 0.2 * torch.randn(POINTS, 3, 8, 8, generator=stream)).clamp(0, 1)
    return _known("residual, batch norm", net, x, proven=dict.fromkeys(NORMS, BACKWARD))


def pooled() -> Canary:
    """A maximum of planes: z_0 = 0, and z_j is the largest response to a kernel of 4 x 4 pixels, less a threshold.

    An image of class 0 has the margin of the nearest plane, <k_j, patch> = c_j, within the box; others are not known.
    """
    conv = _kernels(13, stride=2)
    body = nn.Sequential(conv, nn.MaxPool2d(3), nn.Flatten())
    return _largest("max pooling", _normalised(), body, conv)


def written_out() -> Canary:
    """Such a maximum, written by its user in `forward`: normalisation, convolution, GELU, and pooling with overlaps.

    The GELU is the identity, because its inputs are large in the whole box.
    """
    conv = _kernels(15, stride=1)
    canary = _largest("written by hand, GELU", nn.Identity(), nn.Sequential(_WrittenOut(_normalised(), conv)), conv)
    return replace(canary, attacks=PRESETS["quick"])  # it is there for the certificates


class _WrittenOut(nn.Module):
    def __init__(self, normalise: Normalise, conv: nn.Conv2d) -> None:
        super().__init__()
        self.normalise, self.conv = normalise, conv
        largest = normalise(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)).abs().max()  # of normalised pixels
        self.lift = 10 + float((largest * conv.weight.detach().abs().sum((1, 2, 3))).max())

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.normalise.mean) / self.normalise.std
        x = F.gelu(self.conv(x) + self.lift) - self.lift
        x = F.max_pool2d(F.max_pool2d(x, 3, 2), 2)
        return x.flatten(1)


def _normalised() -> Normalise:
    return Normalise(torch.tensor([0.4]), torch.tensor([0.25]))


def _kernels(seed: int, stride: int) -> nn.Conv2d:
    stream = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(1, 3, 4, stride, bias=False)
    with torch.no_grad():
        drawn = torch.randn(3, 1, 4, 4, generator=stream)
        conv.weight.copy_(drawn * torch.tensor([1.0, 1.5, 2.0]).view(3, 1, 1, 1))
    return conv


def _largest(title: str, normalise: nn.Module, body: nn.Sequential, conv: nn.Conv2d) -> Canary:
    """z_0 = 0, and z_j the largest response to kernel j, less what leaves the class 0 to many images [1, 8, 8]."""
    x = torch.rand(2 * POINTS, 1, 8, 8, generator=torch.Generator().manual_seed(13))
    head = nn.Linear(3, 4)
    with torch.no_grad():
        largest = body(normalise(x)).amax(0)
        head.weight.copy_(torch.eye(4)[:, 1:])
        head.bias.copy_(torch.cat([torch.zeros(1), -0.8 * largest]))
    net = Net(normalise, body, head).eval()
    data = labelled(net, (255 * x).round().to(torch.uint8))
    responses = nn.Sequential(_normalised(), copy.deepcopy(conv)).double()
    planes, constants = affine_map(responses, (1, 8, 8))
    images = data.test.images(slice(None)).double().flatten(1)
    gaps = 0.8 * largest.double().repeat_interleave(len(planes) // 3) - (images @ planes.T + constants)
    own = data.test.y == 0
    exact: dict[Norm, Tensor] = {
        norm: to_planes(images, planes.expand(len(images), -1, -1), gaps, norm).masked_fill(~own, torch.nan)
        for norm in NORMS
    }
    return Canary(title, net, data, exact, tolerance=1e-4, applies=ANY - {"alpha_crown"})


def solved_residual() -> Canary:
    """Convolutions and a residual branch with ReLUs that switch: a twin without the branch is solved exactly.

    Attacks with few steps miss some of its margins by a tenth, which may be doubted.
    """
    stream = torch.Generator().manual_seed(14)
    first, branch, head = nn.Conv2d(1, 2, 3, 2, 1), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(18, 4)
    with torch.no_grad():
        for parameter in (p for layer in (first, branch, head) for p in layer.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=stream) / max(parameter[0].numel(), 1) ** 0.5)
        whole = copy.deepcopy(branch)
        whole.weight[:, :, 1, 1] += torch.eye(2)
    normalise = Normalise(torch.tensor([0.4]), torch.tensor([0.25]))

    def around(middle: nn.Module) -> Net:
        return Net(normalise, nn.Sequential(first, nn.ReLU(), middle, nn.ReLU(), nn.Flatten()), head).eval()

    net, twin = around(Residual(branch)), around(whole)
    x = torch.rand(12, 1, 6, 6, generator=stream)
    with torch.no_grad():
        head.bias.sub_(net(x).mean(0))  # all classes occur
    data = labelled(net, (255 * x).round().to(torch.uint8))
    margin = solve(twin, data.test.images(slice(None)), data.test.y)
    return Canary("residual ReLU, solved exactly", net, data, {"linf": margin}, 2e-3, 1.1, applies=ANY, doubts=None)


def solve(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """L-infinity margins [N] to 0.1 % by a mixed-integer program, NaN where it does not end."""
    with torch.no_grad():
        net.requires_grad_(False)
        found = milp(Query(net.decision_net(), x, y, "linf", 0.05, x, torch.Generator().manual_seed(0)))
    if found.upper is None or found.solved is None:
        raise RuntimeError(found.reason)
    return found.upper.masked_fill(~found.solved | found.upper.isinf(), torch.nan).double()


def _known(title: str, net: Net, x: Tensor, proven: dict[Norm, frozenset[str]]) -> Canary:
    pixels = (255 * x).round().to(torch.uint8)
    weight, bias = affine_map(_without_relu(net.decision_net()), tuple(x.shape[1:]))
    near = linear_margins(weight, bias, pixels / 255)["linf"]
    data = labelled(net, pixels[near > 0.2 * near.median()])  # nearer to the boundary float32 decides
    exact = linear_margins(weight, bias, data.test.images(slice(None)))
    return Canary(title, net, data, exact, tolerance=1e-3, proven=proven, applies=ANY, searched=True)


def _without_relu(layers: Iterable[nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(layer for layer in copy.deepcopy(layers) if not isinstance(layer, nn.ReLU))).double().eval()


def _drawn(
    normalise: Normalise, body: nn.Sequential, shape: tuple[int, int, int], classes: int, stream: torch.Generator
) -> Net:
    """The network with random weights and statistics, and constants that keep every ReLU on in the whole box.

    Before each ReLU the least values over the box follow from the interval of what entered the layers in between.
    """
    with torch.no_grad():
        for module in body.modules():
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                if name == "running_var":
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=stream))
                elif tensor.is_floating_point():
                    tensor.copy_(torch.randn(tensor.shape, generator=stream) / max(tensor[0].numel(), 1) ** 0.5)
        low = normalise(torch.zeros(1, *shape)).double()
        high = normalise(torch.ones(1, *shape)).double()
        run: list[nn.Module] = []
        for layer in body.eval():
            if not isinstance(layer, nn.ReLU):
                run.append(layer)
                continue
            low, high = _interval(run, low, high)
            last = [module for module in nn.Sequential(*run).modules() if getattr(module, "bias", None) is not None][-1]
            lift = ON - low.amin((0, 2, 3))
            last.get_parameter("bias").add_(lift.float())
            low, high = low + lift.view(1, -1, 1, 1), high + lift.view(1, -1, 1, 1)
            run = []
        features = body(torch.zeros(1, *shape)).shape[1]
        head = nn.Linear(features, classes)
        head.weight.copy_(torch.randn(classes, features, generator=stream) / features**0.5)
        net = Net(normalise, body, head).eval()
        head.bias.copy_(-net(0.5 * torch.ones(1, *shape))[0] + head.bias)  # no class wins everywhere
    return net


def _interval(layers: list[nn.Module], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The least and greatest values of affine layers over low <= x <= high, [1, C, H, W] float64."""
    affine = copy.deepcopy(nn.Sequential(*layers)).double().eval()
    weight, constant = affine_map(affine, tuple(low.shape[1:]))
    middle, radius = ((high + low) / 2).flatten(), ((high - low) / 2).flatten()
    centre, spread = weight @ middle + constant, weight.abs() @ radius
    shape = affine(low).shape
    return (centre - spread).view(shape), (centre + spread).view(shape)
