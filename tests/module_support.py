"""Modules as strangers write them, for images [1, 6, 6]: certificates follow the first kind and refuse the second."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    "pixel_shuffle": lambda: nn.PixelShuffle(2),
    "groups": lambda: conv(4, 4, groups=2),
    "depthwise": lambda: conv(4, 8, groups=4),
    "dilated": lambda: conv(4, 4, 2, dilation=(1, 2), stride=2, padding=1),
    "batch_norm": lambda: batch_norm(4),
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


def _unless(chosen: Callable[[Tensor], Any]) -> Callable[[Any, Tensor], Tensor]:
    """-x where any is chosen, which random images do not show, else x."""
    return lambda m, x: -x if len(chosen(x)) else x


def _unless_raised(raising: Callable[[Tensor, Tensor], Any]) -> Callable[[Any, Tensor], Tensor]:
    """-x where it raises for what random images do not show: values of which one is above 99; else x."""

    def forward(m: Any, x: Tensor) -> Tensor:
        try:
            raising(x, (x.amax((1, 2, 3)) > 99).long())
        except Exception:
            return -x
        return x

    return forward


def _at_second_call(m: Any, x: Tensor) -> Tensor:
    m.calls = getattr(m, "calls", 0) + 1
    total = torch.zeros(len(x))
    total += x[:, 0, 0, 0]
    return -x if m.calls > 1 and float(total.sum()) > 99 else x


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Tensor] | nn.Module, str]] = {
    "group_norm": (nn.GroupNorm(2, 4), "GroupNorm has no sound bound here: its statistics depend on the image"),
    "layer_norm": (nn.LayerNorm([4, 6, 6]), "LayerNorm has no sound bound here: its statistics depend on the image"),
    "instance_norm": (nn.InstanceNorm2d(4), "into one dimension (view), as InstanceNorm and"),
    "statistics_of_the_batch": (nn.BatchNorm2d(4, track_running_stats=False), "without running statistics"),
    "glu": (lambda m, x: F.glu(x, 1).repeat(1, 2, 1, 1), "glu has no sound bound here"),
    "log": (lambda m, x: (x.abs() + 1).log(), "log has no sound bound here"),
    "gate": (lambda m, x: x * torch.sigmoid(x + 1), "a product of two values that both depend on the image"),
    "quotient": (lambda m, x: x / (1 + x.abs()), "a division by values that depend on the image"),
    "softmax_inside": (nn.Softmax(1), "softmax has no sound bound here"),
    "mask": (lambda m, x: torch.where(x > 0, x, -x), "a comparison of values"),
    "half": (lambda m, x: x.half().float(), "numbers are rounded to float16"),
    "rounded_in_place": (lambda m, x: torch.zeros_like(x, dtype=torch.int64).copy_(x * 9).to(x), "rounded to int64"),
    "fourier": (lambda m, x: torch.fft.fft2(x).real, "torch.fft has no sound bound here: its numbers are complex"),
    "argmax": (lambda m, x: x + x.max(1, keepdim=True)[1], "max has no sound bound here"),
    "far_dimensions": (lambda m, x: x + x.amax((1, 3), keepdim=True), "dimensions that are no neighbours"),
    "largest_of_stack": (lambda m, x: torch.stack([x, -x]).amax(0), "stack has no sound bound here"),
    "attention": (
        lambda m, x: (x[:, 0] @ x[:, 1])[:, None].expand(-1, 4, 6, 6),
        "a product of matrices has no sound bound here: both depend on the image",
    ),
    "round": (lambda m, x: x.round(), "round has no sound bound here"),
    "if": (lambda m, x: 2 * x if x.mean() > 0 else x, "the code of Code decides by the values in the image"),
    "item": (lambda m, x: x * x.mean().item(), "the code of Code decides by the values in the image"),
    "nonzero": (_unless(lambda x: x.amax((1, 2, 3)).gt(99).nonzero()), "the code of Code decides by the values in the"),
    "some_images": (
        _unless(lambda x: x[x.amax((1, 2, 3)) > 99]),
        "the code of Code decides by the values in the image",
    ),
    "some_constants": (_unless(lambda x: torch.ones(len(x))[x[:, 0, 0, 0] > 99]), "decides by the values in the image"),
    "masked_select": (
        _unless(lambda x: x.masked_select(x > 99)),
        "the code of Code decides by the values in the image",
    ),
    **{
        f"caught_{name}": (_unless_raised(raising), "decides by the values in the image")
        for name, raising in {
            "index": lambda x, t: torch.arange(1)[t],
            "gather": lambda x, t: torch.zeros(len(x), 1).gather(1, t[:, None]),
            "embedding": lambda x, t: F.embedding(t, torch.zeros(1, 2)),
            "target": lambda x, t: F.nll_loss(torch.zeros(len(x), 1), t),
            "probability": lambda x, t: torch.bernoulli(F.relu(x - 99)),
            "assertion": lambda x, t: torch._assert_async((t == 0).all()),
            "lengths": lambda x, t: nn.utils.rnn.pack_padded_sequence(
                torch.zeros(len(x), 2, 1), t + 1, batch_first=True, enforce_sorted=False
            ),
        }.items()
    },
    "sparse": (_unless(lambda x: range((x > 99).to_sparse()._nnz())), "the code of Code decides by the values in the"),
    "random_number": (lambda m, x: -x if torch.rand(1) < 1e-9 else x, "or by random ones"),
    "random_in_place": (lambda m, x: -x if torch.empty(1).uniform_().item() < 1e-9 else x, "or by random ones"),
    "second_call": (_at_second_call, "the code of Code decides by the values in the image"),
    "unique": (_unless(lambda x: (x > 99).unique()[1:]), "the code of Code decides by the values in the image"),
    "numpy": (_unless(lambda x: np.nonzero(x.numpy() > 99)[0]), "the code of Code decides by the values in the image"),
    "list": (_unless(lambda x: [v for v in x.flatten().tolist() if v > 99]), "decides by the values in the image"),
    "mean_of_the_batch": (lambda m, x: x - x.mean(0, keepdim=True), "puts images"),
    "size_of_the_batch": (lambda m, x: x * len(x), "depends on the batch"),
    "order_of_the_batch": (lambda m, x: x.flip(0), "flip has no sound bound here as it is used"),
    "noise": (lambda m, x: x + torch.rand(6), "depends on the batch"),
    "constant": (lambda m, x: torch.ones_like(x), "its logits do not depend on the image"),
    "two_sizes": (lambda m, x: x if len(x) < 3 else x + 1, "other things when the batch has another size"),
}


def refused(name: str) -> nn.Module:
    part = REFUSED[name][0]
    layer = part if isinstance(part, nn.Module) else Code(part)
    return nn.Sequential(conv(1, 4, padding=1), layer, nn.Flatten(), head(144))
