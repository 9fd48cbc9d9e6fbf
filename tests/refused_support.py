"""Modules as strangers write them, for images [1, 6, 6]: certificates refuse them, in these words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from module_support import Code, conv, head
from torch import Tensor, nn
from torch.nn import functional as F


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
    "instance_norm": (nn.InstanceNorm2d(4), "keep a first dimension of their own (view), as in InstanceNorm,"),
    "statistics_of_the_batch": (nn.BatchNorm2d(4, track_running_stats=False), "without running statistics"),
    "response_norm": (
        nn.LocalResponseNorm(3),
        "a power other than 2 (LocalResponseNorm has one) has no sound bound here",
    ),
    "max_pool_3d": (
        lambda m, x: F.max_pool3d(x[:, None], 1)[:, 0],
        "MaxPool3d has no sound bound here: MaxPool1d and MaxPool2d have one",
    ),
    "adaptive_max_pool_3d": (
        lambda m, x: F.adaptive_max_pool3d(x[:, None], x.shape[1:])[:, 0],
        "AdaptiveMaxPool3d has no sound bound here: those of one and two dimensions have one",
    ),
    "cdist": (
        lambda m, x: torch.cdist(x.flatten(1), torch.eye(144)),
        r"torch.cdist has no sound bound here: ((x[:, None] - w) ** 2).sum(2) has one",
    ),
    "unpool": (
        lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        "MaxUnpool has no sound bound here: the image decides where its values go",
    ),
    "jump": (nn.Threshold(0, 1), "threshold with a jump has no sound bound here"),
    "gather": (lambda m, x: x.gather(0, torch.zeros(x.shape).long()), "gather has no sound bound here"),
    "triangle": (lambda m, x: x.flatten(1).triu().view(x.shape), "triu"),
    "rms_norm": (nn.RMSNorm([4, 6, 6]), "an addition in place, as in RMSNorm, has no sound bound here"),
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
    "largest_of_stack": (
        lambda m, x: torch.stack([x, x.new_ones(1).expand_as(x)]).amax(0),
        "stack has no sound bound here",
    ),
    "negative_softplus": (lambda m, x: F.softplus(x, -1.0), "softplus with a negative parameter has no sound"),
    "negative_elu": (lambda m, x: F.elu(x, -1.0), "elu with a negative parameter has no sound"),
    "negative_celu": (lambda m, x: F.celu(x, -1.0), "celu with a negative parameter has no sound"),
    "no_order": (lambda m, x: x + x.topk(2, 1, sorted=False)[0].repeat(1, 2, 1, 1), "topk in no order has no sound"),
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
    "mean_of_the_batch": (lambda m, x: x - x.mean(0, keepdim=True), "images do not keep"),
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
