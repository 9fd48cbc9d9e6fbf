"""Quantisation against its reference, its levels, its straight-through gradient, and the network handed over."""

import pytest
import torch
from support import EXACT, a_batch, a_context, a_net, a_query, assert_same, gradients, reference, stage
from torch import nn
from torch.nn import functional as F

from marginbench.benchmarks.certificates.crown import crown
from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.training.loop import train
from marginbench.methods import MarginbenchError, create


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_loss_matches_its_reference(bits: int) -> None:
    method, net, batch, ctx = stage(f"quantise(bits={bits})")
    linear = [layer for layer in (*net.body, net.head) if isinstance(layer, nn.Linear)]
    layers = [(layer.parametrizations.weight.original, layer.bias) for layer in linear]
    net.train()
    x = net.normalise(batch.x).flatten(1)
    for module in net.modules():
        if "largest" in dict(module.named_buffers(recurse=False)):
            module.largest.zero_()  # the first batch sets it
    found = method.loss(net, batch, ctx).total
    logits = reference("quantise").forward(layers, x, bits, None)
    assert_same(found, F.cross_entropy(logits, batch.y), net)
    assert any(bool(gradient.any()) for gradient in gradients(found, net))


def test_evaluation_uses_the_running_maximum_of_training() -> None:
    _, net, batch, _ = stage("quantise(bits=4)")
    first, second = batch.x[:6], batch.x[6:]
    plain = [module for module in net.modules() if "largest" in dict(module.named_buffers(recurse=False))]
    seen = []
    handle = plain[0].register_forward_pre_hook(lambda _, inputs: seen.append(float(inputs[0].detach().max())))
    for module in plain:
        module.largest.zero_()
    net.train()
    net(first)
    net(second)
    handle.remove()
    assert float(plain[0].largest) == pytest.approx(0.95 * seen[0] + 0.05 * seen[1])
    before = [float(module.largest) for module in plain]
    net.eval()
    linear = [layer for layer in (*net.body, net.head) if isinstance(layer, nn.Linear)]
    layers = [(layer.parametrizations.weight.original, layer.bias) for layer in linear]
    wanted = reference("quantise").forward(layers, net.normalise(batch.x).flatten(1), 4, before)
    torch.testing.assert_close(net(batch.x), wanted, **EXACT)
    assert [float(module.largest) for module in plain] == before


def test_the_gradient_of_a_linear_network_passes_straight_through() -> None:
    method = create("quantise(bits=2)")
    net = a_net(method, "linear")
    batch = a_batch(net)
    plain = method.finish(a_net(method, "linear"), [], a_context())
    found = gradients(method.loss(net, batch, a_context()).total, net)
    wanted = gradients(F.cross_entropy(plain(batch.x), batch.y), plain)
    for gradient in found:
        assert any(a.shape == gradient.shape and torch.allclose(a, gradient, rtol=1e-9, atol=0) for a in wanted)


@pytest.mark.parametrize(("bits", "levels"), [(8, 255), (4, 15), (2, 3), (1, 2)])
def test_the_network_handed_over_is_the_one_trained_and_holds_few_levels(bits: int, levels: int) -> None:
    method, net, batch, ctx = stage(f"quantise(bits={bits})", name="cnn")
    net(batch.x)
    net.eval()
    before = net(batch.x)
    plain = method.finish(net, [], ctx)
    assert torch.equal(plain(batch.x), before)
    torch.testing.assert_close(plain.decision_net()(batch.x), before, rtol=0, atol=0)
    assert {name.rsplit(".", 1)[1] for name, _ in plain.named_parameters()} == {"weight", "bias"}
    for layer in (*plain.body, plain.head):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            assert type(layer) in (nn.Linear, nn.Conv2d)
            assert len(layer.weight.unique()) <= levels
    hidden = plain.body[:2](plain.normalise(batch.x))
    assert len(hidden.unique()) <= 2**bits


def test_many_bits_are_cross_entropy_on_the_network_as_it_is() -> None:
    method, net, batch, ctx = stage("quantise(bits=32)", name="cnn")
    assert_same(method.loss(net, batch, ctx).total, reference("ce").loss(net, batch.x, batch.y), net)
    assert all(type(layer) in (nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear) for layer in (*net.body, net.head))


def test_zero_weights_and_images_give_numbers() -> None:
    for bits in (4, 1):
        method, net, batch, ctx = stage(f"quantise(bits={bits})")
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
        loss = method.loss(net, batch, ctx).total
        assert bool(loss.isfinite()) and all(bool(gradient.isfinite().all()) for gradient in gradients(loss, net))


def test_crown_applies_to_quantised_weights_but_not_to_rounded_activations() -> None:
    data = small_data()
    x, y = data.test.images(slice(4)), data.test.y[:4]
    for spec, certified in (("quantise(activations=false)", True), ("quantise", False), ("quantise(bits=1)", False)):
        net = train(create(spec), small_suite(epochs=5), data, 0).net.requires_grad_(False)
        radius = crown(a_query(net.decision_net(), x, y, "linf")).lower
        assert (radius is not None) is certified


@pytest.mark.parametrize("bits", ["3", "0", "many"])
def test_other_bits_are_refused(bits: str) -> None:
    with pytest.raises(MarginbenchError, match="quantise"):
        create(f"quantise(bits={bits})")
