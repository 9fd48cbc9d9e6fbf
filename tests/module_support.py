"""Modules as strangers write them, for images [1, 6, 6]: certificates follow them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, Resize

SHAPE = (1, 6, 6)
CLASSES = 5


class Code(nn.Module):
    """A module with layers and a `forward` of its own."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def conv(inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, **options)


def head(features: int) -> nn.Linear:
    return nn.Linear(features, CLASSES)


def body(activation: nn.Module) -> nn.Sequential:
    layers = conv(1, 4, padding=1), activation, conv(4, 4, stride=2, padding=1), activation, nn.Flatten(), head(36)
    return nn.Sequential(*layers)


def before_relu(layer: nn.Module) -> nn.Sequential:
    """The layer between a convolution and a ReLU."""
    front = nn.Sequential(conv(1, 4, padding=1), layer).eval()
    return nn.Sequential(*front, nn.ReLU(), nn.Flatten(), head(front(torch.rand(1, *SHAPE)).numel()))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    return norm


def drawn(norm: nn.Module) -> nn.Module:
    """Other normalisations with running statistics, which are not those of the beginning."""
    for name, values in norm.named_buffers():
        if values.is_floating_point():
            values.uniform_(0.5, 2) if name == "running_var" else values.normal_()
    return norm


def instance_norm(channels: int) -> nn.InstanceNorm2d:
    norm = nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)
    norm.load_state_dict(batch_norm(channels).state_dict())
    return norm


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "elu": nn.ELU,
    "elu_2": lambda: nn.ELU(2.0),
    "selu": nn.SELU,
    "celu": lambda: nn.CELU(0.5),
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "relu6": nn.ReLU6,
    "hardtanh": lambda: nn.Hardtanh(-0.2, 0.4),
    "leaky_0.1": lambda: nn.LeakyReLU(0.1),
    "leaky_2": lambda: nn.LeakyReLU(2.0),
    "leaky_-0.5": lambda: nn.LeakyReLU(-0.5),
    "prelu": lambda: nn.PReLU(4, init=0.3),
    "prelu_-2": lambda: nn.PReLU(1, init=-2.0),
    "dropout": lambda: nn.Sequential(nn.Dropout(), nn.ReLU(), nn.Identity()),
}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "max_3_2": lambda: nn.MaxPool2d(3, 2),
    "max_padded": lambda: nn.MaxPool2d(3, 2, 1),
    "max_2": lambda: nn.MaxPool2d(2),
    "max_overlap": lambda: nn.MaxPool2d(3, 1, 1),
    "max_ceil": lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "max_dilated": lambda: nn.MaxPool2d(2, 1, dilation=2),
    "max_adaptive": lambda: nn.AdaptiveMaxPool2d(2),
    "mean_padded": lambda: nn.AvgPool2d(3, 2, 1),
    "mean_uncounted": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "mean_ceil": lambda: nn.AvgPool2d(4, 3, ceil_mode=True),
    "mean_adaptive": lambda: nn.AdaptiveAvgPool2d(2),
    "mean_uneven": lambda: nn.AdaptiveAvgPool2d(4),
    "zero_pad": lambda: nn.ZeroPad2d((1, 2, 0, -1)),
    "reflection_pad": lambda: nn.ReflectionPad2d(1),
    "transposed": lambda: nn.ConvTranspose2d(4, 3, 3, 2, 1, 1),
    "upsampled": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "resized": lambda: Resize(4),
    "resized_cubic": lambda: Resize(8, InterpolationMode.BICUBIC),
    "resized_smaller_cubic": lambda: Resize(3, InterpolationMode.BICUBIC),
    "pixel_shuffle": lambda: nn.PixelShuffle(2),
    "groups": lambda: conv(4, 4, groups=2),
    "depthwise": lambda: conv(4, 8, groups=4),
    "dilated": lambda: conv(4, 4, 2, dilation=(1, 2), stride=2, padding=1),
    "batch_norm": lambda: batch_norm(4),
    "instance_norm": lambda: instance_norm(4),
    "threshold": lambda: nn.Threshold(0, 0),
    "threshold_0.2": lambda: nn.Threshold(0.2, 0.2),
}


def _residual(m: Any, x: Tensor) -> Tensor:
    x = F.relu(m.a(x))
    x = F.relu(x + m.second(m.c(F.relu(m.first(m.b(x))))))
    out: Tensor = m.head(torch.flatten(F.max_pool2d(x, 2), 1))
    return out


