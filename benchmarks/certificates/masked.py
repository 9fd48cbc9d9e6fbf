"""Classes that a network is not to predict: their logit is -inf, and no bound is computed through it."""

from dataclasses import replace

import torch
from torch import nn

from marginbench.benchmarks.estimator import Query

REASON = "logits of -inf that are not a bias of the last layer: leave these classes out of the network instead"


def without_masked(q: Query) -> Query | str:
    """The same question about the network without the classes whose bias in the last layer is -inf, or why not.

    Whatever the image, such a class never wins, so the margins are those of the smaller network.

    Args:
        q: about images of classes that are not masked, and layers that end in a linear one.
    """
    layers = q.layers
    last = layers[-1] if len(layers) else None
    if isinstance(last, nn.Linear) and last.bias is not None:
        kept = ~last.bias.isneginf()
        if not bool(kept.all()) and bool(last.weight.isfinite().all()):
            smaller = nn.Linear(last.in_features, int(kept.sum()), device="meta").to_empty(device=last.weight.device)
            smaller.weight = nn.Parameter(last.weight[kept], requires_grad=False)
            smaller.bias = nn.Parameter(last.bias[kept], requires_grad=False)
            q = replace(q, net=nn.Sequential(*layers[:-1], smaller).eval(), y=(kept.cumsum(0) - 1)[q.y])
    with torch.no_grad():
        return REASON if bool(q.net(q.x).isneginf().any()) else q
