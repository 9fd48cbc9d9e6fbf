"""Modules of any kind: rewritten they are the same function, and no bound on them excludes what they compute."""

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from module_support import KINDS, SHAPE, Code, body
from refused_support import REFUSED, refused
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.certificates import _bounds, _call, _compat, crown
from marginbench.benchmarks.certificates._layers import Moved, Simple
from marginbench.benchmarks.certificates._record import Unbounded
from marginbench.benchmarks.certificates._simplify import simplified
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.methods import NORMS, Norm

CPU = torch.device("cpu")
NO_PATCHES = ("two_streams", "two_heads", "written", "highest_of_nets")  # auto-LiRPA fails with them there
RADII = {"linf": (0.02, 0.15), "l2": (0.06, 0.5)}


def made(name: str) -> nn.Module:
    with seeded(CPU, "module", name):
        return KINDS[name]().eval().requires_grad_(False)


def images(name: str) -> Tensor:
    with seeded(CPU, "images", name):
        x = torch.rand(4, *SHAPE)
    x[0] = x[0].round()  # corners of the box
    return x


def margin(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    z = net(x)
    return z.gather(1, y[:, None])[:, 0] - z.scatter(1, y[:, None], -torch.inf).amax(1)


def least_found(net: nn.Module, x: Tensor, y: Tensor, radius: float, norm: Norm) -> Tensor:
    """The least margin [B] at random points and corners of the balls, and where gradients lead from them."""
    stream = torch.Generator().manual_seed(0)
    least = margin(net, x, y)
    for start in range(3):
        d = torch.randn(x.shape, generator=stream)
        d = radius * (d.sign() if norm == "linf" else d)
        for step in range(8 if start else 1):
            if norm == "l2":
                d *= (radius / d.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp(max=1).view(-1, 1, 1, 1)
            point = (x + d.clamp(-radius, radius)).clamp(0, 1).requires_grad_()
            value = margin(net, point, y)
            least = least.minimum(value.detach())
            (g,) = torch.autograd.grad(value.sum(), point)
            size = g.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            d = point.detach() - x - 2 * radius / (step + 2) * (g.sign() if norm == "linf" else g / size)
    return least


def excluded(net: nn.Module, x: Tensor, norm: Norm, conv_mode: _bounds.ConvMode) -> Tensor:
    """By how much bounds exceed margins that were found, relative to the logits; and how loose they are at radius 0."""
    y = net(x).argmax(1)
    scale = net(x).abs().amax()
    bounds = _bounds.Bounds(
        _compat.load_auto_lirpa(),
        a_query(nn.Sequential(net), x, y, norm),
        _bounds.Search("CROWN", conv_mode=conv_mode),
    )
    wrong, exact = [], margin(net, x, y)
    for method in get_args(_bounds.Bound)[:3]:
        with torch.no_grad():
            at_zero, *found = (
                bounds.margin(torch.full((len(x),), radius), torch.arange(len(x)), method)
                for radius in (0.0, *RADII[norm])
            )
        wrong += [at_zero - exact, (exact - at_zero) / 5]
        wrong += [
            bound - least_found(net, x, y, radius, norm) for bound, radius in zip(found, RADII[norm], strict=True)
        ]
    return torch.stack(wrong).amax() / scale


@pytest.mark.parametrize("name", KINDS)
def test_no_bound_excludes_what_the_module_computes(name: str) -> None:
    net, x = made(name), images(name)
    for norm in NORMS:
        assert excluded(net, x, norm, "matrix" if name in NO_PATCHES else "auto") < 2e-5


REARRANGED = """
    reflection_pad pixel_shuffle image_factor stack sum_of_stack slices permuted columns windows shifted mirrored
    written extremes cat_rows chosen
"""


@pytest.mark.parametrize("name", REARRANGED.split())
def test_nor_does_any_where_matrices_would_be_too_large(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_call, "DENSE", 0)
    net, x = made(name), images(name)
    assert any(isinstance(layer, Moved) for layer in simplified(net, x).modules())
    for norm in NORMS:
        assert excluded(net, x, norm, "auto") < 2e-5


def test_what_is_more_than_a_rearrangement_is_refused_where_its_matrix_would_be_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_call, "DENSE", 0)
    for name in ("mean_uncounted", "transposed", "upsampled", "resized"):
        with pytest.raises(Unbounded, match="is too large for the matrix that bounds need"):
            simplified(made(name), images(name))


@pytest.mark.parametrize("name", ["gelu", "max_padded", "max_ceil", "depthwise", "dilated", "residual", "chunk", "cat"])
def test_nor_does_any_in_patches_or_in_whole_matrices(name: str) -> None:
    net, x = made(name), images(name)
    for conv_mode in ("patches", "matrix"):
        assert excluded(net, x, "linf", conv_mode) < 2e-5  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["chunk", "gelu"])
