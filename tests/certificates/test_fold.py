"""Affine layers are folded, and dropout is left out, without a change of the function."""

import pytest
import torch
from certificate_support import certify, images, network, predicted
from torch import Tensor, nn

from marginbench.benchmarks.certificates import _fold
from marginbench.methods import NORMS, Residual


def test_folding_keeps_the_function() -> None:
    net, x = network("cnn", 8), images(6)
    folded = _fold.fold_affine(net, x, limit=2**20)
    assert folded is not None
    assert [type(layer) for layer in folded] == [nn.Linear, nn.ReLU] * 3 + [nn.Linear]
    with torch.no_grad():
        assert torch.allclose(folded(x.flatten(1)), net(x), atol=1e-5)
        assert torch.allclose(_fold.traceable(net, x)(x), net(x), atol=1e-5)
    assert _fold.fold_affine(net, x, limit=100) is None


def test_layers_that_only_look_affine_are_not_folded() -> None:
    class Cosine(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x / x.norm(dim=1, keepdim=True))

    net, x = network("mlp", 0), images(4)
    assert _fold.fold_affine(nn.Sequential(*net[:-1], Cosine(4, 5)), x, limit=2**20) is None


def test_dropout_at_any_depth_changes_no_radius(capsys: pytest.CaptureFixture[str]) -> None:
    def with_dropout(*dropout: nn.Module) -> nn.Sequential:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), *dropout, nn.Conv2d(4, 4, 3, padding=1))
            first, last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(256, 5)
        return nn.Sequential(first, *dropout, Residual(nn.Identity(), branch), nn.Flatten(), last).eval()

    x, (plain, dropped) = images(4), (with_dropout(), with_dropout(nn.Dropout(0.4)))
    label = predicted(plain, x)
    for norm in NORMS:
        radius = certify(dropped, x, label, norm)
        assert (radius > 0).all()
        assert torch.equal(radius, certify(plain, x, label, norm))
    assert isinstance(dropped[1], nn.Dropout), "the network itself stays as it is"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("conv_mode", ["dense", "patches"])
def test_a_last_layer_without_bias_is_certified(conv_mode: str) -> None:
    net, x = network("cnn", 2), images(6)
    net[-1].bias.data.zero_()
    bare = nn.Sequential(*net[:-1], nn.Linear(net[-1].in_features, net[-1].out_features, bias=False))
    bare[-1].weight = net[-1].weight
    label = predicted(net, x)
    for norm in NORMS:
        radius = certify(bare, x, label, norm, conv_mode=conv_mode)
        assert (radius > 0).all() and torch.equal(radius, certify(net, x, label, norm, conv_mode=conv_mode))
    assert bare[-1].bias is None
