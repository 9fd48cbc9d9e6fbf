"""A class masked by a large negative number counts as one masked by -inf, however it is written."""

from collections.abc import Callable

import pytest
import torch
from certificate_support import images, network, predicted
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.attacks._wrap import Logits
from marginbench.benchmarks.certificates._simplify import simplified
from marginbench.benchmarks.certificates.masked import REASON, without_masked
from marginbench.benchmarks.certificates.scan import CERTIFICATES
from marginbench.benchmarks.evaluation.disguise import probabilities
from marginbench.methods.maths import rounding
from marginbench.methods.maths.rounding import in_reach, logit_allowance

CLASS = 3  # of 5
LOWEST = torch.finfo(torch.float32).min
VALUES = (-1e3, -1e4, -65504.0, -1e6, -1e9, LOWEST, -torch.inf)


class Masked(nn.Module):
    """A network behind which a class is masked by code."""

    def __init__(self, net: nn.Module, mask: Callable[[Tensor, float], Tensor], value: float) -> None:
        super().__init__()
        self.net, self.mask, self.value = net, mask, value

    def forward(self, x: Tensor) -> Tensor:
        return self.mask(self.net(x), self.value)


def written(z: Tensor, value: float, place: int | slice | list[int]) -> Tensor:
    z = z.clone()
    z[:, place] = value
    return z


def at_class() -> Tensor:
    return torch.arange(5) == CLASS


MASKS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "added": lambda z, value: z + torch.where(at_class(), value, 0.0),
    "masked_fill": lambda z, value: z.masked_fill(at_class(), value),
    "masked_fill of a tensor": lambda z, value: z.masked_fill(at_class(), torch.tensor(value)),
    "where": lambda z, value: torch.where(at_class(), value, z),
    "where the others are": lambda z, value: torch.where(~at_class().expand_as(z), z, torch.tensor(value)),
    "written": lambda z, value: written(z, value, CLASS),
    "written to a slice": lambda z, value: written(z, value, slice(CLASS, CLASS + 1)),
    "written to a list": lambda z, value: written(z, value, [CLASS]),
    "index_fill": lambda z, value: z.index_fill(1, torch.tensor([CLASS]), value),
    "put together": lambda z, value: torch.cat([z[:, :CLASS], torch.full_like(z[:, :1], value), z[:, CLASS + 1 :]], 1),
}


def masked(mask: str, value: float) -> nn.Sequential:
    return nn.Sequential(Masked(network("mlp", 3), MASKS[mask], value)).eval().requires_grad_(False)


def kept(net: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    label = predicted(net, x)
    assert (label != CLASS).all()
    return x, label


def radii(certificate: str, mask: str, value: float) -> Tensor:
    net = masked(mask, value)
    x, label = kept(net, images(12))
    found = CERTIFICATES[certificate](a_query(simplified(net, x), x, label, "linf"))
    assert found.lower is not None, found.reason
    return found.lower


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("mask", ["added", "written"])
@pytest.mark.parametrize("certificate", ["crown", "ibp", "lipschitz"])
def test_any_number_that_is_low_enough_gives_the_same_radii(certificate: str, mask: str, value: float) -> None:
    least = radii(certificate, "added", -torch.inf)
    assert (least > 0).all()
    torch.testing.assert_close(radii(certificate, mask, value), least, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", [-1e9, -torch.inf])
@pytest.mark.parametrize("mask", MASKS)
def test_any_code_gives_the_same_radii(mask: str, value: float) -> None:
    torch.testing.assert_close(radii("crown", mask, value), radii("crown", "added", -torch.inf), rtol=1e-3, atol=1e-6)


def test_exact_margins_do_not_see_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    net = masked("added", -1e9)
    x, label = kept(net, images(2))

    def exact() -> Tensor:
        found = CERTIFICATES["milp"](a_query(simplified(net, x), x, label, "linf")).lower
        assert found is not None
        return found

    seen = exact()
    torch.testing.assert_close(seen, radii("milp", "added", -torch.inf)[:2], rtol=5e-3, atol=1e-4)
    monkeypatch.setattr(rounding, "REACH", torch.inf)  # a mutant
    assert (exact() < 0.5 * seen).all()


@pytest.mark.parametrize("value", [-1e5, -1e9])
def test_where_all_classes_count_the_mask_costs_the_certificate(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: the allowance of all gaps is that of the masked class."""
    least = radii("lipschitz", "added", -torch.inf)
    monkeypatch.setattr(rounding, "REACH", torch.inf)
    assert (radii("lipschitz", "added", value) < 0.9 * least).all()


def test_a_class_out_of_reach_has_an_allowance_of_its_own() -> None:
    net = masked("added", -1e9)
    x, _ = kept(net, images(4))
    allowance, logits = logit_allowance(net, x), net(x)
    own = torch.arange(5) == CLASS
    assert (in_reach(logits) == ~own).all()
    assert (allowance[:, own] >= 1e-5 * 1e9).all() and (allowance[:, ~own] < 1e-2).all()
    assert (allowance[:, ~own] == allowance[:, :1]).all()


def test_ordinary_classes_are_all_in_reach() -> None:
    logits = torch.tensor([[9.0, 8.0, -50.0], [0.1, -0.1, -0.2], [100.0, -100.0, -100.0], [-1e-4, -9.2, -20.0]])
    assert in_reach(logits).all()
    assert in_reach(torch.tensor([[3.0, 1.0, -torch.inf]])).tolist() == [[True, True, False]]


@pytest.mark.parametrize("value", VALUES)
def test_a_mask_does_not_make_logits_probabilities(value: float) -> None:
    net = masked("added", value)
    assert probabilities(net, images(20)) is None
    disguised = nn.Sequential(net, nn.Softmax(1), Masked(nn.Identity(), MASKS["written"], -1e9))
    assert probabilities(nn.Sequential(net, nn.Softmax(1)), images(20)) is not None
    assert probabilities(disguised, images(20)) is not None


@pytest.mark.parametrize("value", VALUES[:-1])
def test_foreign_attacks_see_logits_as_behind_a_mask_of_minus_infinity(value: float) -> None:
    x = images(6)
    wanted = Logits(masked("written", -torch.inf), x.device)(x)
    torch.testing.assert_close(Logits(masked("written", value), x.device)(x), wanted)


def test_a_mask_that_depends_on_the_image_has_no_bound() -> None:
    net = nn.Sequential(Masked(network("mlp", 3), lambda z, value: z.masked_fill(z < -1, value), -1e9)).eval()
    x = images(4)
    answer = CERTIFICATES["crown"](a_query(net.requires_grad_(False), x, predicted(net, x), "linf"))
    assert answer.lower is None and "a comparison of values" in answer.reason


def test_a_class_of_minus_infinity_before_other_operations_is_a_reason() -> None:
    net = masked("written", -torch.inf).append(nn.Softplus())
    x = images(4)
    net[-1].register_forward_hook(lambda module, inputs, out: out - torch.where(at_class(), torch.inf, 0.0))
    asked = without_masked(a_query(net, x, predicted(net, x), "linf"))
    assert asked == REASON
