"""Certified radii: exact where the network is linear, sound everywhere, and never out of a NaN."""

import contextlib
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks import run_all
from marginbench.benchmarks.certificates import _ball, _compat, _fold, _search, certificate, crown
from marginbench.benchmarks.certificates.listed import CERTIFICATES
from marginbench.benchmarks.estimator import Answer
from marginbench.benchmarks.nets.networks import make_net
from marginbench.methods import NORMS, MarginbenchError, Norm, Residual
from marginbench.methods.maths.transpose import conv_transpose2d

SHAPE = (1, 8, 8)


def certify(
    net: nn.Sequential,
    x: Tensor,
    label: Tensor,
    norm: Norm,
    method: crown.Bound = "CROWN",
    upper: Tensor | None = None,
    **settings: Any,
) -> Any:
    return crown.certified_radius(a_query(net, x, label, norm, upper=upper), crown.Search(method, **settings))


def network(kind: str, seed: int, classes: int = 5, width: int = 4) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make_net(kind, width, SHAPE, classes, torch.tensor([0.3]), torch.tensor([0.4])).eval()
        for layer in net.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.data *= 2
    return net.decision_net()


def images(count: int, seed: int = 0) -> Tensor:
    x = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return (1.6 * x - 0.3).clamp(0, 1)  # pixels at the edges of the box, as in real images


def predicted(net: nn.Sequential, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1)


def least_margin(net: nn.Sequential, x: Tensor, label: Tensor) -> Tensor:
    with torch.no_grad():
        z = net(x)
    own = z.gather(1, label[:, None])
    return (own - z.scatter(1, label[:, None], -torch.inf)).amin(1)


def linear_radius(net: nn.Sequential, x: Tensor, label: Tensor, norm: str) -> Tensor:
    """By bisection in float64: for a linear network the least z_label - z_j over the set has a closed form."""
    net = net.double()
    x, zero = x.double(), torch.zeros(1, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        weight = (net(torch.eye(64, dtype=torch.float64).view(64, *SHAPE)) - net(zero)).T
        z = net(x)
    gaps = z.gather(1, label[:, None]) - z
    rows = weight[label][:, None] - weight
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.ones(len(x), dtype=torch.float64)
    high *= 1 if norm == "linf" else 8
    flat = x.flatten(1)
    for _ in range(50):
        radius = (low + high) / 2
        if norm == "linf":
            reach = radius[:, None, None]
            room = torch.where(rows > 0, flat[:, None].clamp(max=reach), (1 - flat)[:, None].clamp(max=reach))
            fall = (rows.abs() * room).sum(-1)
        else:
            fall = -_least_by_bisection(rows, -flat, 1 - flat, radius)
        safe = ((gaps > fall) | (torch.arange(z.shape[1]) == label[:, None])).all(1)
        low, high = torch.where(safe, radius, low), torch.where(safe, high, radius)
    net.float()
    return low


def _least_by_bisection(a: Tensor, low: Tensor, high: Tensor, epsilon: Tensor) -> Tensor:
    """The exact min a.d over the ball and the box: d = clip(-a / t) with the t at which |d| = epsilon."""
    low, high, epsilon = low[:, None], high[:, None], epsilon[:, None]
    small, large = torch.full_like(a[..., 0], 1e-9), torch.full_like(a[..., 0], 1e9)
    for _ in range(100):
        t = (small * large).sqrt()
        d = torch.clamp(-a / t[..., None], low, high)
        outside = d.norm(dim=-1) > epsilon
        small, large = torch.where(outside, t, small), torch.where(outside, large, t)
    return (a * torch.clamp(-a / large[..., None], low, high)).sum(-1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN"])
@pytest.mark.parametrize("conv_mode", ["dense", "matrix"])
def test_linear_network_is_exact(norm: str, method: str, conv_mode: str) -> None:
    net, x = network("linear", 1), images(12)
    label = predicted(net, x)
    exact = linear_radius(net, x, label, norm)
    got = certify(net, x, label, norm, method=method, tolerance=1e-4, rounds=30, conv_mode=conv_mode)
    assert isinstance(got, Tensor)
    assert (got <= exact).all()
    if norm == "linf":
        assert (got >= exact * (1 - 1e-3) - 2 * crown.ROUNDING - 2e-5).all()  # the slack is absolute
    elif method != "IBP":  # one multiplier instead of the best, and intervals ignore the box
        assert (got >= exact * 0.95).all() and (got / exact).mean() > 0.98


def test_l2_radius_of_linear_network_away_from_the_edges() -> None:
    net = network("linear", 2)
    x = 0.5 + 0.02 * (images(12) - 0.5)
    label = predicted(net, x)
    exact = linear_radius(net, x, label, "l2")
    inside = exact < 0.45
    assert inside.sum() >= 4
    for method in ("IBP", "CROWN"):
        got = certify(net, x, label, "l2", method=method, tolerance=1e-4, rounds=30, conv_mode="dense")
        assert (got <= exact).all() and (got >= exact * (1 - 1e-3) - 1e-4)[inside].all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("kind", "conv_mode"), [("cnn", "dense"), ("cnn", "patches"), ("mlp", "auto")])
def test_nothing_inside_the_radius_changes_the_class(norm: str, kind: str, conv_mode: str) -> None:
    generator = torch.Generator().manual_seed(3)
    for seed in range(3):
        net, x = network(kind, seed), images(10, seed)
        label = predicted(net, x)
        radius = certify(net, x, label, norm, conv_mode=conv_mode)
        assert (radius > 0).float().mean() > 0.8
        for start in range(4):
            point = attack(net, x, label, radius, norm, random_start=start > 0, generator=generator)
            assert (least_margin(net, point, label) > 0).all()


def attack(
    net: nn.Sequential,
    x: Tensor,
    label: Tensor,
    radius: Tensor,
    norm: str,
    random_start: bool,
    generator: torch.Generator,
) -> Tensor:
    """Projected gradient descent on the margin, inside the ball and the box."""
    r = radius.view(-1, 1, 1, 1)
    d = r * torch.randn(x.shape, generator=generator) * random_start
    for step in range(20):
        d = project(d, r, norm).add(x).clamp(0, 1).sub(x).requires_grad_()
        z = net(x + d)
        rival = z.scatter(1, label[:, None], -torch.inf).amax(1)
        (g,) = torch.autograd.grad((z.gather(1, label[:, None])[:, 0] - rival).sum(), d)
        g = g.sign() if norm == "linf" else g / g.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, 1, 1, 1)
        d = d.detach() - r * g / (1 + step)
    return (x + project(d, r, norm)).clamp(0, 1)


