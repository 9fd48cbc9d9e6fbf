"""A network on a whole split, in batches that fit into memory."""

import torch
from torch import Tensor, nn

from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.machine.memory import Chunks, rows_at_once


@torch.no_grad()
def logits_of(net: nn.Module, split: Split) -> Tensor:
    """[N, K] logits of all images of a split."""
    rows = rows_at_once(net, split.images(slice(1)), gradients=False)
    return torch.cat(Chunks(rows).map(lambda part: net(split.images(part)), len(split)))
