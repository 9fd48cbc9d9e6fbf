"""Learning curves: what they hold, how often a point is taken, and that training does not notice."""

import pytest
import torch

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.training.curve import SHARE, Curve
from marginbench.benchmarks.training.loop import How, train
from marginbench.methods import create


@pytest.mark.parametrize("spec", ["ce", "ce_dropout", "spectral_norm_reg"])
def test_training_does_not_notice(spec: str) -> None:
    """Weights, buffers and counted passes are the same with a point after every epoch and with the last one alone."""
    every, last = (train(create(spec), small_suite(epochs=6), small_data(), 0, How(curve_every=n)) for n in (1, 6))
    assert [point.epoch for point in every.curve] == [1, 2, 3, 4, 5, 6]
    assert last.curve == every.curve[-1:]
    a, b = every.net.state_dict(), last.net.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert (every.forward, every.backward) == (last.forward, last.backward)


def test_the_last_point_is_that_of_the_network() -> None:
    data, trained = small_data(), train(create("ce"), small_suite(epochs=8), small_data(), 0)
    point = trained.curve[-1]
    for split, accuracy, loss in (
        (data.validation, point.validation_accuracy, point.validation_loss),
        (data.train.rows(data.train.sample(20)), point.train_accuracy, point.train_loss),
    ):
        with torch.no_grad():
            logits = trained.net(split.images(slice(None)))
        assert accuracy == int((logits.argmax(1) == split.y).sum()) / 20, "a count, which no float32 has rounded"
        assert loss == pytest.approx(float(-logits.log_softmax(1).gather(1, split.y[:, None]).mean()), rel=1e-5)


def test_points_are_as_dense_as_two_per_cent_of_the_training_allow() -> None:
    data = small_data()  # 64 training and 20 validation images
    passes = 3 * len(data.train)
    due = [epoch for epoch in range(1, 41) if Curve(data).due(epoch, 40)]
    step = due[0]
    assert due == [*range(step, 41, step), *([40] if 40 % step else [])]
    assert 40 / step <= SHARE * passes / step + 40 and 2 * 20 / step <= SHARE * passes
    assert 2 * 20 / (step - 1) > SHARE * passes