def test_optimised_slopes_lose_nothing(name: str) -> None:
    """Also where there is none to optimise."""
    net, x = made(name), images(name)
    y = net(x).argmax(1)
    q = a_query(nn.Sequential(net), x, y, "linf")
    radius, plain = crown.alpha_crown(q, iterations=3).lower, crown.crown(q).lower
    assert radius is not None and plain is not None and (radius >= 0.99 * plain).all()
    for i in (radius > 0).nonzero()[:, 0].tolist():
        assert least_found(net, x[i : i + 1], y[i : i + 1], float(radius[i]), "linf") > 0


@pytest.mark.parametrize("name", ["residual", "max_ceil", "selu", "batch_norm_1d", "weight_norm"])
def test_rewritten_in_float64_it_is_the_same_to_its_rounding(name: str) -> None:
    net, x = made(name).double(), images(name).double()
    assert torch.allclose(simplified(net, x)(x), net(x), rtol=1e-12, atol=1e-12)


def test_a_class_is_certified_as_its_layers_in_a_sequence_are() -> None:
    """The commonest model of all: layers made in __init__, functions in forward."""

    class Common(nn.Module):
        def __init__(self, layers: nn.Sequential) -> None:
            super().__init__()
            self.first, self.second, self.last = layers[0], layers[2], layers[5]

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.second(torch.relu(self.first(x))))
            z: Tensor = self.last(x.view(x.size(0), -1))
            return z

    with seeded(CPU, "twins"):
        twin = body(nn.ReLU()).eval().requires_grad_(False)
    x = images("twins")
    y = twin(x).argmax(1)
    assert [type(layer) for layer in simplified(Common(twin), x)] == [type(layer) for layer in twin]
    for norm in NORMS:
        one, other = (crown.crown(a_query(net, x, y, norm)).lower for net in (twin, nn.Sequential(Common(twin).eval())))
        assert one is not None and other is not None and (one > 0).any()
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


ONE_NUMBER: dict[str, Callable[[Tensor], Tensor]] = {
    "its maximum": lambda z: z - z.amax(1, keepdim=True),
    "its maximum, by max": lambda z: z - z.max(1, keepdim=True).values,
    "logsumexp": lambda z: z - torch.logsumexp(z, 1, keepdim=True),
    "another function": lambda z: z + z[:, :1].sin(),
    "then log_softmax": lambda z: (z - z.amax(1, keepdim=True)).log_softmax(1),
    "twice": lambda z: z - z.logsumexp(1)[:, None] - z.amin(1)[:, None],
}


@pytest.mark.parametrize("number", ONE_NUMBER)
def test_one_number_added_to_all_logits_costs_no_certificate(number: str) -> None:
    net, x = made("relu6"), images("relu6")
    other = Code(lambda m, x: ONE_NUMBER[number](m.net(x)), net=net).eval()
    assert torch.allclose(simplified(other, x)(x), simplified(net, x)(x), atol=1e-5)


def test_one_number_for_each_class_is_not_left_out() -> None:
    net, x = made("relu6"), images("relu6")
    for change in (lambda z: z - z.sin(), lambda z: z.amax(1, keepdim=True) - z, lambda z: z[:, :1] - z):
        other = Code(lambda m, x, change=change: change(m.net(x)), net=net).eval()
        try:
            found = simplified(other, x)(x)
        except Unbounded:
            continue
        assert torch.equal(found.argmax(1), other(x).argmax(1)) and not torch.allclose(found, net(x))


