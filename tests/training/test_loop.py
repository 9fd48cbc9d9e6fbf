"""Data, seeds, schedule and the training loop."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.runs.choice import choose_methods
from marginbench.benchmarks.runs.plan import make_plan
from marginbench.benchmarks.suites.schema import load_suite, suite_names
from marginbench.benchmarks.suites.training import Training
from marginbench.benchmarks.training.loop import DivergedError, train
from marginbench.benchmarks.training.optimiser import lr_factor, make_optimiser
from marginbench.benchmarks.training.pixels import pixel_statistics
from marginbench.benchmarks.training.run import Run
from marginbench.methods import Batch, Context, Loss, Method, Net, create


def test_digits_are_split_once_and_for_all() -> None:
    data = load_data("digits", 200, Path())
    assert (len(data.train), len(data.validation), len(data.test)) == (1237, 200, 360)
    assert data.fingerprint == load_data("digits", 200, Path()).fingerprint
    assert data.fingerprint != load_data("digits", 201, Path()).fingerprint
    x = torch.cat([split.images(slice(None)) for split in (data.train, data.validation, data.test)])
    digits = torch.from_numpy(load_digits().images).float()[:, None] / 16
    assert sorted(map(float, x.sum((1, 2, 3)))) == pytest.approx(sorted(map(float, digits.sum((1, 2, 3)))))
    assert float(x.min()) >= 0 and float(x.max()) == 1.0


def test_an_npz_file_is_a_data_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 255, (30, 8, 8, 3), dtype=np.uint8),
        "y_train": np.arange(30) % 3,
        "x_test": rng.integers(0, 255, (10, 8, 8, 3), dtype=np.uint8),
        "y_test": np.arange(10) % 3,
    }
    np.savez(tmp_path / "mine.npz", **arrays)  # type: ignore[arg-type]
    data = load_data("mine.npz", 6, tmp_path)
    assert data.shape == (3, 8, 8) and len(data.train) == 24 and data.num_classes == 3
    expected = torch.from_numpy(arrays["x_test"]).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(data.test.images(slice(None)), expected)


def test_seeds_come_from_names() -> None:
    assert seeds.derive_seed("a", 1) == seeds.derive_seed("a", 1) != seeds.derive_seed("a", 2)
    assert seeds.derive_seed("a", "b") != seeds.derive_seed("ab")
    before = torch.get_rng_state()
    with seeds.seeded(torch.device("cpu"), "x"):
        first = torch.rand(3)
    with seeds.seeded(torch.device("cpu"), "x"):
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(before, torch.get_rng_state())


def _drawn(run: Run) -> dict[str, torch.Tensor]:
    """What chance gives a run, by where it enters."""
    with run.draws:
        dropout = torch.rand(8)
    return {
        **{f"init: {name}": value for name, value in run.net.body.named_parameters() if value.dim() > 1},
        "data order": run._batch().index,
        "hooks of the method": torch.rand(8, generator=run.ctx.generator),
        "dropout": dropout,
        "augmentation": torch.rand(8, generator=run._augment_stream),
    }


def test_methods_share_initial_weights_and_data_order_and_seeds_share_nothing() -> None:
    suite, data = small_suite(), small_data()
    a, again, arcface, other = (
        _drawn(Run(create(spec), suite, data, seed)) for spec, seed in (("ce", 1), ("ce", 1), ("arcface", 1), ("ce", 2))
    )
    assert len(a) > 5
    for name, value in a.items():
        assert torch.equal(value, again[name]), name
        assert torch.equal(value, arcface[name]) == (name != "hooks of the method"), name
        assert not torch.equal(value, other[name]), name


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_normalised_by_their_mean_and_standard_deviation(channels: int) -> None:
    stream = np.random.default_rng(0)
    pixels = stream.integers(0, 256, (50, channels, 4, 4), dtype=np.uint8) // np.arange(1, channels + 1)[:, None, None]
    split = replace(small_data().train, x=torch.from_numpy(pixels.astype(np.uint8)), y=torch.zeros(50).long())
    mean, std = pixel_statistics(split)
    np.testing.assert_allclose(mean, (pixels / 255).mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, (pixels / 255).std((0, 2, 3), ddof=1), rtol=1e-6)


def recipe(**values: Any) -> Training:
    return Training(**{"epochs": 200, "batch_size": 8, "learning_rate": 0.1, **values})


def test_the_rate_drops_at_the_epochs_named_after_a_linear_rise() -> None:
    """As in the paper of LDAM: 5 epochs of warm-up, times 0.01 from epoch 160, times 0.0001 from 180."""
    ldam = recipe(schedule="drops", drops=[[160, 0.01], [180, 0.0001]], warm_up=5.0)
    at = {0: 0.0, 1: 0.2, 5: 1.0, 159.99: 1.0, 160: 0.01, 179.99: 0.01, 180: 0.0001, 199.9: 0.0001}
    for epoch, factor in at.items():
        assert lr_factor(ldam, epoch / 200) == pytest.approx(factor), epoch
    assert lr_factor(recipe(schedule="constant"), 0.7) == 1.0
    assert lr_factor(recipe(schedule="constant", warm_up=10.0), 0.025) == 0.5


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"schedule": "drops"}, "go together"),
        ({"drops": [[1, 0.1]]}, "go together"),
        ({"schedule": "drops", "drops": [[5, 0.1], [3, 0.01]]}, "growing epochs"),
        ({"schedule": "drops", "drops": [[5, 0.1, 3]]}, "EPOCH, FACTOR"),
        ({"warm_up": 1.0}, "one_cycle has its own"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(values: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        recipe(**values)


def test_sgd_is_nesterovs_unless_the_suite_says_otherwise() -> None:
    suite = small_suite()
    net = Run(create("ce"), suite, small_data(), 0).net
    for value, expected in ((None, True), (True, True), (False, False)):
        training = suite.training.model_copy(update={"optimiser": "sgd", "nesterov": value})
        optimiser = make_optimiser(create("ce"), training, net)
        assert optimiser.param_groups[0]["nesterov"] is expected and optimiser.param_groups[0]["momentum"] == 0.9


def test_one_cycle_rises_and_falls_to_zero() -> None:
    factors = [lr_factor(recipe(), i / 100) for i in range(101)]
    assert max(factors) == pytest.approx(1.0) and factors[-1] == pytest.approx(0.0)
    assert all(a < b for a, b in itertools.pairwise(factors[:31]))
    assert all(a > b for a, b in itertools.pairwise(factors[30:]))


def test_passes_are_counted_in_images() -> None:
    net = Run(create("ce"), small_suite(), small_data(), 0).net
    x = torch.rand(7, 1, 8, 8)
    with PassCounter(net) as passes:
        net(x).sum().backward()
        with torch.no_grad():
            net(x)
    assert (passes.forward, passes.backward) == (14, 7)
    net(x)
    assert passes.forward == 14


def test_cost_of_cross_entropy_is_one_forward_and_one_backward_pass() -> None:
    trained = train(create("ce"), small_suite(epochs=2), small_data(), 0)
    assert (trained.forward, trained.backward) == (1.0, 1.0)
    assert trained.seconds > 0 and len(trained.losses) == 2 and not trained.net.training


def test_divergence_is_noticed() -> None:
    suite = small_suite(epochs=2)
    wild = suite.model_copy(update={"training": suite.training.model_copy(update={"learning_rate": 1e30})})
    with pytest.raises(DivergedError, match="epoch"):
        train(create("ce"), wild, small_data(), 0)


def test_a_single_weight_that_is_lost_in_the_last_step_is_noticed() -> None:
    """The loss of that step is finite, and no further one follows."""

    class Loses(Method):
        info = create("ce").info

        def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
            return create("ce").loss(net, batch, ctx)

        def after_step(self, net: Net, ctx: Context) -> None:
            if ctx.step == ctx.steps - 1:
                net.get_parameter("head.weight")[0, 0] = torch.nan

    with pytest.raises(DivergedError, match="not finite in epoch 2 of 2"):
        train(Loses(), small_suite(epochs=2), small_data(), 0)


def test_every_epoch_has_all_images_in_an_order_of_its_own() -> None:
    run, orders = Run(create("ce"), small_suite(), small_data(), 0), []
    for epoch in range(3):
        seen: list[int] = []
        for position in range(run.steps_per_epoch):
            run.ctx.step = epoch * run.steps_per_epoch + position
            seen += run._batch().index.tolist()
        assert sorted(seen) == list(range(64))
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_ids_depend_on_what_a_run_depends_on() -> None:
    suite = load_suite("digits")
    (ce,) = choose_methods(["ce"], suite, [])
    (cell,) = make_plan(suite, [ce], range(1), "data")
    assert cell.id == make_plan(suite, [ce], range(3), "data")[0].id
    assert cell.id != make_plan(suite, [ce], range(1), "other data")[0].id
    more = suite.model_copy(update={"seeds": 9, "methods": None, "title": "x"})
    assert cell.id == make_plan(more, [ce], range(1), "data")[0].id
    longer = suite.model_copy(update={"training": suite.training.model_copy(update={"epochs": 31})})
    assert cell.id != make_plan(longer, [ce], range(1), "data")[0].id
    (changed,) = choose_methods(["arcface"], suite, ["arcface.m=0.3"])
    (default,) = choose_methods(["arcface"], suite, [])
    assert make_plan(suite, [changed], range(1), "data")[0].id != make_plan(suite, [default], range(1), "data")[0].id


def test_built_in_suites_load() -> None:
    assert {"digits", "smoke"} <= set(suite_names())
    for name in suite_names():
        suite = load_suite(name)
        assert suite.name == name
        choose_methods(None, suite, [])


def test_bf16_training_learns() -> None:
    trained = train(create("ce"), small_suite(precision="bf16"), small_data(), 0)
    split = small_data().train
    with torch.no_grad():
        assert float((trained.net(split.images(slice(None))).argmax(1) == split.y).float().mean()) > 0.9
