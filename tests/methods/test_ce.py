"""Cross-entropy against its reference and its identities."""

import math

import torch
from support import EXACT, assert_same, reference, stage
from torch.nn import functional as F

from marginbench.methods import (
    Batch,
)
from marginbench.methods import method as contract


def test_cross_entropy_matches_its_reference() -> None:
    method, net, batch, ctx = stage("ce")
    assert_same(method.loss(net, batch, ctx).total, reference("ce").loss(net, batch.x, batch.y), net)


def test_cross_entropy_is_the_softplus_of_the_soft_margin() -> None:
    z = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(9) % 4
    margins = torch.stack([reference("mma").soft_margin(row, label) for row, label in zip(z, y, strict=True)])
    batch = Batch(z, y, y)
    torch.testing.assert_close(contract.cross_entropy(z, batch), F.softplus(margins).mean(), **EXACT)
    torch.testing.assert_close(contract.cross_entropy(0 * z, batch).item(), math.log(4))
