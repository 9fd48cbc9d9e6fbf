"""Confidence-calibrated adversarial training against its reference, and the limits of its targets."""

from dataclasses import replace

import pytest
import torch
from support import TASK, a_context, a_net, assert_same, reference, stage
from torch.nn import functional as F

from marginbench.methods import Batch, Context, MarginbenchError, Norm, create
from marginbench.methods.linearization import ccat
from marginbench.methods.maths.perturb import norms, random_norm_start, random_start


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("power", [0.5, 2.0])
def test_ccat_matches_its_reference(norm: str, power: float) -> None:
    method, net, batch, ctx = stage(f"ccat(norm={norm},power={power},steps=4,step_scale=1)")
    epsilon = TASK.epsilon[norm]  # type: ignore[index]
    radii = torch.full((6,), epsilon, dtype=torch.float64)
    starts = random_norm_start(batch.x[6:], radii, norm, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    settings = {"norm": norm, "epsilon": epsilon, "power": power, "steps": 4, "step_scale": 1.0}
    wanted = reference("ccat").loss(net, batch.x, batch.y, starts, **settings)
    assert_same(method.loss(net, batch, ctx).total, wanted, net)
    assert all(p.grad is None for p in net.parameters())


def _perturbed(spec: str) -> tuple[torch.Tensor, torch.Tensor, Batch, torch.nn.Module]:
    """The loss, the logits at the points that it was taken at, the batch and the network."""
    method, net, batch, ctx = stage(spec)
    seen: list[torch.Tensor] = []
    handle = net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    loss = method.loss(net, batch, ctx).total
    handle.remove()
    assert torch.equal(seen[-1][:6], batch.x[:6])
    return loss, net(seen[-1]), batch, net


def test_large_power_gives_uniform_targets() -> None:
    loss, logits, batch, net = _perturbed("ccat(power=1e9)")
    uniform = -logits[6:].log_softmax(1).mean(1).sum()
    clean = F.cross_entropy(logits[:6], batch.y[:6], reduction="sum")
    assert_same(loss, (clean + uniform) / 12, net)


def test_small_power_gives_the_label_within_the_radius() -> None:
    loss, logits, batch, net = _perturbed("ccat(norm=l2,power=1e-9,steps=1,step_scale=1e-6)")
    assert_same(loss, F.cross_entropy(logits, batch.y), net, rtol=1e-6, atol=1e-6)


def _sizes(spec: str, norm: Norm) -> torch.Tensor:
    """Norms of the perturbations of 64 images of 16x16, as shares of epsilon."""
    method, task = create(spec), replace(TASK, input_shape=(1, 16, 16))
    net = a_net(method, "cnn", task=task)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(128, 1, 16, 16, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        y = net(x).argmax(1)
    seen: list[torch.Tensor] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    method.loss(net, Batch(x, y, torch.arange(128)), Context(task, 1, 1, torch.Generator().manual_seed(0)))
    return norms(seen[-1][64:] - x[64:], norm) / task.epsilon[norm]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturbations_have_all_sizes(norm: Norm) -> None:
    """On the border alone every target would be uniform, and `power` without effect."""
    sizes = _sizes(f"ccat(norm={norm})", norm)
    assert sizes.max() <= 1 + 1e-9
    assert sizes.min() < 0.6 and (sizes < 0.95).sum() > 6, sizes.sort().values


def test_starts_uniform_in_the_ball_would_stay_on_its_border(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccat, "random_norm_start", random_start)
    assert _sizes("ccat", "linf").min() > 0.9


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_power_changes_the_loss_in_both_norms(norm: str) -> None:
    losses = []
    for power in (1.0, 10.0):
        method, net, batch, ctx = stage(f"ccat(norm={norm},power={power})")
        losses.append(method.loss(net, batch, ctx).total.item())
    assert abs(losses[0] - losses[1]) > 1e-3


def test_zero_radius_is_cross_entropy() -> None:
    method, net, batch, ctx = stage("ccat(epsilon=0)")
    assert_same(method.loss(net, batch, ctx).total, F.cross_entropy(net(batch.x), batch.y), net)


def test_attack_runs_in_eval_mode_on_half_of_the_batch() -> None:
    method, net, batch, _ = stage("ccat(steps=3)")
    net.train()
    seen: list[tuple[int, bool]] = []
    net.register_forward_pre_hook(lambda module, inputs: seen.append((len(inputs[0]), module.training)))
    method.loss(net, batch, a_context())
    assert seen == 3 * [(6, False)] + [(12, True)]


@pytest.mark.parametrize("spec", ["ccat(power=0)", "ccat(epsilon=-1)", "ccat(steps=0)", "ccat(norm=l1)"])
def test_bad_fields_are_refused(spec: str) -> None:
    with pytest.raises(MarginbenchError, match="ccat"):
        create(spec)