def project(d: Tensor, r: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return torch.clamp(d, -r, r)
    return d * (r / d.flatten(1).norm(dim=1).clamp_min(1e-9).view(-1, 1, 1, 1)).clamp(max=1)


def test_least_in_ball_and_box_is_a_tight_lower_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, 4, 30, generator=generator, dtype=torch.float64)
    x = images(6).flatten(1)[:, :30].double()
    epsilon = torch.linspace(0.05, 2, 6, dtype=torch.float64)
    low, high = -x[:, None], 1 - x[:, None]
    bound = _ball.least_in_ball_and_box(a, low, high, epsilon[:, None])
    exact = _least_by_bisection(a, -x, 1 - x, epsilon)
    assert (bound <= exact + 1e-9).all()
    assert torch.allclose(bound[:2], exact[:2], rtol=0.05)
    assert (_ball.least_in_ball_and_box(0 * a, low, high, epsilon[:, None]) <= 0).all()


def test_search_agrees_with_bisection() -> None:
    net, x = network("cnn", 0), images(8)
    label = predicted(net, x)
    for norm in NORMS:
        got = certify(net, x, label, norm)
        for i in range(len(x)):
            slow = bisection(net, x[i : i + 1], label[i : i + 1], norm)
            assert slow * 0.97 <= got[i] <= slow * 1.001


def bisection(net: nn.Sequential, x: Tensor, label: Tensor, norm: str) -> float:
    q = a_query(net, x, label, norm)
    bounds = crown.Bounds(_compat.load_auto_lirpa(), q, torch.zeros(1), crown.Search("CROWN"))
    low, high = 0.0, 2.0
    for _ in range(20):
        middle = (low + high) / 2
        with torch.no_grad():
            verified = bounds.margin(torch.tensor([middle]), torch.tensor([0]), "CROWN") > 0
        low, high = (middle, high) if verified else (low, middle)
    return low