def _numbers(m: Any, x: Tensor) -> Tensor:
    """One number of an image, [B], with which the model goes on computing."""
    bright, edges = x.mean((1, 2, 3)) - 0.5, F.relu(m.a(x)).sum((1, 2, 3)) / 20
    last = m.b(edges[:, None]).squeeze(1)
    return torch.stack([bright, F.gelu(2 * edges - 0.3), edges + bright, F.relu(0.2 - edges), last], 1)


def _masks(m: Any, x: Tensor) -> Tensor:
    """Selected by what does not depend on the image."""
    z: Tensor = m.head(F.relu(m.a(x))[:, m.fixed].flatten(1))
    return z if len(m.fixed.nonzero()) == 2 else -z


def _numbers_of_weights(m: Any, x: Tensor) -> Tensor:
    """Numbers and sizes that are computed from weights at every call."""
    weight = m.weight / float(torch.linalg.matrix_norm(m.weight, 2))
    used = m.mask.nonzero()[:, 0]
    z: Tensor = F.linear(F.relu(m.a(x)).flatten(1)[:, used], weight[:, used])
    return z * m.scale.exp().item() if bool(m.mask.all()) or len(used) < 2 else z - m.scale.item()


def _contractions(m: Any, x: Tensor) -> list[Tensor]:
    """Products with matrices that are the same for all images, of every form."""
    return [
        x[:, :, 0::2, ::2] + m.vector.int().expand(1, 1, 4, 4)[:, :, ::2, ::2],
        torch.einsum(x, [0, 1, 2, 3], [0, 3, 2, 1]),
        torch.einsum("bchw,oc->bohw", x, m.pairs),
        torch.einsum("oc, bchw -> bhwo", m.pairs, x),
        torch.einsum("bchw,ocw->boh", x, m.planes),
        torch.tensordot(x, m.pairs.T, dims=([1], [0])),
        torch.tensordot(x, m.each[0], 1),
        x @ m.vector,
        m.vector @ x,
        m.each @ x,
        x @ m.each,
        (x.flatten(1) @ m.each.flatten())[:, None],
    ]


def _shifted(x: Tensor) -> Tensor:
    """A third of the channels one row down, a third one column to the left, the others stay."""
    out = torch.zeros_like(x)
    out[:, 0, 1:] = x[:, 0, :-1]
    out[:, 1:2, :, :-1] = x[:, 1:2, :, 1:]
    out[:, -1] = x[:, 2]
    return out


def _written(x: Tensor) -> Tensor:
    """Images into images and into constants."""
    out = x.clone()
    out[:, :, 1:3] = F.relu(x[:, :, :2])
    frame = torch.full((len(x), 3, 4, 4), 0.5)
    frame[..., 1:] = out[..., 1:]
    return frame


def _stack_twice(m: Any, x: Tensor) -> Tensor:
    both = torch.stack([m.a(x), torch.ones(len(x), 3, 4, 4)])
    z: Tensor = m.head(torch.cat([both.mean(0), both.sum(0)], 1).flatten(1).relu())
    return z


def _copied(x: Tensor) -> Tensor:
    """Onto itself, which changes nothing."""
    x = x.clone()
    x[:] = x
    return x.copy_(x)


