"""The learning curve: how good the network is between epochs, on images it is trained on and on others."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from marginbench.benchmarks.data.batches import logits_of
from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.records.record import CurvePoint
from marginbench.methods import Net, predicted_class
from marginbench.methods.maths.perturb import eval_mode

SHARE = 0.02  # of the passes of a training with cross-entropy that all points may take


class Curve:
    """Accuracy and cross-entropy on the validation images, and on as many training images, at the end of epochs.

    Args:
        every: epochs between two points. Default: as few as keep the points below 2 % of the training's passes, if
            each image of an epoch goes forward and, at twice the cost, backward. The last epoch has a point always.
    """

    def __init__(self, data: Dataset, every: int | None = None) -> None:
        self._validation, self._train = data.validation, seen_split(data)
        passes = 3 * len(data.train)
        self._every = every or math.ceil((len(self._validation) + len(self._train)) / (SHARE * passes))
        self.points: list[CurvePoint] = []

    def due(self, epoch: int, epochs: int) -> bool:
        return epoch % self._every == 0 or epoch == epochs

    def add(self, epoch: int, net: Net, passes: PassCounter) -> None:
        """Measure the network as it is now. It does not notice, and nor do the counted passes."""
        counted, device = passes.forward, self._train.device
        with eval_mode(net), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            seen, unseen = _measure(net, self._train), _measure(net, self._validation)
        passes.forward = counted
        self.points.append(CurvePoint(epoch, *seen, *unseen))


def seen_split(data: Dataset) -> Split:
    """As many training images as there are validation images, or all: a sample in which each class has its share."""
    return data.train.rows(data.train.sample(len(data.validation)))


def accuracy(logits: Tensor, split: Split) -> float:
    """Share of the images in their class; logits [N, K]."""
    return int((predicted_class(logits) == split.y).sum()) / len(split)  # exact, as a mean in float32 is not


def _measure(net: Net, split: Split) -> tuple[float, float | None]:
    logits = logits_of(net, split).float()
    loss = float(F.cross_entropy(logits, split.y))
    return accuracy(logits, split), loss if math.isfinite(loss) else None