def search(
    shape: Callable[[Tensor], Tensor], root: Tensor, linear: Tensor, upper: Tensor, **settings: float
) -> tuple[Tensor, Tensor]:
    """Radii on the margins shape(radius / root), and the calls for each image; every radius has been verified."""
    calls, best = torch.zeros(len(root)), torch.zeros(len(root))

    def margin(radius: Tensor, index: Tensor) -> Tensor:
        calls[index] += 1
        value = shape(radius / root[index])
        best[index] = torch.where(value > 0, torch.maximum(best[index], radius), best[index])
        return value

    limits: dict[str, Any] = {"cap": 4.0, "rounds": 8, "tolerance": 0.01} | settings
    found = _search.largest_verified(margin, torch.ones(len(root)), linear, upper, **limits)
    assert torch.equal(found, best)
    return found, calls


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda t: 1 - t,
    "concave": lambda t: 1 - 0.4 * t - 0.6 * t**3,
    "very concave": lambda t: 1 - t**6,
    "convex": lambda t: 2 * torch.exp(-0.7 * t) - 1 + t * (1 - 2 * math.exp(-0.7)),
    "steps": lambda t: (torch.floor(50 * (1 - t)) + 0.5) / 50,
    "cliff": lambda t: torch.where(t < 1, 1.0, -torch.inf),
    "NaN": lambda t: torch.where(t < 1, 1 - 0.5 * t, torch.nan),
}
SMOOTH = ("linear", "concave", "very concave", "convex")
LEAST = {"convex": 0.985, "steps": 0.97}  # margins that end flatter than they began: the root seems nearer than it is


@pytest.mark.parametrize("name", SHAPES)
def test_search_on_known_margins(name: str) -> None:
    root = torch.logspace(-3, 0, 100)
    spread = torch.linspace(1.2, 2.5, 100)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    rounds = 8 if name in SMOOTH else 14  # bisection, where the margin does not tell how far the root is
    found, calls = search(SHAPES[name], root, root * spread, 2 * root, rounds=rounds)
    assert (found <= root).all()
    assert (found >= LEAST.get(name, 0.99) * root).all()
    assert calls.max() < rounds  # none is stopped by the limit
    if name in SMOOTH:
        assert calls.mean() < 3.2


@pytest.mark.parametrize("s", [0.3, 0.6, 1.0])
def test_search_with_the_form_it_expects_takes_two_calls(s: float) -> None:
    root = torch.logspace(-3, 0, 100)
    found, calls = search(lambda t: 1 - s * t - (1 - s) * t ** (3.2 - 1.4 * s), root, root / s, 1.7 * root)
    assert (found >= 0.99 * root).all()
    assert calls[:32].eq(2).all()  # the pilots
    assert calls.max() == 2


def test_search_begins_at_the_share_of_the_pilots() -> None:
    root = torch.logspace(-3, 0, 132)
    begun: list[Tensor] = []

    def first_radii(t: Tensor) -> Tensor:
        begun.append(t)
        return 1 - 0.4 * t - 0.6 * t**3

    upper = 5 * root
    upper[::2] = torch.inf  # these go by the linear radius
    search(first_radii, root, 5 * root, upper)
    others = next(t for t in begun if len(t) == 100)
    assert torch.allclose(begun[0], torch.full((32,), 3.5))
    assert ((others > 0.98) & (others < 1)).all()