@pytest.mark.parametrize("name", NO_PATCHES)
def test_where_patches_fail_whole_matrices_stand_in(name: str) -> None:
    net, x = made(name), images(name)
    asked = a_query(nn.Sequential(net), x, net(x).argmax(1), "linf")
    patches, matrix, auto = (crown.crown(asked, conv_mode=mode) for mode in ("patches", "matrix", "auto"))
    assert patches.lower is None and "auto-LiRPA fails" in patches.reason
    assert auto.lower is not None and matrix.lower is not None and (auto.lower > 0).any()
    assert torch.equal(auto.lower, matrix.lower)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_sound_bound_is_refused_in_words(name: str) -> None:
    net, x = refused(name).eval().requires_grad_(False), images(name)
    with pytest.raises(Unbounded) as caught:
        simplified(net, x)
    assert REFUSED[name][1] in str(caught.value)
    if name != "noise":  # which may put every image in another class, and of these nothing is asked
        y = net(x.clone()).argmax(1)
        answer = crown.crown(a_query(nn.Sequential(net), x, y, "linf"))
        assert answer.lower is None and answer.reason == str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_followed() -> None:
    net, x = made("residual"), images("residual")
    traced: nn.Module = torch.jit.trace(net, x)
    assert torch.allclose(simplified(traced, x)(x), net(x), rtol=1e-4, atol=1e-5)


class Scripted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 99).any()):
            return -x.flatten(1)
        return x.flatten(1)


@pytest.mark.filterwarnings("ignore")
def test_values_read_in_torchscript_are_seen() -> None:
    with pytest.raises(Unbounded, match="decides by the values in the image"):
        simplified(torch.jit.script(Scripted()), images("scripted"))


def test_numbers_taken_out_of_torch_are_seen() -> None:
    """What numpy reads of a recording is undefined, so the reason is one of several."""
    net = nn.Sequential(body(nn.ReLU()), Code(lambda m, x: x * float(x.detach().numpy().mean()))).eval()
    with pytest.raises(Unbounded):
        simplified(net.requires_grad_(False), images("numpy"))


def test_code_that_fails_when_it_is_recorded_is_named() -> None:
    net = Code(lambda m, x: m.nonsense)
    with pytest.raises(Unbounded, match="fails where its operations are recorded: AttributeError"):
        simplified(net, images("error"))


def test_a_wrong_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: hardswish taken for SiLU, on the images of a recording and on those at hand."""
    from marginbench.benchmarks.certificates import _call

    monkeypatch.setitem(_call.RULES, "hardswish", _call.RULES["silu"])
    with pytest.raises(Unbounded, match="hardswish has no sound bound here as it is used"):
        simplified(made("hardswish"), images("hardswish"))


def test_what_only_other_images_show_is_seen() -> None:
    """Random images do not reach the branch, those at hand do."""

    def bright(m: Code, x: Tensor) -> Tensor:
        if torch._C._len_torch_dispatch_stack() == 0 and bool((x == 1).any()):  # as code that hides from recordings
            x = 1 - x
        z: Tensor = m.net(x)
        return z

    with seeded(CPU, "bright"):
        net = Code(bright, net=body(nn.ReLU())).eval()
    with pytest.raises(Unbounded, match="other logits than the model"):
        simplified(net, images("bright"))


@pytest.mark.parametrize(("offset", "said"), [(1e4, "perhaps by rounding alone"), (0.0, "")])
def test_rounding_is_named_where_large_values_cancel(offset: float, said: str) -> None:
    with seeded(CPU, "offset"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.BatchNorm1d(64), nn.Linear(64, 5)).eval()
    with torch.no_grad():
        net[1].bias.fill_(offset)
        net[2].running_mean.fill_(offset)
    if said:
        with pytest.raises(Unbounded, match=said):
            simplified(net, images("offset"))
    else:
        simplified(net, images("offset"))


def test_a_simple_network_stays_as_it_is() -> None:
    net = simplified(made("residual"), images("residual"))
    assert isinstance(net, Simple) and simplified(net, images("residual")) is net


class Kept(nn.Module):
    """Keeps a constant for each shape, and what it computed last."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.known, self.last = nn.Linear(4, 3), {}, torch.zeros(())  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Tensor:
        shift = self.known.setdefault(x.shape, torch.linspace(0, 1, 4).expand_as(x))
        self.last = self.layer(x + shift)
        return self.last


@pytest.mark.parametrize("calls", [(), (2,), (2, 3)])
def test_nothing_of_a_recording_stays_in_the_network(calls: tuple[int, ...]) -> None:
    """Nor does it matter for which numbers of images the network has been asked before."""
    net = Kept().eval().requires_grad_(False)
    x = torch.rand(5, 4)
    for size in calls:
        net(x[:size])
    simple = simplified(net, x)
    assert {shape[0] for shape in net.known} == {*calls, 5}, "recorded with 2 and 3 images"
    assert not any(map(torch._is_functional_tensor, [*net.known.values(), net.last]))
    assert torch.allclose(simple(x), net(x))
