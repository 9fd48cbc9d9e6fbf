"""The check that labels reach the network through its training state alone."""

import copy

import torch
from torch import Tensor

from marginbench.benchmarks.contract.fixtures import CLASSES, Stage, require, stage
from marginbench.benchmarks.machine import seeds
from marginbench.methods import Batch, Method

TIMES = 5  # the change of one image that is accepted, relative to the largest change of any other
ROUNDING = 1e-5  # of the largest logit


def forward_ignores_labels(method: Method) -> None:
    """The label of an image says no more about that image, in net(x) after the loss, than about the others.

    One label of the batch is changed at a time. A scale or an offset common to all logits may follow, and so may
    class centres or priors, which move what is said of all images; a label that is kept moves that of its own image.
    """
    s = stage(method)
    given = _logits(s, s.batch.y)
    allowed = ROUNDING * float(given.abs().max())
    for i in range(0, len(given), len(given) // 4):
        y = s.batch.y.clone()
        y[i] = (y[i] + 1) % CLASSES
        change = _change(given, _logits(s, y), i)
        own, most = float(change[i]), float(change[torch.arange(len(change)) != i].max())
        require(
            own <= TIMES * most + allowed,
            f"net(x) depends on the labels that the loss saw before: another label of image {i} changes the logits of"
            f" that image by {own:.2g} and of no other by more than {most:.2g}, a common scale and offset aside",
        )


def _logits(s: Stage, y: Tensor) -> Tensor:
    """net(x) [B, K] in eval mode after the loss has seen these labels; the stage stays as it is."""
    net = copy.deepcopy(s.net)
    tables, stream = copy.deepcopy(s.ctx.tables), s.ctx.generator.get_state()
    with seeds.seeded(s.ctx.device, "contract", "dropout"):
        s.method.loss(net, s.method.augment(Batch(s.batch.x, y, s.batch.index), s.ctx), s.ctx)
    s.ctx.tables = tables
    s.ctx.generator.set_state(stream)
    with torch.no_grad():
        out: Tensor = net.eval()(s.batch.x)
    return out.double()


def _change(before: Tensor, after: Tensor, i: int) -> Tensor:
    """[B] lengths of after - (a before + b), with the numbers a and b that fit the logits of all images but i best."""
    rest = torch.arange(len(before)) != i
    x, y = before[rest].flatten(), after[rest].flatten()
    design = torch.stack([x, torch.ones_like(x)], 1)
    a, b = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    length: Tensor = (after - a * before - b).norm(dim=1)
    return length
