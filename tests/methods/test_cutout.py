"""Cutout against its reference, its limits, and the area that it takes."""

import pytest
import torch
from support import assert_same, reference, stage

from marginbench.methods import MarginbenchError, create
from marginbench.methods.augmentation.cutout import _squares


@pytest.mark.parametrize(("length", "side"), [(0.25, 1), (0.5, 2), (0.75, 3)])
def test_cutout_matches_its_reference(length: float, side: int) -> None:
    method, net, batch, ctx = stage(f"cutout(length={length})", name="cnn")
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.randint(4, (12, 1), generator=generator).flatten().tolist() for _ in range(2))
    x = reference("cutout").cut(batch.x, list(zip(rows, columns, strict=True)), side, net.normalise.mean.flatten())
    assert_same(method.loss(net, batch, ctx).total, reference("ce").loss(net, x, batch.y), net)


def test_no_length_is_the_identity_and_the_longest_takes_everything() -> None:
    x = torch.rand(50, 3, 6, 9)
    generator = torch.Generator().manual_seed(0)
    assert not _squares(x, 0.0, generator).any()
    assert _squares(x[..., :6], 2.0, generator).all()


@pytest.mark.parametrize("length", [0.25, 0.5, 0.625])
def test_squares_have_their_side_unless_a_border_clips_them(length: float) -> None:
    x = torch.rand(4000, 1, 16, 24)
    hole = _squares(x, length, torch.Generator().manual_seed(0))
    assert hole.shape == (4000, 1, 16, 24)
    side = round(16 * length)
    height, width = hole.any(3).sum(2), hole.any(2).sum(2)
    assert torch.equal(hole.sum((1, 2, 3)), (height * width).flatten())
    assert int(height.max()) == int(width.max()) == side
    assert int(height.min()) == int(width.min()) == side - side // 2  # the centre is on the border

    def mean(pixels: int) -> float:
        starts = range(-(side // 2), pixels - side // 2)
        return sum(min(start + side, pixels) - max(start, 0) for start in starts) / pixels

    assert float(height.double().mean()) == pytest.approx(mean(16), rel=0.02)
    assert float(width.double().mean()) == pytest.approx(mean(24), rel=0.02)


def test_images_get_squares_of_their_own_and_evaluation_gets_none() -> None:
    method, net, batch, ctx = stage("cutout")
    assert len({tuple(map(tuple, hole[0].tolist())) for hole in _squares(batch.x, 0.5, ctx.generator)}) > 4
    before = net(batch.x)
    method.loss(net, batch, ctx)
    torch.testing.assert_close(net(batch.x), before, rtol=0, atol=0)


@pytest.mark.parametrize("length", ["-0.5", "3.0"])
def test_bad_length_is_refused(length: str) -> None:
    with pytest.raises(MarginbenchError, match="cutout"):
        create(f"cutout(length={length})")
