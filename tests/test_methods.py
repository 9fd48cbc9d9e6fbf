"""Each method against its slow reference, and the identities that its formula implies."""

import importlib.util
import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marginbench.benchmarks.nets import make_net
from marginbench.methods import (
    Batch,
    Context,
    Loss,
    MarginbenchError,
    Method,
    Net,
    NotApplicable,
    Radii,
    Task,
    create,
)
from marginbench.methods import method as contract
from marginbench.methods._jacobian import jacobian_rows, unit_vectors, vjp
from marginbench.methods._lipschitz import feature_bound, flat, lipschitz_radius
from marginbench.methods._operator_norm import circular_norm, convolution_norm, matrix_norm, power_step
from marginbench.methods._perturb import eval_mode, pgd, project, random_start

EXACT = {"rtol": 1e-9, "atol": 1e-9}
TASK = Task(input_shape=(1, 4, 4), class_counts=(6, 6, 6, 6), epsilon={"l2": 0.5, "linf": 0.1})
KEYS = ("ce", "pmm", "arcface", "jacobian_reg", "mma", "lmt")


def reference(key: str) -> ModuleType:
    path = Path(__file__).parent / "reference" / f"{key}.py"
    spec = importlib.util.spec_from_file_location(f"reference_{key}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def a_net(method: Method, name: str = "mlp", seed: int = 0, task: Task = TASK) -> Net:
    """A random network in float64 with logits of a few units, so that some examples are right."""
    stats = torch.full((task.input_shape[0],), 0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make_net(name, 6 if name == "mlp" else 2, task.input_shape, task.num_classes, stats, 0.6 * stats)
    net = net.double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    return method.build(net, task)


def a_batch(net: Net, count: int = 12, right: float = 0.6, seed: int = 0) -> Batch:
    """Random images; a share `right` of the labels is what the network says."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *TASK.input_shape, generator=g, dtype=torch.float64)
    y = torch.randint(TASK.num_classes, (count,), generator=g)
    with torch.no_grad():
        y = torch.where(torch.rand(count, generator=g) < right, net(x).argmax(1), y)
    return Batch(x, y, torch.arange(count))


def a_context(epoch: int = 0, epochs: int = 5, seed: int = 0) -> Context:
    ctx = Context(TASK, steps=2 * epochs, epochs=epochs, generator=torch.Generator().manual_seed(seed))
    ctx.step = 2 * epoch
    return ctx


def stage(spec: str, epoch: int = 0, name: str = "mlp", seed: int = 0) -> tuple[Method, Net, Batch, Context]:
    method = create(spec)
    net = a_net(method, name, seed)
    return method, net, a_batch(net, seed=seed), a_context(epoch, seed=seed)


def gradients(loss: Tensor, net: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, materialize_grads=True))


def assert_same(found: Tensor, wanted: Tensor, net: nn.Module, **tolerance: float) -> None:
    """Equal in value and in the gradient of every weight."""
    torch.testing.assert_close(found, wanted, **(tolerance or EXACT))
    pairs: Iterable[tuple[Tensor, Tensor]] = zip(gradients(found, net), gradients(wanted, net), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, **(tolerance or EXACT))


# --- all methods


@pytest.mark.parametrize("key", KEYS)
def test_neutral_setting_is_cross_entropy(key: str) -> None:
    neutral = create(key).info.neutral
    assert not isinstance(neutral, str)
    method = type(create(key))(**neutral)
    net = a_net(method)
    batch = a_batch(net)
    assert_same(method.loss(net, batch, a_context(epoch=3)).total, reference("ce").loss(net, batch.x, batch.y), net)


@pytest.mark.parametrize("key", KEYS)
def test_bf16_gradient_reaches_every_weight(key: str) -> None:
    method = create(key)
    net = a_net(method).float()
    double = a_batch(a_net(method))
    batch = Batch(double.x.to(torch.float32), double.y, double.index)
    exact = method.loss(net, batch, a_context(epoch=1)).total
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.loss(net, batch, a_context(epoch=1)).total
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact, rtol=0.1, atol=0.05)
        assert all(bool(g.isfinite().all()) and bool(g.any()) for g in gradients(loss, net))
        with torch.no_grad():
            method.after_step(net, a_context())
    assert all(bool(tensor.isfinite().all()) for tensor in net.state_dict().values())


@pytest.mark.parametrize(
    "spec",
    [
        "arcface(m=-1)",
        "arcface(s=0)",
        "pmm(alpha_end=-1)",
        "pmm(form=sum)",
        "jacobian_reg(projections=0)",
        "jacobian_reg(projections=all)",
        "jacobian_reg(weight=-1)",
        "mma(d_max=-0.1)",
        "mma(norm=l1)",
        "mma(clean_weight=2)",
        "mma(steps=0)",
        "lmt(c=-1)",
        "lmt(variant=plusplus)",
        "ce(alpha=1)",
    ],
)
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match=spec.partition("(")[0]):
        create(spec)


# --- cross-entropy


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


# --- pmm


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("risk", ["ce", "hinge"])
@pytest.mark.parametrize("epoch", [0, 3])
def test_pmm_matches_its_reference(form: str, risk: str, epoch: int) -> None:
    method, net, batch, ctx = stage(f"pmm(form={form},risk={risk},alpha_start=0.1,alpha_end=0.6)", epoch)
    alpha = 0.0 if form == "code" and epoch == 0 else 0.1 + epoch * 0.1
    wanted = reference("pmm").loss(net, batch.x, batch.y, risk=risk, form=form, alpha=alpha)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def pmm_regulariser(net: Net, batch: Batch, form: str = "paper") -> Tensor:
    ctx = a_context(epoch=1)
    with_term = create(f"pmm(form={form},alpha_start=1,alpha_end=1)").loss(net, batch, ctx).total
    return with_term - create("ce").loss(net, batch, ctx).total


def test_pmm_gradient_of_the_head_has_the_closed_form() -> None:
    _, net, batch, _ = stage("pmm")
    (found,) = torch.autograd.grad(pmm_regulariser(net, batch), net.head.weight)
    features, w = net.features(batch.x), net.head.weight
    radius2 = features.square().sum(1).max()
    wanted = torch.zeros_like(w)
    for z, y in zip(net(batch.x), batch.y.tolist(), strict=True):
        m = max((k for k in range(4) if k != y), key=lambda k: z[k].item())
        wanted[y] += 2 * radius2 * (w[y] - w[m]) / len(batch.y)
        wanted[m] -= 2 * radius2 * (w[y] - w[m]) / len(batch.y)
    torch.testing.assert_close(found, wanted, **EXACT)
    torch.testing.assert_close(found.sum(0), torch.zeros(found.shape[1], dtype=found.dtype), **EXACT)


def test_pmm_moves_only_the_feature_with_the_largest_norm() -> None:
    _, net, batch, _ = stage("pmm")
    features = net.features(batch.x).detach().requires_grad_()
    net.body = nn.Sequential(nn.Identity())
    net.normalise = nn.Identity()
    (found,) = torch.autograd.grad(pmm_regulariser(net, Batch(features, batch.y, batch.index)), features)
    largest = features.norm(dim=1).argmax()
    scale = pmm_regulariser(net, Batch(features, batch.y, batch.index)) / features[largest].square().sum()
    wanted = torch.zeros_like(features)
    wanted[largest] = 2 * scale.detach() * features[largest].detach()
    torch.testing.assert_close(found, wanted, **EXACT)


def test_pmm_invariances() -> None:
    _, net, batch, _ = stage("pmm")
    before, logits = pmm_regulariser(net, batch), net(batch.x)
    with torch.no_grad():
        net.head.weight.div_(3)
        net.body[-2].weight.mul_(3)  # the layer before the last ReLU: features times 3
        net.body[-2].bias.mul_(3)
    torch.testing.assert_close(net(batch.x), logits, **EXACT)
    torch.testing.assert_close(pmm_regulariser(net, batch), before, **EXACT)
    with torch.no_grad():
        net.head.weight.add_(torch.arange(6.0, dtype=torch.float64))  # one vector added to every row
    torch.testing.assert_close(pmm_regulariser(net, batch), before, **EXACT)


def test_pmm_code_form_is_at_most_the_paper_form() -> None:
    _, net, batch, _ = stage("pmm")
    assert pmm_regulariser(net, batch, "code") < pmm_regulariser(net, batch)
    with torch.no_grad():
        net.head.weight.copy_(torch.eye(4, 6))  # all pairs at the same distance
    torch.testing.assert_close(pmm_regulariser(net, batch, "code"), pmm_regulariser(net, batch), **EXACT)
    with torch.no_grad():
        net.head.weight.fill_(1.0)  # coinciding rows: no infinite gradient
    assert all(bool(g.isfinite().all()) for g in gradients(pmm_regulariser(net, batch, "code"), net))


def test_pmm_names_a_head_it_cannot_use() -> None:
    net = a_net(create("ce"))
    net.head = nn.Sequential(net.head)
    with pytest.raises(MarginbenchError, match="head"):
        create("pmm").build(net, TASK)


# --- arcface


@pytest.mark.parametrize("easy", ["true", "false"])
@pytest.mark.parametrize("m", [0.0, 0.5, 1.4])
def test_arcface_matches_its_reference(m: float, easy: str) -> None:
    method, net, batch, ctx = stage(f"arcface(s=8,m={m},easy_margin={easy})")
    wanted = reference("arcface").loss(net, batch.x, batch.y, s=8, m=m, easy_margin=easy == "true")
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_arcface_target_at_chosen_angles() -> None:
    method = create("arcface")
    theta = torch.tensor([0.3, 1.0, math.pi - 0.5 - 1e-9, math.pi - 0.5 + 1e-9, math.pi], dtype=torch.float64)
    target = method._target(theta.cos())
    torch.testing.assert_close(target[:3], (theta[:3] + 0.5).cos(), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(target[4].item(), -1 - 0.5 * math.sin(0.5))
    step = 1 - math.cos(0.5) - 0.5 * math.sin(0.5)
    torch.testing.assert_close((target[3] - target[2]).item(), step, rtol=0, atol=1e-7)
    assert step == pytest.approx(-0.1173, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arcface_gradient_is_finite_at_the_ends(dtype: torch.dtype) -> None:
    cosine = torch.tensor([1.0, -1.0, 1 + 1e-7, 1 - 1e-7], dtype=dtype, requires_grad=True)
    create("arcface")._target(cosine).sum().backward()
    assert cosine.grad is not None and bool(cosine.grad.isfinite().all())


def test_arcface_survives_parallel_and_zero_features() -> None:
    method, net, _, ctx = stage("arcface")
    features = torch.cat([net.head.weight[:3].detach(), -net.head.weight[:3].detach(), torch.zeros(1, 6)]).to(
        torch.float32
    )
    net = net.float()
    net.body, net.normalise = nn.Sequential(), nn.Identity()
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    loss = method.loss(net, Batch(features, y, y), ctx).total
    assert bool(loss.isfinite()) and all(bool(g.isfinite().all()) for g in gradients(loss, net))


def test_arcface_head_knows_directions_only() -> None:
    method, net, batch, ctx = stage("arcface")
    loss, z = method.loss(net, batch, ctx).total, net(batch.x)
    assert [name for name, _ in net.head.named_parameters()] == ["weight"]
    (slope,) = torch.autograd.grad(loss, net.head.weight)
    torch.testing.assert_close((slope * net.head.weight).sum(1), torch.zeros(4, dtype=torch.float64), **EXACT)
    with torch.no_grad():
        net.head.weight.mul_(torch.tensor([[0.5], [1], [2], [30]], dtype=torch.float64))
    torch.testing.assert_close(net(batch.x), z, **EXACT)
    torch.testing.assert_close(method.loss(net, batch, ctx).total, loss, **EXACT)


def test_arcface_decision_layer_keeps_every_gap_up_to_one_factor() -> None:
    _, net, batch, _ = stage("arcface")
    state = torch.get_rng_state()
    scores = net.decision_net()(batch.x)
    assert torch.equal(torch.get_rng_state(), state)
    norm = net.features(batch.x).norm(dim=1, keepdim=True)
    torch.testing.assert_close(scores * 64 / norm, net(batch.x), **EXACT)


def test_arcface_replaces_linear_heads_only() -> None:
    net = a_net(create("ce"))
    net.head = nn.Identity()
    with pytest.raises(MarginbenchError, match="linear head"):
        create("arcface").build(net, TASK)


# --- jacobian_reg


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_exact_jacobian_matches_its_reference(name: str) -> None:
    method, net, batch, ctx = stage("jacobian_reg(projections=exact,weight=0.3)", name=name)
    wanted = reference("ce").loss(net, batch.x, batch.y) + 0.3 * reference("jacobian_reg").penalty(net, batch.x)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)


def test_projected_jacobian_uses_the_formula_of_the_paper() -> None:
    method, net, batch, ctx = stage("jacobian_reg(projections=2,weight=1)")
    found = method.loss(net, batch, ctx).total
    generator, squares = torch.Generator().manual_seed(0), 0.0
    rows = torch.stack(
        [torch.autograd.functional.jacobian(lambda a: net(a[None])[0], a, create_graph=True) for a in batch.x]
    )
    for _ in range(2):
        v = unit_vectors(net(batch.x), generator)
        torch.testing.assert_close(v.norm(dim=1), torch.ones(12, dtype=torch.float64))
        squares = squares + torch.einsum("bk,bkchw->bchw", v, rows).square().sum()
    wanted = reference("ce").loss(net, batch.x, batch.y) + 4 / 2 * squares / (2 * 12)
    assert_same(found, wanted, net)


def test_projected_jacobian_is_unbiased() -> None:
    method, net, batch, ctx = stage("jacobian_reg(projections=3000)")
    wanted = reference("jacobian_reg").penalty(net, batch.x)
    assert method.loss(net, batch, ctx).parts["penalty"].item() == pytest.approx(wanted.item(), rel=0.01)


def test_jacobian_of_a_linear_network_is_its_matrix() -> None:
    method = create("jacobian_reg(projections=exact)")
    net = a_net(method, "linear")
    batch = a_batch(net)
    penalty = method.loss(net, batch, a_context()).parts["penalty"]
    torch.testing.assert_close(penalty, (net.head.weight / net.normalise.std.item()).square().sum() / 2, **EXACT)
    x = batch.x.clone().requires_grad_()
    rows = jacobian_rows(net(x), x)
    v = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vjp(net(x), x, v), torch.einsum("bk,bkchw->bchw", v, rows), **EXACT)
    with torch.no_grad():
        net.head.weight.zero_()
    assert method.loss(net, batch, a_context()).parts["penalty"] == 0


def test_exact_jacobian_draws_nothing() -> None:
    method, net, batch, ctx = stage("jacobian_reg(projections=exact)")
    state = ctx.generator.get_state()
    method.loss(net, batch, ctx)
    assert torch.equal(ctx.generator.get_state(), state) and not batch.x.requires_grad


# --- mma


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", [0, 1])
def test_mma_matches_its_reference(norm: str, seed: int) -> None:
    d_max = 2 * TASK.epsilon[norm]  # type: ignore[index]
    method, net, batch, ctx = stage(f"mma(norm={norm})", seed=seed)
    ctx.table("epsilon", 0.0)[::2] = d_max / 2  # half of the examples remember a radius
    radii = ctx.table("epsilon", 0.0)[batch.index].clamp_min(0.1 * d_max).double()
    starts = random_start(batch.x, radii, norm, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    wanted, distances = reference("mma").loss(
        net, batch.x, batch.y, starts, radii,
        d_max=d_max, clean_weight=1 / 3, norm=norm, steps=10, step_scale=2.5, bisections=10,
    )  # fmt: skip
    assert_same(method.loss(net, batch, ctx).total, wanted, net)
    found = ctx.table("epsilon", 0.0)[batch.index]
    torch.testing.assert_close(found, torch.tensor(distances, dtype=torch.float32))
    assert 0 < sum(d == 0 for d in distances) < len(distances)


def test_mma_finds_the_margin_of_a_linear_network() -> None:
    task = Task(TASK.input_shape, (12, 12), TASK.epsilon)
    method = create("mma")
    net = a_net(method, "linear", task=task)
    with torch.no_grad():
        net.head.weight.mul_(0.3)
        net.head.bias.mul_(0.1)
    x = 0.4 + 0.2 * torch.rand(24, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)
    ctx = Context(task, 2, 1, torch.Generator().manual_seed(0))
    method.loss(net, Batch(x, y, torch.arange(24)), ctx)
    gap = (net(x)[:, 0] - net(x)[:, 1]).abs() / ((net.head.weight[0] - net.head.weight[1]) / 0.3).abs().sum()
    near = gap < 1.05 * 0.2
    assert near.sum() > 5
    error = (ctx.table("epsilon", 0.0).double() - gap)[near].abs().max()
    assert error <= 1.05 * 0.2 / 2**10


def test_mma_without_margin_part() -> None:
    method, net, batch, ctx = stage("mma(d_max=0)")
    losses = F.cross_entropy(net(batch.x), batch.y, reduction="none")
    wrong = net(batch.x).softmax(1).gather(1, batch.y[:, None])[:, 0] <= 0.5
    assert 0 < wrong.sum() < 12
    assert_same(method.loss(net, batch, ctx).total, losses.mean() / 3 + 2 / 3 * losses[wrong].sum() / 12, net)
    omma = create("mma(d_max=0,clean_weight=0)").loss(net, batch, a_context()).total
    assert_same(omma, losses[wrong].sum() / 12, net)
    y = net(batch.x).argmin(1)  # all wrong
    all_wrong = create("mma").loss(net, Batch(batch.x, y, batch.index), a_context()).total
    assert_same(all_wrong, F.cross_entropy(net(batch.x), y), net)


def test_mma_forgets_the_radius_of_wrong_examples_and_leaves_modes_and_gradients() -> None:
    method, net, batch, ctx = stage("mma")
    net.train()
    net.body[0].eval()
    ctx.table("epsilon", 0.0).fill_(0.07)
    method.loss(net, batch, ctx)
    wrong = net(batch.x).softmax(1).gather(1, batch.y[:, None])[:, 0] <= 0.5
    assert not ctx.table("epsilon", 0.0)[batch.index][wrong].any()
    assert bool((ctx.table("epsilon", 0.0)[12:] == 0.07).all())
    assert net.training and not net.body[0].training and net.body[1].training
    assert all(p.grad is None for p in net.parameters())


def test_attack_runs_in_eval_mode() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    seen = []
    net[1].register_forward_hook(lambda module, *_: seen.append(module.training))
    with eval_mode(net):
        net(torch.zeros(1, 2))
    assert seen == [False] and net[1].training


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturbations_stay_in_ball_and_box(norm: str) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(50, 1, 4, 4, generator=g, dtype=torch.float64)
    epsilon = torch.linspace(0, 2, 50, dtype=torch.float64)
    order = torch.inf if norm == "linf" else 2
    start = random_start(x, epsilon, norm, g)  # type: ignore[arg-type]
    goal = torch.randn(x.shape, generator=g, dtype=torch.float64)
    delta = pgd(
        lambda a: (goal * a).flatten(1).sum(1), x, start, epsilon=epsilon, step=epsilon / 4, steps=10, norm=norm
    )  # type: ignore[arg-type]
    for d in (start, delta, project(3 * goal, epsilon, norm)):  # type: ignore[arg-type]
        assert bool((torch.linalg.vector_norm(d.flatten(1), order, dim=1) <= epsilon + 1e-12).all())
    assert bool(((x + delta >= 0) & (x + delta <= 1)).all()) and not delta.requires_grad
    assert bool(((goal * delta).flatten(1).sum(1)[1:] > 0).all())


# --- lmt


def layer_matrices(net: Net) -> list[Tensor]:
    """The matrices of the layers with weights, differentiable, for images of 4x4."""
    matrices, size = [], (4, 4)
    for layer in [*net.body, net.head]:
        if isinstance(layer, nn.Conv2d):
            convolve = reference("lmt").convolution_matrix
            matrices.append(convolve(layer.weight, size, layer.stride, layer.padding))
            size = (size[0] // 2, size[1] // 2)
        elif isinstance(layer, nn.Linear):
            matrices.append(layer.weight)
    return matrices


@pytest.mark.parametrize("variant", ["basic", "plus"])
@pytest.mark.parametrize("gate", ["true", "false"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_lmt_matches_its_reference(variant: str, gate: str, name: str) -> None:
    method, net, batch, ctx = stage(f"lmt(c=0.01,variant={variant},gate={gate})", name=name)
    matrices = layer_matrices(net)
    for i, matrix in enumerate(matrices):  # converged power iterations
        v = net.get_buffer(f"lmt_vector_{i}")
        v.copy_(torch.linalg.svd(matrix.detach())[2][0].view(v.shape))
    options = {"c": 0.01, "variant": variant, "gate": gate == "true"}
    wanted = reference("lmt").loss(net(batch.x), batch.y, matrices, net.lmt_factor, **options)
    assert net.lmt_factor.item() == pytest.approx(1 / 0.3)
    assert_same(method.loss(net, batch, ctx).total, wanted, net, rtol=1e-8, atol=1e-8)


def test_lmt_power_iteration_converges_from_below() -> None:
    method, net, _, ctx = stage("lmt", name="cnn")
    for i, matrix in enumerate(layer_matrices(net)):
        estimates = []
        for _ in range(200):
            estimates.append((matrix @ net.get_buffer(f"lmt_vector_{i}").flatten()).norm().item())
            with torch.no_grad():
                method.after_step(net, ctx)
        exact = torch.linalg.svdvals(matrix)[0].item()
        assert all(a <= b + 1e-9 for a, b in itertools.pairwise([*estimates, exact]))
        assert estimates[0] > 0.9 * exact and estimates[-1] == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("variant", ["basic", "plus"])
def test_lmt_gate(variant: str) -> None:
    method, net, batch, ctx = stage(f"lmt(c=100,variant={variant},gate=true)")
    y = net(batch.x).argmin(1)
    wrong = Batch(batch.x, y, batch.index)
    assert_same(method.loss(net, wrong, ctx).total, F.cross_entropy(net(batch.x), y), net)
    for i in range(12):  # every correct example ends in a tie: no class beats the label
        one = Batch(batch.x[i : i + 1], net(batch.x[i : i + 1]).argmax(1), batch.index[i : i + 1])
        assert method.loss(net, one, ctx).total >= math.log(2) - 1e-9
        assert method.loss(net, one, ctx).total <= math.log(4) + 1e-9


def test_lmt_vectors_are_saved_and_survive_zero_weights() -> None:
    method, net, _, ctx = stage("lmt")
    assert {"lmt_vector_0", "lmt_vector_1", "lmt_vector_2", "lmt_factor"} <= set(net.state_dict())
    before = net.lmt_vector_1.clone()
    with torch.no_grad():
        net.body[3].weight.zero_()
        method.after_step(net, ctx)
    torch.testing.assert_close(net.lmt_vector_1, before)


def test_lmt_radius_of_a_linear_network_is_exact() -> None:
    method = create("lmt")
    net = a_net(method, "linear")
    batch = a_batch(net)
    answer = method.certify(net, batch.x, "l2")
    assert isinstance(answer, Radii)
    z, w = net(batch.x), net.head.weight / 0.3
    gaps = z.max(1, keepdim=True)[0] - z
    distance = gaps / torch.linalg.vector_norm(w[z.argmax(1)][:, None] - w, dim=2)
    wanted = distance.nan_to_num(torch.inf).amin(1)
    assert bool((answer.radius <= wanted).all())
    torch.testing.assert_close(answer.radius, wanted, rtol=1e-3, atol=1e-4)
    assert isinstance(method.certify(net, batch.x, "linf"), NotApplicable)


@pytest.mark.parametrize("spec", ["ce", "arcface", "lmt"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_no_attack_within_the_certified_radius(spec: str, name: str) -> None:
    _, net, batch, _ = stage(spec, name=name)
    answer = lipschitz_radius(net, batch.x)
    assert isinstance(answer, Radii)
    radius, predicted = answer.radius, net(batch.x).argmax(1)
    assert bool((radius > 0).all())

    def attack(reach: float) -> Tensor:
        def objective(x: Tensor) -> Tensor:
            z = net(x)
            rival = z.scatter(1, predicted[:, None], -torch.inf).amax(1)
            return rival - z.gather(1, predicted[:, None])[:, 0]

        x, epsilon = batch.x, reach * radius
        delta = pgd(objective, x, torch.zeros_like(x), epsilon=epsilon, step=epsilon / 4, steps=30, norm="l2")
        return net(x + delta).argmax(1) != predicted

    assert not attack(1.0).any()
    assert attack(100.0).any()


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [
        ((4, 4), (2, 2), (1, 1), (8, 8)),
        ((3, 3), (1, 1), (1, 1), (6, 7)),
        ((3, 2), (2, 3), (0, 1), (7, 8)),
        ((5, 5), (3, 3), (2, 2), (9, 8)),
        ((1, 1), (2, 2), (0, 0), (5, 5)),
        ((2, 2), (3, 3), (1, 0), (6, 6)),
    ],
)
def test_convolution_norm_is_an_upper_bound(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], size: tuple[int, int], dense: bool
) -> None:
    weight = torch.randn(3, 2, *kernel, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = reference("lmt").convolution_matrix(weight, size, stride, padding)
    exact = torch.linalg.svdvals(matrix)[0]
    bound = (convolution_norm if dense else circular_norm)(weight, size, stride, padding)
    assert exact <= bound <= (1 + 1e-8 if dense else 1.5) * exact

    layer = nn.utils.skip_init(nn.Conv2d, 2, 3, kernel, stride, padding, dtype=torch.float64)
    layer.weight = nn.Parameter(weight)
    v = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(500):
        v = power_step(layer, v)
    below = F.conv2d(v, weight, None, stride, padding).norm()
    assert below <= bound and below == pytest.approx(exact.item(), rel=1e-3)


def test_large_convolutions_take_the_fourier_bound() -> None:
    weight = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    arguments = weight, (24, 24), (1, 1), (1, 1)
    torch.testing.assert_close(convolution_norm(*arguments), circular_norm(*arguments))
    torch.testing.assert_close(matrix_norm(weight[0, 0]), torch.linalg.svdvals(weight[0, 0].double())[0])


def test_feature_bound_of_pooling_and_dropout() -> None:
    x = torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    for pool in (nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d((2, 3), (1, 2))):
        exact = torch.linalg.svdvals(reference("lmt").matrix(pool, (1, 2, 6, 6)))[0]
        torch.testing.assert_close(feature_bound([pool], x), exact, rtol=1e-8, atol=0)
    assert feature_bound(flat(nn.Sequential(nn.Sequential(nn.Dropout()), nn.Flatten()).eval()), x) == 1


class OddLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 10 * super().forward(input)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(2),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, 3, dilation=2),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        OddLinear(4, 4),
        nn.Dropout(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_without_bound_are_named(layer: nn.Module) -> None:
    net = a_net(create("ce"))
    net.body = nn.Sequential(layer.double(), *net.body)
    answer = lipschitz_radius(net, torch.zeros(2, 1, 4, 4, dtype=torch.float64))
    assert isinstance(answer, NotApplicable) and type(layer).__name__ in answer.reason
    with pytest.raises(MarginbenchError, match=type(layer).__name__):
        create("lmt").build(net, TASK)


def test_no_certificate_for_broken_weights_or_other_heads() -> None:
    net = a_net(create("ce"))
    x = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        net.head.weight[0, 0] = torch.nan
    assert isinstance(lipschitz_radius(net, x), NotApplicable)
    net = a_net(create("ce"))
    net.head = nn.Sequential(net.head, nn.Softmax(1))
    assert isinstance(lipschitz_radius(net, x), NotApplicable)
    with pytest.raises(MarginbenchError, match="linear head"):
        create("lmt").build(net, TASK)


def test_loss_parts_are_scalars() -> None:
    for key in KEYS:
        method, net, batch, ctx = stage(key)
        loss = method.loss(net, batch, ctx)
        assert isinstance(loss, Loss) and all(part.ndim == 0 and not part.requires_grad for part in loss.parts.values())
