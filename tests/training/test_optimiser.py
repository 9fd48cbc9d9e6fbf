"""Optimisers of torch by name."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.contract.tape import Tape
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.suites.training import UNFIT, Training, optimisers
from marginbench.benchmarks.training.loop import How, train
from marginbench.benchmarks.training.optimiser import decay, lr_factor, make_optimiser, replayable
from marginbench.benchmarks.training.run import Run
from marginbench.methods import (
    Batch,
    Context,
    Info,
    Loss,
    MarginbenchError,
    Method,
    Net,
    create,
    cross_entropy,
)

OF_TORCH = sorted(set(optimisers()) - {"adam", "sgd"})


def training(**values: Any) -> Training:
    return Training(**{"epochs": 2, "batch_size": 16, "learning_rate": 0.01, **values})


def suite_with(**values: Any) -> Suite:
    return small_suite().model_copy(update={"training": training(**values)})


def test_every_optimiser_of_torch_can_be_named_or_is_known_to_be_unfit() -> None:
    classes = {name for name, cls in vars(torch.optim).items() if isinstance(cls, type)}
    assert {"SGD", "Adam", "AdamW", "RMSprop", "NAdam"} <= set(OF_TORCH) <= classes
    assert classes - set(OF_TORCH) == {name for name in UNFIT if hasattr(torch.optim, name)}


@pytest.mark.parametrize("name", OF_TORCH)
def test_every_optimiser_trains(name: str) -> None:
    trained = train(create("ce"), suite_with(optimiser=name, epochs=4), small_data(), 0)
    assert trained.losses[-1] < trained.losses[0]


def test_settings_reach_the_class_and_so_do_rate_and_decay() -> None:
    settings = training(
        optimiser="RMSprop", optimiser_settings={"momentum": 0.9, "alpha": 0.5}, weight_decay=1e-3, learning_rate=0.02
    )
    net = Run(create("ce"), small_suite(), small_data(), 0).net
    optimiser = make_optimiser(create("ce"), settings, net)
    assert type(optimiser) is torch.optim.RMSprop
    (group,) = optimiser.param_groups
    assert (group["momentum"], group["alpha"], group["weight_decay"], group["lr"]) == (0.9, 0.5, 1e-3, 0.02)
    ours = make_optimiser(create("ce"), training(optimiser_settings={"betas": [0.8, 0.9]}), net)
    assert type(ours) is torch.optim.AdamW and ours.param_groups[0]["betas"] == (0.8, 0.9)


def decays(spec: str, settings: Training, net: Net) -> dict[str, float]:
    """The weight decay of every parameter, by its name."""
    names = {parameter: name for name, parameter in net.named_parameters()}
    groups = make_optimiser(create(spec), settings, net).param_groups
    return {names[parameter]: group["weight_decay"] for group in groups for parameter in group["params"]}


def test_weight_decay_of_mobilenet_is_that_of_its_table() -> None:
    """Convolutions that are not depthwise and the linear layer decay; batch norm, biases and depthwise ones do not."""
    settings = load_suite("pmm_table1_mobilenet").training
    net = make_net("mobilenet", 2, (3, 32, 32), 10, torch.zeros(3), torch.ones(3))
    found = decays("ce", settings, net)
    assert found.keys() == dict(net.named_parameters()).keys()
    kinds = {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    depthwise = [name for name, module in kinds.items() if isinstance(module, nn.Conv2d) and module.groups > 1]
    assert len(depthwise) == 13 and len(kinds) == 28
    wanted = {f"{name}.weight" for name in kinds.keys() - set(depthwise)}
    assert {name for name, decay in found.items() if decay == 1e-4} == wanted
    assert {decay for name, decay in found.items() if name not in wanted} == {0.0}
    everything = decays("ce", settings.model_copy(update={"no_decay": None}), net)
    assert set(everything.values()) == {1e-4}


def test_kernels_of_grouped_convolutions_decay() -> None:
    """Depthwise are those with a filter for each channel: of three convolutions the second."""
    layers = [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3, groups=2), nn.Flatten()]
    net = Net(nn.Identity(), nn.Sequential(*layers), nn.Linear(32, 5))
    found = decays("ce", training(weight_decay=0.1, no_decay=["depthwise"]), net)
    assert [name for name, decay in found.items() if decay == 0.0] == ["body.1.weight"]


def test_a_decay_of_the_method_stays_and_so_does_its_rate() -> None:
    settings = training(weight_decay=0.1, no_decay=["vectors"])
    net = Run(create("ce"), small_suite(), small_data(), 0).net
    assert set(decays("ce_wd(decay=0.5)", settings, net).values()) == {0.5, 0.0}
    groups = make_optimiser(Slow(), settings, net).param_groups
    assert {(group["weight_decay"], group.get("lr_scale", 1.0)) for group in groups} == {
        (0.1, 1.0), (0.0, 1.0), (0.1, 0.1), (0.0, 0.1)
    }  # fmt: skip


def test_the_names_of_ours_mean_what_they_meant() -> None:
    net = Run(create("ce"), small_suite(), small_data(), 0).net
    adam = make_optimiser(create("ce"), training(), net).param_groups[0]
    sgd = make_optimiser(create("ce"), training(optimiser="sgd"), net).param_groups[0]
    assert (adam["fused"], adam["capturable"], adam["betas"]) == (True, False, (0.9, 0.999))
    assert (sgd["momentum"], sgd["nesterov"], sgd["fused"]) == (0.9, True, None)


class Slow(Method):
    """The head learns at a tenth of the rate."""

    info = create("ce").info

    def param_groups(self, net: Net) -> Any:
        return [{"params": list(net.body.parameters())}, {"params": list(net.head.parameters()), "lr_scale": 0.1}]

    def loss(self, net: Net, batch: Any, ctx: Any) -> Any:
        return create("ce").loss(net, batch, ctx)


def test_schedules_and_scaled_groups_go_with_any_optimiser() -> None:
    values = {"optimiser": "NAdam", "schedule": "drops", "drops": [[1, 0.5]]}
    run = Run(Slow(), suite_with(**values), small_data(), 0)
    rates = []
    while run.ctx.step < run.ctx.steps:
        run.step()
        rates.append([group["lr"] for group in run.optimiser.param_groups])
    assert rates[0] == pytest.approx([0.01, 0.001]) and rates[-1] == pytest.approx([0.005, 0.0005])


def test_a_step_is_replayed_with_its_rate_of_the_moment() -> None:
    """With SGD; the state of others is on the device, as replaying needs it, on CUDA alone."""
    suite = suite_with(optimiser="SGD", optimiser_settings={"momentum": 0.5}, epochs=6)
    plain, taped = (Run(create("ce"), suite, small_data(), 0, recorder=way) for way in (None, Tape))
    for _ in range(plain.ctx.steps):
        plain.step()
        taped.step()
    assert taped.replay is not None and taped.replay.replayed > 0 and not taped.replay.obstacle
    for p, q in zip(plain.net.parameters(), taped.net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", sorted(optimisers()))
def test_cuda_graphs_train_the_same(name: str) -> None:
    suite, data = suite_with(optimiser=name, epochs=10), small_data().to(torch.device("cuda"))
    eager, graphs = (train(create("ce"), suite, data, 0, How(eager=eager)) for eager in (True, False))
    assert bool(graphs.replayed) == replayable(suite.training)
    torch.testing.assert_close(graphs.losses, eager.losses, rtol=1e-2, atol=1e-2)


def test_steps_are_recorded_only_where_the_state_stays_on_the_device() -> None:
    fit = {name for name in optimisers() if replayable(training(optimiser=name))}
    assert {"adam", "sgd", "RMSprop", "NAdam"} <= fit and not {"Adagrad", "Adafactor"} & fit


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('optimiser = "RMSprp"', ["training.optimiser='RMSprp'", "did you mean 'RMSprop'"]),
        ('optimiser = "LBFGS"', ["unknown optimiser"]),
        ('optimiser = "SGD"\noptimiser_settings = { momentm = 0.9 }', ["optimiser_settings.momentm", "'momentum'"]),
        ('optimiser = "SGD"\noptimiser_settings = { lr = 0.9 }', ["optimiser_settings.lr", "training.learning_rate"]),
        ('optimiser = "SGD"\noptimiser_settings = { fused = true }', ["optimiser_settings.fused"]),
        ('optimiser = "SGD"\noptimiser_settings = { momentum = -1.0 }', ["SGD: Invalid momentum value: -1"]),
        ('optimiser = "SGD"\noptimiser_settings = { momentum = "x" }', ["optimiser_settings: SGD"]),
        ('optimiser = "SGD"\nnesterov = true', ["nesterov: of sgd"]),
        ('optimiser = "Rprop"\nweight_decay = 0.1', ["weight_decay: Rprop has none"]),
        ('no_decay = ["vectors"]', ["no_decay: weight_decay is 0"]),
        ('weight_decay = 0.1\nno_decay = ["biases"]', ["training.no_decay", "'vectors'"]),
    ],
)
def test_a_wrong_optimiser_is_named_before_training(lines: str, words: list[str], tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("epochs = 2\n", f"epochs = 2\n{lines}\n"))
    with pytest.raises(MarginbenchError) as error:
        load_suite(str(tiny))
    for word in words:
        assert word in str(error.value)


def test_settings_are_part_of_the_fingerprint() -> None:
    prints = {
        suite_with(optimiser="SGD", **more).fingerprint
        for more in ({}, {"optimiser_settings": {"momentum": 0.9}}, {"optimiser_settings": {"momentum": 0.5}})
    }
    assert len(prints) == 3
    assert isinstance(Run(create("ce"), suite_with(optimiser="SGD"), small_data(), 0).net, nn.Module)


def decays_of(settings: Training) -> list[float]:
    return [decay(settings, epoch / settings.epochs) for epoch in range(settings.epochs)]


def test_decay_is_1_up_to_the_peak_and_then_the_share_of_it() -> None:
    values = decays_of(training(epochs=10))
    assert values[:4] == pytest.approx([1.0] * 4) and values == sorted(values, reverse=True) and values[9] < 0.1
    drops = training(epochs=6, schedule="drops", drops=[[2, 0.1], [4, 0.01]], warm_up=1.0)
    assert decays_of(drops) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    higher = training(epochs=6, schedule="drops", drops=[[0, 0.5], [2, 2.0], [4, 0.2]])
    assert decays_of(higher) == pytest.approx([1, 1, 1, 1, 0.1, 0.1])


@pytest.mark.parametrize("how", [{"schedule": "constant"}, {"schedule": "drops", "drops": [[3, 2.0]]}])
def test_decay_follows_the_progress_where_the_rate_never_falls(how: dict[str, Any]) -> None:
    assert decays_of(training(epochs=4, **how)) == [1, 0.75, 0.5, 0.25]


def test_hooks_read_the_decay_of_the_recipe_in_recorded_steps_too() -> None:
    class Reads(Method):
        info: ClassVar[Info] = Info("reads", "Reads", "tests", "-", "-", 2026, {})

        def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
            loss = cross_entropy(net(batch.x), batch)
            return Loss(loss, {"decay": 0 * loss + ctx.schedule(lambda: ctx.decay)})

    settings = training(epochs=10, schedule="drops", drops=[[4, 0.1], [8, 0.01]])
    suite = small_suite().model_copy(update={"training": settings})
    run, wanted = Run(Reads(), suite, small_data(), 0, recorder=Tape), []
    for step in range(run.ctx.steps):
        run.step()
        wanted.append(decay(settings, step / run.ctx.steps))
        assert float(run.parts["decay"]) == pytest.approx(wanted[-1])
    assert set(wanted) == {1, 0.1, 0.01} and run.replay is not None and run.replay.replayed > 8


def test_a_linear_schedule_falls_to_zero_from_the_end_of_its_warm_up() -> None:
    plain = training(schedule="linear")
    assert [lr_factor(plain, progress) for progress in (0.0, 0.25, 1.0)] == pytest.approx([1.0, 0.75, 0.0])
    assert decay(plain, 0.25) == pytest.approx(0.75)
    warm = training(schedule="linear", epochs=10, warm_up=2.0)
    shares = (0.0, 0.1, 0.2, 0.6, 1.0)
    assert [lr_factor(warm, progress) for progress in shares] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])
    assert [decay(warm, progress) for progress in shares] == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.0])
