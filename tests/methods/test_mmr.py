"""MMR against its reference, and the maps and radii of linear regions."""

import pytest
import torch
from support import TASK, a_batch, a_context, a_net, assert_same, reference, stage
from torch import Tensor, nn

from marginbench.methods import MarginbenchError, Net, NotApplicable, Radii, Task, create
from marginbench.methods.maths.bounds import path as shared
from marginbench.methods.maths.bounds.regions import region_of, unit_distances
from marginbench.methods.maths.bounds.rows import Patches


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "linear"])
@pytest.mark.parametrize(("epoch", "rise", "share"), [(0, 0.0, 0.5), (2, 0.8, 0.3)])
def test_mmr_matches_its_reference(norm: str, name: str, epoch: int, rise: float, share: float) -> None:
    spec = f"mmr(norm={norm},weight=0.7,gamma=0.2,units_start=0.5,units_end=0.0001,ramp_end=0.5)"
    method, net, batch, ctx = stage(spec, epoch, name=name)
    hidden = {"mlp": 12, "cnn": 20, "linear": 0}[name]
    count = round((0.5 - epoch / 5 * 0.4999) * hidden)
    assert count == round(share * hidden)
    wanted = reference("mmr").loss(net, batch.x, batch.y, gamma=0.2, weight=0.7 * rise, count=count, norm=norm)
    assert_same(method.loss(net, batch, ctx).total, wanted, net, rtol=1e-8, atol=1e-8)


def pre_activations(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    """All hidden units and the logits of x, by the network's own layers."""
    units, value = [x.flatten(1)[:, :0]], net.normalise(x)
    for layer in net.body:
        if isinstance(layer, nn.ReLU):
            units.append(value.flatten(1))
        value = layer(value)
    return torch.cat(units, 1), net.head(value)


@pytest.mark.parametrize("dense", [0, 2**20])
@pytest.mark.parametrize("name", ["mlp", "cnn", "linear", "cnn7"])
@pytest.mark.parametrize("size", [(4, 4), (9, 12)])
def test_a_region_has_the_gradients_of_the_network(
    name: str, dense: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "DENSE", dense)  # 0: rows of the first convolutions are kept as patches
    net = a_net(create("ce"), name, task=Task((2, *size), TASK.class_counts, TASK.epsilon))
    x = torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    region = region_of(net, x)
    units, logits = pre_activations(net, x)
    torch.testing.assert_close(region.units, units)
    torch.testing.assert_close(region.logits, logits)

    def rows(outputs: Tensor) -> Tensor:
        return torch.stack([torch.autograd.grad(out.sum(), x, retain_graph=True)[0] for out in outputs.T], 1).flatten(2)

    torch.testing.assert_close(region.logit_rows.expand(3, -1, -1) * region.scale, rows(logits))
    if name != "linear":
        for norm, order in (("linf", 1), ("l2", 2)):
            wanted = torch.linalg.vector_norm(rows(units), ord=order, dim=2)
            torch.testing.assert_close(region.unit_lengths(norm), wanted)  # type: ignore[arg-type]
    patches = [isinstance(part, Patches) for part in region.unit_rows]
    assert any(patches) == (dense == 0 and name in ("cnn", "cnn7")) or size == (4, 4)


def test_distances_of_one_hidden_layer_are_those_of_planes() -> None:
    net = a_net(create("mmr"))
    x = a_batch(net).x
    weight, bias = net.body[1].weight, net.body[1].bias
    values = (x.flatten(1) - net.normalise.mean.item()) / net.normalise.std.item() @ weight.T + bias
    lengths = weight.abs().sum(1) / net.normalise.std.item()
    found = unit_distances(region_of(net, x), "linf")[:, :6]
    torch.testing.assert_close(found, values.abs() / lengths)


def test_mmr_ignores_the_scale_of_a_unit() -> None:
    method, net, batch, ctx = stage("mmr", epoch=3)
    before = method.loss(net, batch, ctx).total
    with torch.no_grad():
        net.body[1].weight[2] *= 3
        net.body[1].bias[2] *= 3
        net.body[3].weight[:, 2] /= 3
    torch.testing.assert_close(method.loss(net, batch, ctx).total, before)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_region_radii_hold_and_are_exact_for_linear_networks(norm: str) -> None:
    method = create("mmr")
    g = torch.Generator().manual_seed(1)
    for name in ("mlp", "cnn", "linear"):
        net = a_net(method, name)
        x = a_batch(net).x
        answer = method.certify(net, x, norm)  # type: ignore[arg-type]
        assert isinstance(answer, Radii)
        radius, top = answer.radius.view(-1, 1, 1, 1), net(x).argmax(1)
        for i, image in enumerate(x):
            units, planes, _ = reference("mmr").planes(net, image, int(top[i]), norm)
            nearest = min(d.item() for d in [*units, *planes])
            assert float(answer.radius[i]) <= nearest
            assert float(answer.radius[i]) == pytest.approx(nearest, rel=1e-3, abs=1e-4)
        for _ in range(100):
            step = torch.randn(x.shape, generator=g, dtype=torch.float64).sign()
            step = step if norm == "linf" else step / 4  # 16 pixels
            assert torch.equal(net(x + radius * step).argmax(1), top)


def test_mmr_refuses_unknown_layers() -> None:
    method, net, batch, _ = stage("mmr")
    net.body.append(nn.Tanh())
    with pytest.raises(MarginbenchError, match="Tanh"):
        method.build(net, TASK)
    answer = method.certify(net, batch.x, "linf")
    assert isinstance(answer, NotApplicable) and "Tanh" in answer.reason
    net = a_net(method)
    with torch.no_grad():
        net.head.bias[0] = torch.inf
    assert isinstance(method.certify(net, batch.x, "linf"), NotApplicable)


def test_mmr_of_far_planes_is_cross_entropy() -> None:
    method, net, batch, _ = stage("mmr(gamma=1e-12)")
    right = net(batch.x).argmax(1) == batch.y
    batch = type(batch)(batch.x[right], batch.y[right], batch.index[right])
    ctx = a_context(epoch=4)
    assert_same(method.loss(net, batch, ctx).total, create("ce").loss(net, batch, ctx).total, net)
