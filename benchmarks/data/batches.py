"""A network on a whole split, in batches that fit into memory."""

import torch
from torch import Tensor, nn

from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.machine.memory import ROWS, Chunks


@torch.no_grad()
def logits_of(net: nn.Module, split: Split) -> Tensor:
    """[N, K] logits of all images of a split."""
    return torch.cat(Chunks(ROWS).map(lambda part: net(split.images(part)), len(split)))