def test_search_at_its_limits() -> None:
    root, ones = torch.full((70,), 1e9), torch.ones(70)
    found, _ = search(lambda t: 1 - t, root, ones, torch.full((70,), torch.inf))
    assert (found == 4).all()  # the cap
    found, calls = search(lambda t: torch.full_like(t, torch.nan), root, ones, ones)
    assert (found == 0).all() and (calls == 8).all()
    found, calls = search(lambda t: 1 - t**6, ones, 9 * ones, 3 * ones, rounds=2)
    assert (calls == 2).all()  # the last radius may be one that was not verified, `search` compares

    def margin(radius: Tensor, index: Tensor) -> Tensor:
        assert set(index.tolist()) <= {1, 3}
        return 1 - radius

    zero = torch.tensor([-1.0, 1.0, torch.nan, 1.0, 0.0])
    found = _search.largest_verified(margin, zero, ones[:5], ones[:5], 4.0, rounds=8, tolerance=0.01)
    assert ((found > 0.98) == (zero > 0)).all() and (found[zero.nan_to_num() <= 0] == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_tighter_bounds_give_larger_radii(norm: str) -> None:
    net, x = network("cnn", 5, width=8), images(16)
    label = predicted(net, x)
    mean = {
        key: CERTIFICATES[key](a_query(net, x, label, norm)).lower.mean()
        for key in ("ibp", "crown_ibp", "crown", "alpha_crown")
    }
    assert mean["ibp"] < mean["crown_ibp"] < mean["crown"] < mean["alpha_crown"]


def test_best_slope_counts_per_image() -> None:
    net, x = network("cnn", 6, width=8), images(12)
    label = predicted(net, x)
    every = ("adaptive", "same-slope", "zero-lb", "one-lb")
    single = torch.stack([certify(net, x, label, "linf", slopes=(slope,)) for slope in every])
    assert (certify(net, x, label, "linf", slopes=every) >= 0.97 * single.amax(0)).all()
    assert (single[0] != single[2]).any()


@pytest.mark.parametrize("norm", NORMS)
def test_slack_covers_float32(norm: str) -> None:
    net, x = network("cnn", 7, width=16), images(16)
    library = _compat.load_auto_lirpa()
    label = predicted(net, x)
    index = torch.arange(len(x))
    margins = []
    for dtype in (torch.float32, torch.float64):
        n, p = net.to(dtype), x.to(dtype)
        none = torch.zeros(len(x), dtype=dtype)
        bounds = crown.Bounds(library, a_query(n, p, label, norm), none, crown.Search("CROWN"))
        epsilon = torch.full((len(x),), 0.05 if norm == "linf" else 0.3, dtype=dtype)
        with torch.no_grad():
            margins.append(bounds.margin(epsilon, index, "CROWN").double())
            scale = n(p).abs().amax(1).clamp(min=1).double()
    assert ((margins[0] - margins[1]).abs() <= crown.SLACK * scale).all()


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


@pytest.mark.parametrize("norm", NORMS)
def test_patches_give_what_whole_matrices_give(norm: str) -> None:
    net, x = network("cnn", 6), images(8)
    label = predicted(net, x)
    patches, matrix = (certify(net, x, label, norm, conv_mode=mode) for mode in ("patches", "matrix"))
    assert (patches > 0).all()
    assert torch.allclose(patches, matrix, rtol=1e-4)


def test_the_library_calls_our_transposed_convolution_and_gets_what_torch_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = network("cnn", 5), images(6)
    label = predicted(net, x)
    calls: list[int] = []

    def ours(*args: Any) -> Tensor:
        calls.append(1)
        return conv_transpose2d(*args)

    monkeypatch.setattr(_compat, "conv_transpose2d", ours)
    for norm in NORMS:
        fast = certify(net, x, label, norm, conv_mode="patches")
        assert calls
        with monkeypatch.context() as patch:
            patch.setattr(crown, "FastTranspose", contextlib.nullcontext)
            slow = certify(net, x, label, norm, conv_mode="patches")
        assert torch.allclose(fast, slow, rtol=1e-4)


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


def test_nan_never_verifies() -> None:
    net, x = network("cnn", 0), images(4)
    label = predicted(net, x)
    with torch.no_grad():
        net[5 if isinstance(net[5], nn.Linear) else 6].weight[0, 0] = torch.nan
    for norm in NORMS:
        assert (certify(net, x, label, norm) == 0).all()


def test_wrong_predictions_have_radius_zero() -> None:
    net, x = network("mlp", 0), images(8)
    label = predicted(net, x)
    wrong = torch.arange(8) % 2 == 0
    radius = certify(net, x, torch.where(wrong, (label + 1) % 5, label), "linf")
    assert ((radius == 0) == wrong).all()


def test_attack_distances_only_choose_the_start() -> None:
    net, x = network("cnn", 0), images(8)
    label = predicted(net, x)
    plain = certify(net, x, label, "linf")
    false = plain / 4  # wrong distances, below the certified radii, must not hide the contradiction
    false[0] = torch.inf
    assert torch.allclose(certify(net, x, label, "linf", upper=false), plain, rtol=0.03)


def test_constant_network_is_certified_up_to_the_box() -> None:
    net, x = network("mlp", 0), images(3)
    with torch.no_grad():
        net[-1].weight.zero_()
        net[-1].bias.copy_(torch.arange(5.0))
    assert (certify(net, x, torch.full((3,), 4), "linf") > 0.99).all()
    assert (certify(net, x, torch.full((3,), 4), "l2") > 7.9).all()


def test_missing_library_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network("mlp", 0), images(3)
    for name in ["auto_LiRPA", *(name for name in sys.modules if name.startswith("auto_LiRPA."))]:
        monkeypatch.setitem(sys.modules, name, None)
    got = certify(net, x, predicted(net, x), "linf")
    assert got == Answer(reason="install auto-LiRPA: pip install --no-deps auto-lirpa appdirs setuptools")


@pytest.mark.parametrize("there", [True, False])
def test_a_run_without_auto_lirpa_says_so_before_it_starts(
    there: bool, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(certificate, "find_spec", lambda name: object() if there else None)
    run_all(str(tiny), ["ce"], 1, "cpu", tmp_path)
    advice = "warning: nothing will be certified by crown: install auto-LiRPA: pip install --no-deps auto-lirpa"
    assert (advice in capsys.readouterr().err) is not there


def test_unknown_layer_is_a_reason() -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sort(dim=1).values

    net, x = network("mlp", 0), images(3)
    got = certify(nn.Sequential(*net, Sorted()), x, torch.full((3,), 4), "linf")
    assert isinstance(got, Answer) and got.lower is None
    assert got.reason == "auto-LiRPA does not know the operation TopK"


def test_unknown_method() -> None:
    net, x = network("mlp", 0), images(2)
    with pytest.raises(MarginbenchError, match="CROWN-IBP"):
        certify(net, x, predicted(net, x), "linf", method="crown")


def test_nothing_outside_changes(capsys: pytest.CaptureFixture[str]) -> None:
    net, x = network("cnn", 0), images(3)
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    filters, rng = warnings.filters[:], torch.get_rng_state()
    certify(net, x, predicted(net, x), "l2", conv_mode="patches")
    assert capsys.readouterr() == ("", "")
    assert warnings.filters == filters and torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert getattr(sys.modules.get("numpy.lib.arraysetops"), "isin", np.isin) is np.isin


def test_compatibility_layer_leaves_existing_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.onnx.symbolic_helper as helper

    own = object()
    monkeypatch.setattr(helper, "_set_opset_version", own, raising=False)
    monkeypatch.setattr(torch._C.Node, "__getitem__", own, raising=False)
    _compat._add_opset_setter()
    _compat._add_node_getitem()
    assert helper._set_opset_version is own and torch._C.Node.__getitem__ is own

    class Modern(nn.Module):
        pass

    before = Modern._named_members
    _compat._accept_new_arguments(Modern)
    assert Modern._named_members is before


def test_the_search_starts_from_crown_where_intervals_know_nothing() -> None:
    """In deep networks CROWN-IBP is hopeless even next to the image; its slope would be off by orders of magnitude."""
    asked: list[tuple[str, list[int]]] = []

    class Deep:
        def margin(self, epsilon: Tensor, index: Tensor, method: str) -> Tensor:
            asked.append((method, index.tolist()))
            slope = torch.tensor([1e9, 50.0, torch.inf]) if method == "CROWN-IBP" else torch.tensor([40.0, 40.0, 20.0])
            return 2 - slope[index] * epsilon

    linear = crown._linear_radius(Deep(), torch.full((3,), 2.0), "CROWN", 1.0)  # type: ignore[arg-type]
    assert torch.allclose(linear, torch.tensor([0.05, 0.04, 0.1]), rtol=1e-2)
    assert asked == [("CROWN-IBP", [0, 1, 2]), ("CROWN", [0, 2])]
