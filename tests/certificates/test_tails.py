"""Cosine logits: a division by the norm of the features changes no class, and is left out; no other division is."""

from collections.abc import Callable

import pytest
import torch
from support import a_query
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.certificates._record import Unbounded
from marginbench.benchmarks.certificates._simplify import simplified
from marginbench.benchmarks.certificates.crown import crown
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.benchmarks.models.adapter import adapt
from marginbench.methods import NORMS, Norm

Head = Callable[["Features", Tensor], Tensor]


class Features(nn.Module):
    """phi = relu(A x + a), [B, 5], and what a function makes of it; `w` are class weights [3, 5]."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(36, 5), head
        self.weight, self.log_scale = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.tensor(2.0))

    @property
    def w(self) -> Tensor:
        return F.normalize(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self, self.hidden(x.flatten(1)).relu())


def norm(phi: Tensor, p: float = 2.0) -> Tensor:
    return phi.norm(p, dim=1, keepdim=True)


KNOWN: dict[str, Head] = {
    "normalize": lambda m, phi: 30 * F.linear(F.normalize(phi), m.w),
    "scale": lambda m, phi: m.log_scale.exp() * (phi / norm(phi)) @ m.w.T,
    "similarity": lambda m, phi: F.cosine_similarity(phi[:, None], m.weight[None], dim=2) * 16,
    "torch_norm": lambda m, phi: torch.div(phi, torch.norm(phi, 2, 1, True)) @ m.w.T,
    "root": lambda m, phi: phi / (phi.pow(2).sum(1, keepdim=True) + 1e-10).sqrt() @ m.w.T,
    "product": lambda m, phi: phi / (phi * phi).sum(1, keepdim=True).clamp_min(1e-9).sqrt() @ m.w.T,
    "after": lambda m, phi: phi @ m.w.T / norm(phi),
    "einsum": lambda m, phi: 9 * torch.einsum("bd,kd->bk", F.normalize(phi, dim=-1), m.w),
    "axis": lambda m, phi: phi / phi.norm(dim=1)[:, None] @ m.w.T,
    "epsilon": lambda m, phi: phi / (norm(phi) + 1e-6) @ m.w.T,
    "clamp": lambda m, phi: phi / norm(phi).clamp(min=1e-5) @ m.w.T,
    "manhattan": lambda m, phi: F.normalize(phi, p=1) @ m.w.T,
    "sum": lambda m, phi: (F.normalize(phi)[:, None] * m.w).sum(2),
}
BEHIND: dict[str, Head] = {
    "log_softmax": lambda m, phi: (F.normalize(phi) @ m.w.T).log_softmax(1),
    "relative": lambda m, phi: F.normalize(phi) @ m.w.T - norm(phi),
}
REFUSED: dict[str, Head] = {
    "bias": lambda m, phi: F.linear(F.normalize(phi), m.w, torch.ones(3)),
    "negative": lambda m, phi: phi / (norm(phi) - 1) @ m.w.T,
    "subtracted": lambda m, phi: phi / torch.add(norm(phi), 1.0, alpha=-1) @ m.w.T,
    "of_something_else": lambda m, phi: phi / norm(phi @ m.w.T) @ m.w.T,
    "each_feature": lambda m, phi: phi / phi[:, :, None].norm(dim=2) @ m.w.T,
    "not_the_end": lambda m, phi: F.gelu(F.normalize(phi)) @ m.w.T,
    "rounded": lambda m, phi: torch.div(phi * 9, norm(phi), rounding_mode="floor") @ m.w.T,
    "limited": lambda m, phi: phi / norm(phi).clamp(max=2) @ m.w.T,
    "each_feature_limited": lambda m, phi: phi / norm(phi).clamp_min(torch.full((5,), 1e-9)) @ m.w.T,
    "each_feature_clamped": lambda m, phi: phi / norm(phi).clamp(min=torch.full((5,), 1e-9)) @ m.w.T,
    "counted": lambda m, phi: phi / norm(phi, 0) @ m.w.T,
    "by_itself": lambda m, phi: phi / phi @ m.w.T,
    "the_batch": lambda m, phi: F.normalize(phi, dim=0) @ m.w.T,
    "all_numbers": lambda m, phi: phi / phi.norm() @ m.w.T,
    "two_uses": lambda m, phi: F.normalize(phi) @ m.w.T + norm(F.normalize(phi)) * phi[:, :3],
}


def made(head: Head) -> Features:
    with seeded(torch.device("cpu"), "cosine"):  # no image has features of zero
        return Features(head).eval().requires_grad_(False)


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", KNOWN)
def test_logits_are_the_same_up_to_a_positive_factor_for_each_image(name: str) -> None:
    net, x = made(KNOWN[name]), images(50)
    wanted, found = net(x), simplified(net, x[:4])(x)
    factor = found.norm(dim=1, keepdim=True) / wanted.norm(dim=1, keepdim=True)
    assert torch.allclose(found, factor * wanted, atol=1e-5)
    assert float(factor.std()) > 0.01, "it is another one for each image: the norm has gone"


@pytest.mark.parametrize("name", BEHIND)
def test_log_probabilities_of_cosine_logits_have_the_same_gaps_up_to_that_factor(name: str) -> None:
    net, x = made(BEHIND[name]), images(50)
    wanted, found = (z - z.mean(1, keepdim=True) for z in (net(x), simplified(net, x[:4])(x)))
    factor = found.norm(dim=1, keepdim=True) / wanted.norm(dim=1, keepdim=True)
    assert torch.allclose(found, factor * wanted, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_no_other_division_is_left_out(name: str) -> None:
    with pytest.raises(Unbounded, match="has no sound bound here"):
        simplified(made(REFUSED[name]), images(4))


@pytest.mark.parametrize(
    "ensemble",
    [
        lambda m, phi: (phi @ m.w.T).log_softmax(1) - 3 * (phi @ m.w.T + 1).log_softmax(-1) / 2,
        lambda m, phi: (phi @ m.w.T).log_softmax(1) + m.w.mean() - m.w.sum(),
        lambda m, phi: torch.stack([(phi @ m.w.T).log_softmax(1), phi[:, 2:]]).mean(0),
    ],
)
def test_log_softmax_in_sums_adds_one_number_to_all_logits(ensemble: Head) -> None:
    net, x = made(ensemble), images(50)
    difference = simplified(net, x[:4])(x) - net(x)
    assert torch.allclose(difference, difference[:, :1], atol=1e-5) and float(difference.abs().amin()) > 0.1


@pytest.mark.parametrize(
    "other",
    [
        lambda m, phi: (phi @ m.w.T).log_softmax(0),
        lambda m, phi: (phi @ m.w.T).log_softmax(1).relu(),
        lambda m, phi: torch.div((phi @ m.w.T).log_softmax(1), 2, rounding_mode="floor"),
        lambda m, phi: (phi @ m.w.T).log_softmax(1) * m.weight[:, 0],
        lambda m, phi: torch.cat([(phi @ m.w.T).log_softmax(1)[:, :2], phi[:, :1]], 1),
    ],
)
def test_nothing_else_may_follow_log_softmax(other: Head) -> None:
    with pytest.raises(Unbounded):
        simplified(made(other), images(4))


def test_features_of_zero_have_no_certificate() -> None:
    """Their logits are 0, whatever the class."""
    net = made(KNOWN["normalize"])
    net.hidden.bias.fill_(-99)
    assert not simplified(net, images(4))(images(4)).any()
    net.head = KNOWN["scale"]
    with pytest.raises(Unbounded, match="not a number for some of the images"):
        simplified(net, images(4))


@pytest.mark.parametrize("at", NORMS)
def test_radii_are_those_of_the_linear_layer(at: Norm) -> None:
    x, found = images(6), []
    for head in (KNOWN["normalize"], lambda m, phi: F.linear(phi, m.w)):
        layers = adapt(made(head), nn.Identity(), x).decision_net()
        found.append(crown(a_query(layers, x, layers(x).argmax(1), at)).lower)
    assert torch.allclose(*found, rtol=1e-4) and float(found[0].amin()) > 0
