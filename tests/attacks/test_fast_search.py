"""Attacks search in TF32 on CUDA, and are judged in float32: nothing is lost, and the network is as it was."""

import pytest
import torch
from attack_support import EPSILON, images, predicted, random_net
from support import a_query
from torch import nn

from marginbench.benchmarks.attacks.ray import is_adversarial, pushed
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.machine import search
from marginbench.benchmarks.machine.search import fast_search, kernels_in
from marginbench.benchmarks.speed.search_precision import rounded, searching
from marginbench.methods import NORMS, Norm

CPU = torch.device("cpu")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.gradient])
def test_a_search_in_tf32_finds_what_one_in_float32_does(name: str, norm: Norm) -> None:
    net, x = random_net(2), images(2, 40, 1.0)
    y = predicted(net, x)
    q = a_query(net, x, y, norm, epsilon=EPSILON[norm], reference=images(9, 40, 1.0))
    plain = ATTACKS[name](q).upper
    q.generator.manual_seed(0)
    with searching(coarse=True, device=CPU):
        coarse = ATTACKS[name](q).upper
    assert plain is not None and coarse is not None and not torch.equal(coarse, plain)
    assert (coarse.isfinite() == plain.isfinite()).float().mean() > 0.94
    both = coarse.isfinite() & plain.isfinite()
    assert coarse[both].mean() < 1.02 * plain[both].mean()


def test_ten_bits() -> None:
    values = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-12, -3.14159265])
    assert rounded(values).tolist() == [1.0, 1 + 2**-10, 1.0, -3.140625]


def test_a_point_just_short_of_the_boundary_is_pushed_over_it() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        net[1].bias.copy_(torch.tensor([0.0, -0.5]))
    x, y = torch.tensor([[0.0, 0.2], [0.0, 0.2], [0.0, 0.2]]).view(3, 1, 1, 2), torch.zeros(3, dtype=torch.int64)
    candidate = torch.tensor([[0.4997, 0.2], [0.4, 0.2], [0.6, 0.2]]).view_as(x)
    point = pushed(net, x, candidate, y)
    assert is_adversarial(net, point, y).tolist() == [True, False, True]
    assert 0.5 < float(point[0, 0, 0, 0]) < 0.5003
    assert torch.equal(point[1:], candidate[1:])


def test_the_layout_is_as_it_was_and_a_cpu_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    weight, before = net[0].weight, net[0].weight.data_ptr()
    logits = net(torch.ones(2, 3, 5, 5))
    with fast_search(net, CPU):
        assert weight.data_ptr() == before
    monkeypatch.setattr(search, "is_coarse_on", lambda device: True)
    with fast_search(net, CPU):
        assert weight.is_contiguous(memory_format=torch.channels_last) and torch.backends.cudnn.allow_tf32
        assert torch.allclose(net(torch.ones(2, 3, 5, 5)), logits, atol=1e-6)
    with pytest.raises(ZeroDivisionError), kernels_in(net, torch.channels_last):
        raise ZeroDivisionError
    assert weight.data_ptr() == before and weight.is_contiguous()