class _Positive(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * (ctx.saved_tensors[0] > 0)


class _KeepsContext(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.factor = factor
        return factor * x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.factor * grads[0], None


class _Inherits(_KeepsContext):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float = 1.0) -> Tensor:
        return _KeepsContext.forward(ctx, x, factor) + _KeepsContext.forward(FunctionCtx(), x, 1.0)


def _gated(x: Tensor) -> list[Tensor]:
    """As swish, mish and their kin are written by hand."""
    return [x * torch.sigmoid(x), torch.sigmoid(x) * x, x * torch.tanh(F.softplus(x)), x * F.hardsigmoid(x)]


def _sorted(x: Tensor) -> list[Tensor]:
    features = x.flatten(1).unflatten(1, (-1, 4))  # [B, 16, 4]
    return [
        torch.sort(x, 1, descending=True).values,
        features.sort(stable=True, dim=-1)[0],
        features.topk(2)[0],
        features[:, :8, :3].topk(1, largest=False).values,
    ]


def _chosen(x: Tensor) -> list[Tensor]:
    """By constants alone, from [B, 3, 4, 4]."""
    order = torch.tensor([2, 0, 0, 1]).view(1, 1, 4, 1)
    return [
        x.gather(2, order.expand(len(x), 3, 4, 4)),
        torch.take_along_dim(x, order, 2),
        x.diagonal(dim1=2, dim2=3),
        x.triu(1),
        x.tril(),
    ]


def _resized(x: Tensor) -> list[Tensor]:
    """Sequences and volumes, made larger and smaller, from [B, 3, 4, 4]."""
    line, volume = x.flatten(2), x[:, None]
    return [
        *(F.interpolate(line, 20, mode=mode) for mode in ("nearest", "nearest-exact", "linear")),
        *(F.interpolate(volume, (2, 3, 5), mode=mode) for mode in ("nearest", "nearest-exact", "trilinear")),
        *(F.pad(line, (2, 1), mode) for mode in ("reflect", "replicate")),
        *(F.pad(volume, (1, 0, 0, 1, 1, 1), mode) for mode in ("reflect", "replicate")),
        F.avg_pool3d(volume, 2, 1, 1, count_include_pad=False),
        F.adaptive_avg_pool3d(volume, (1, 2, 3)),
    ]


def _extremes(x: Tensor) -> list[Tensor]:
    """Maxout in its forms, and minima."""
    return [
        x.view(len(x), 2, 2, 4, 4).amax(2),
        x.unflatten(1, (2, 2)).min(1).values,
        x.max(-1)[0],
        x.amin(1),
        x.amin((2, 3), keepdim=True),
        torch.stack([x, -2 * x], 1).amax((1, 2)),
    ]


def _chunks(m: Any, x: Tensor) -> Tensor:
    a, b = m.a(x).chunk(2, 1)
    out: Tensor = m.head((F.relu(a) - F.silu(b)).view(-1, 32))
    return out


def _simple() -> nn.Sequential:
    return body(nn.ReLU())


CODE: dict[str, Callable[[], nn.Module]] = {
    "tensors": lambda: Code(lambda m, x: m.net((x - m.mean) / m.std), net=_simple(), mean=_of(0.3), std=_of(0.4)),
    "numbers": lambda: Code(lambda m, x: m.net((x - 0.3) / 0.4), net=_simple()),
    "bytes": lambda: Code(lambda m, x: m.net(2 * (x * 255) / 255 - 1), net=_simple()),
    "inverted": lambda: Code(lambda m, x: m.net(1 - x), net=_simple()),
    "mean_image": lambda: Code(lambda m, x: m.net(x - m.image), net=_simple(), image=torch.rand(SHAPE)),
    "image_factor": lambda: Code(lambda m, x: m.net(x * m.image), net=_simple(), image=torch.rand(SHAPE)),
    "limited": lambda: Code(lambda m, x: m.net(x.clamp(0, 1)), net=_simple()),
    "limited_inside": lambda: Code(lambda m, x: m.net((2 * x - 1).clamp(-0.9, 1)), net=_simple()),
    "log_softmax": lambda: Code(lambda m, x: F.log_softmax(m.net(x), dim=-1), net=_simple()),
    "global_mean": lambda: Code(lambda m, x: m.head(F.relu(m.a(x)).mean((2, 3))), a=conv(1, 6), head=head(6)),
    "global_max": lambda: Code(lambda m, x: m.head(F.relu(m.a(x)).amax((2, 3))), a=conv(1, 6), head=head(6)),
    "adaptive": lambda: Code(
        lambda m, x: m.head(F.adaptive_avg_pool2d(F.elu(m.a(x)), 1).view(x.size(0), -1)), a=conv(1, 6), head=head(6)
    ),
    "residual": lambda: Code(
        _residual,
        a=conv(1, 3, padding=1),
        b=conv(3, 3, padding=1),
        c=conv(3, 3, padding=1),
        first=batch_norm(3),
        second=batch_norm(3),
        head=head(27),
    ),
    "shared": lambda: Code(
        lambda m, x: m.head(F.relu(m.a(x) + m.b(F.relu(m.a(x)))).reshape(len(x), -1)),
        a=conv(1, 3, padding=1),
        b=conv(3, 3, padding=1),
        head=head(108),
    ),
    "sequence": lambda: Code(
        lambda m, x: m.head(F.relu(m.norm(m.a(x[:, 0]))).flatten(1)),
        a=nn.Conv1d(6, 4, 3, padding=1),
        norm=drawn(nn.BatchNorm1d(4)),
        head=head(24),
    ),
    "sequence_residual": lambda: Code(
        lambda m, x: m.head(F.relu(x[:, 0] + m.norm(m.a(x[:, 0]))).flatten(1)),
        a=nn.Conv1d(6, 6, 3, padding=1),
        norm=drawn(nn.BatchNorm1d(6)),
        head=head(36),
    ),
    "token_norm": lambda: Code(
        lambda m, x: m.head(m.slopes(m.norm(m.a(x[:, 0]))).flatten(1)),
        a=nn.Linear(6, 5),
        norm=drawn(nn.BatchNorm1d(6)),
        slopes=nn.PReLU(6),
        head=head(30),
    ),
    "sequence_instance": lambda: Code(
        lambda m, x: m.head(F.relu(m.norm(x[:, 0])).flatten(1)),
        norm=drawn(nn.InstanceNorm1d(6, affine=True, track_running_stats=True)),
        head=head(36),
    ),
    "volume": lambda: Code(
        lambda m, x: m.head(F.relu(m.norm(x.view(-1, 2, 3, 2, 3))).flatten(1)),
        norm=drawn(nn.BatchNorm3d(2)),
        head=head(36),
    ),
    "cat": lambda: Code(
        lambda m, x: m.head(torch.cat([F.relu(m.a(x)), torch.tanh(m.b(x))], 1).flatten(1)),
        a=conv(1, 3),
        b=conv(1, 2),
        head=head(80),
    ),
    "cat_features": lambda: Code(
        lambda m, x: m.head(torch.cat([F.relu(m.a(x)).flatten(1), m.b(x).flatten(1)], 1)),
        a=conv(1, 3),
        b=conv(1, 2),
        head=head(80),
    ),
    "cat_zeros": lambda: Code(
        lambda m, x: m.head((m.a(x) + torch.cat([x, x.new_zeros(len(x), 2, 6, 6)], 1)).relu().flatten(1)),
        a=conv(1, 3, padding=1),
        head=head(108),
    ),
    "stack": lambda: Code(
        lambda m, x: m.head(torch.stack([F.relu(m.a(x)).flatten(1), m.b(x).flatten(1)], 1)[:, :, 2:].flatten(1)),
        a=conv(1, 3),
        b=conv(1, 3),
        head=head(92),
    ),
    "ensemble": lambda: Code(
        lambda m, x: torch.stack([m.a(x), m.b(x), torch.ones(len(x), CLASSES)]).mean(0),
        a=body(nn.ReLU()),
        b=body(nn.ReLU()),
    ),
    "sum_of_stack": lambda: Code(
        lambda m, x: m.head(torch.stack([m.a(x), m.a(x.flip(3))]).sum(0).relu().flatten(1)), a=conv(1, 3), head=head(48)
    ),
    "index": lambda: Code(
        lambda m, x: m.head(F.relu(m.a(x)[:, [2, 0, 1]]).flatten(1)[:, torch.arange(47, -1, -1)])[:, [1, 0, 2, 4, 3]],
        a=conv(1, 3),
        head=head(48),
    ),
    "batch_product": lambda: Code(
        lambda m, x: m.head((m.left @ F.relu(m.a(x))[:, 0] @ m.right.expand(len(x), 4, 5)).flatten(1)),
        a=conv(1, 3),
        left=torch.randn(3, 4),
        right=torch.randn(4, 5),
        head=head(15),
    ),
    "two_streams": lambda: Code(
        lambda m, x: m.head(F.relu(m.a(x.flatten(1)) + m.b(F.relu(m.c(x)).flatten(1)))),
        a=nn.Linear(36, 8),
        b=nn.Linear(48, 8),
        c=conv(1, 3),
        head=head(8),
    ),
    "two_heads": lambda: Code(
        lambda m, x: torch.maximum(m.a(x.flatten(1)), m.b(F.relu(m.c(x)).flatten(1))),
        a=head(36),
        b=head(48),
        c=conv(1, 3),
    ),
    "chunk": lambda: Code(_chunks, a=conv(1, 4), head=head(32)),
    "maxout": lambda: Code(
        lambda m, x: m.head(torch.maximum(*m.a(x).split(2, 1)).view(-1, 32)), a=conv(1, 4), head=head(32)
    ),
    "functions": lambda: Code(
        lambda m, x: m.head(F.dropout(F.hardtanh(m.a(F.pad(x, (1, 1, 2, 0)))).clamp(max=0.5), 0.5, False).flatten(1)),
        a=conv(1, 2),
        head=head(72),
    ),
    "weight_norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(conv(1, 4)), nn.ReLU(), nn.Flatten(), head(64)
    ),
    "cosine": lambda: Code(
        lambda m, x: F.linear(m.net(x), F.normalize(m.weight)),
        net=nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU()),
        weight=torch.randn(CLASSES, 8),
    ),
    "batch_norm_1d": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.GELU(), nn.BatchNorm1d(8), head(8)
    ),
    "one_number": lambda: Code(_numbers, a=conv(1, 2), b=nn.Linear(1, 1)),
    "slices": lambda: Code(lambda m, x: m.head(F.relu(m.a(x)[:, :, 1:, ::2]).flatten(1)), a=conv(1, 3), head=head(18)),
    "permuted": lambda: Code(lambda m, x: m.head(m.a(x).permute(0, 2, 3, 1).flatten(1)), a=conv(1, 3), head=head(48)),
    "square": lambda: Code(lambda m, x: m.head((m.a(x) ** 2 - 0.1).abs().flatten(1)), a=conv(1, 3), head=head(48)),
    "asserts": lambda: Code(
        lambda m, x: m.head(F.elu(m.a(x) if x.dim() == 4 and x.shape[1] == 1 else x).flatten(1)),
        a=conv(1, 3),
        head=head(48),
    ),
    "tokens": lambda: Code(
        lambda m, x: m.head(m.b(F.relu(m.a(x.flatten(2).unflatten(2, (9, 4)))).flatten(1, 2).mT).flatten(1)),
        a=nn.Linear(4, 3),
        b=nn.Linear(9, 4, bias=False),
        head=head(12),
    ),
    "cosine_transform": lambda: Code(
        lambda m, x: m.head((m.basis @ F.relu(m.a(x)) @ m.basis.T).abs().flatten(1)),
        a=conv(1, 2),
        basis=torch.randn(3, 4),
        head=head(18),
    ),
    "columns": lambda: Code(
        lambda m, x: m.head(F.unfold(F.relu(m.a(x)), 2, stride=2).flatten(1)), a=conv(1, 2), head=head(32)
    ),
    "windows": lambda: Code(
        lambda m, x: m.head(F.relu(m.a(x)).unfold(2, 2, 2).unfold(3, 3, 1).flatten(1)), a=conv(1, 2), head=head(48)
    ),
    "masks": lambda: Code(_masks, a=conv(1, 3), fixed=torch.tensor([True, False, True]), head=head(32)),
    "contractions": lambda: Code(
        lambda m, x: m.head(torch.cat([part.flatten(1) for part in _contractions(m, F.relu(m.a(x)))], 1)),
        a=conv(1, 3),
        pairs=torch.randn(2, 3),
        planes=torch.randn(2, 3, 4),
        each=torch.randn(3, 4, 4),
        vector=torch.randn(4),
        head=head(333),
    ),
    "shortcut": lambda: Code(
        lambda m, x: m.head(F.relu(m.a(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1), "constant", 0)).flatten(1)),
        a=conv(1, 3, padding=1, stride=2),
        head=head(27),
    ),
    "shifted": lambda: Code(lambda m, x: m.head(_shifted(m.a(x)).relu().flatten(1)), a=conv(1, 3), head=head(48)),
    "limits": lambda: Code(
        lambda m, x: m.head(torch.minimum(torch.maximum(m.a(x), m.low), m.high[0]).clamp(m.low[0, 0, 0]).flatten(1)),
        a=conv(1, 3),
        low=-torch.rand(3, 4, 4),
        high=torch.rand(1, 3, 1, 1),
        head=head(48),
    ),
    "stack_twice": lambda: Code(_stack_twice, a=conv(1, 3), head=head(96)),
    "copied": lambda: Code(lambda m, x: m.head(_copied(m.a(x)).relu().flatten(1)), a=conv(1, 3), head=head(48)),
    "two_scales": lambda: Code(
        lambda m, x: m.head(torch.cat([m.a((x - 0.1) / 0.3), F.relu(m.a(m.b((x - 0.5) / 0.2)))], 1).flatten(1)),
        a=conv(1, 2),
        b=conv(1, 1, padding=1),
        head=head(64),
    ),
    "mirrored": lambda: Code(
        lambda m, x: m.head((F.relu(m.a(x)[:, :, [3, 1, 0, 2]]) + m.a(x).index_select(3, m.order)).flatten(1)),
        a=conv(1, 3),
        order=torch.arange(3, -1, -1),
        head=head(48),
    ),
    "written": lambda: Code(lambda m, x: m.head(_written(m.a(x)).relu().flatten(1)), a=conv(1, 3), head=head(48)),
    "extremes": lambda: Code(
        lambda m, x: m.head(torch.cat([part.flatten(1) for part in _extremes(m.a(x))], 1)), a=conv(1, 4), head=head(116)
    ),
    "resized_lines": lambda: Code(
        lambda m, x: m.head(torch.cat([part.flatten(1) for part in _resized(F.relu(m.a(x)))], 1)),
        a=conv(1, 3),
        head=head(740),
    ),
    "chosen": lambda: Code(
        lambda m, x: m.head(torch.cat([part.flatten(1) for part in _chosen(F.relu(m.a(x)))], 1)),
        a=conv(1, 3),
        head=head(204),
    ),
    "distances": lambda: Code(
        lambda m, x: -((F.relu(m.a(x)).flatten(1)[:, None] - m.w) ** 2).sum(2), a=conv(1, 3), w=torch.rand(CLASSES, 48)
    ),
    "group_sort": lambda: Code(
        lambda m, x: m.head(m.a(x).unflatten(1, (2, 2)).sort(2)[0].flatten(1)), a=conv(1, 4), head=head(64)
    ),
    "sorted": lambda: Code(
        lambda m, x: m.head(torch.cat([part.flatten(1) for part in _sorted(m.a(x))], 1)), a=conv(1, 4), head=head(168)
    ),
    "log_sigmoid": lambda: body(nn.LogSigmoid()),
    "rrelu": lambda: body(nn.RReLU()),
    "gates": lambda: Code(
        lambda m, x: m.head(torch.cat([part.flatten(1) for part in _gated(m.a(x))], 1)), a=conv(1, 2), head=head(128)
    ),
    "own_functions": lambda: Code(
        lambda m, x: m.head(_Inherits.apply(_Positive.forward(_Positive.apply(m.a(x))), 2.0).flatten(1)),
        a=conv(1, 3),
        head=head(48),
    ),
    "highest_of_nets": lambda: Code(
        lambda m, x: torch.stack([n(x) for n in (m.a, m.b, m.c)]).max(0)[0] + torch.stack([m.a(x), m.c(x)]).amin(0),
        **{name: body(nn.ReLU()) for name in "abc"},
    ),
    "log_probabilities": lambda: Code(
        lambda m, x: torch.stack([F.log_softmax(n(x), 1) for n in (m.a, m.b)]).mean(0) + 2 * m.c(x).log_softmax(-1),
        **{name: body(nn.ReLU()) for name in "abc"},
    ),
    "cat_rows": lambda: Code(
        lambda m, x: m.head(torch.cat([F.relu(m.a(x)), m.a(x.flip(3))], 2).flatten(1)), a=conv(1, 3), head=head(96)
    ),
    "numbers_of_weights": lambda: Code(
        _numbers_of_weights,
        a=conv(1, 3),
        weight=torch.randn(CLASSES, 48),
        mask=torch.arange(48) % 3 > 0,
        scale=torch.tensor(0.3),
    ),
    "in_place": lambda: Code(
        lambda m, x: m.head(F.relu_(m.a(x.clone().sub_(0.5))).add(1).flatten(1)), a=conv(1, 3), head=head(48)
    ),
}
KINDS = (
    {name: lambda make=make: body(make()) for name, make in ACTIVATIONS.items()}
    | {name: lambda make=make: before_relu(make()) for name, make in LAYERS.items()}
    | CODE
)


def _of(value: float) -> Tensor:
    return torch.tensor([value]).view(1, 1, 1, 1)
