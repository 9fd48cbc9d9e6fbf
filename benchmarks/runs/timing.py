"""How long a training and an evaluation will take here, from a few steps and a few points."""

from dataclasses import replace

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.device import seconds_on
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.loop import train
from marginbench.benchmarks.training.replay import SETTLED
from marginbench.benchmarks.training.run import Run
from marginbench.methods import Method, Net, create

STAGES = (0.02, 0.35, 0.65, 0.95)  # of the training, at which steps are timed: methods ramp up, and change phases
STEPS = 3  # timed in each stage, after one that is not
PATIENCE = 5.0  # seconds after which no further stage or larger number of points is timed
POINTS = 16  # timed at first, and four times as many each time after
IMAGES = 4096  # on which the network that is evaluated is trained at most


def training_seconds(method: Method, suite: Suite, data: Dataset) -> float:
    """Seconds of one training: the mean over some of its stages of the seconds of a step, times the steps."""
    device = data.train.device
    with seeds.seeded(device, "forecast"):
        run = Run(method, suite, data, 0)
        before = 1 if run.replay is None else SETTLED + 1  # these load kernels and record
        each: list[float] = []
        start = seconds_on(device)
        for stage in STAGES:
            if each and seconds_on(device) - start > PATIENCE:
                break
            run.ctx.step = min(int(stage * run.ctx.steps), max(0, run.ctx.steps - before - STEPS))
            for _ in range(min(before, run.ctx.steps - 1)):
                run.step()
            count, began = min(STEPS, run.ctx.steps - run.ctx.step), seconds_on(device)
            for _ in range(count):
                run.step()
            each.append((seconds_on(device) - began) / count)
        return sum(each) / len(each) * run.ctx.steps


def evaluation_seconds(suite: Suite, data: Dataset) -> float:
    """Seconds of one evaluation of a network trained with cross-entropy, on growing numbers of points.

    Other methods' networks may be harder to attack or to certify, and may have a certificate of their own.
    """
    device, method = data.train.device, create("ce")
    part = replace(data.train, x=data.train.x[:IMAGES], y=data.train.y[:IMAGES])
    net = train(method, suite, replace(data, train=part), 0).net
    total = min(suite.evaluation.points, len(data.test))
    timed: list[tuple[int, float]] = []  # points and seconds
    points = min(POINTS, total)
    _evaluate(net, suite, data, points)  # loads libraries
    while True:
        start = seconds_on(device)
        _evaluate(net, suite, data, points)
        timed.append((points, seconds_on(device) - start))
        if points == total or (len(timed) > 1 and sum(seconds for _, seconds in timed) > PATIENCE):
            return extrapolate(timed, total)
        points = min(4 * points, total)


def extrapolate(timed: list[tuple[int, float]], points: int) -> float:
    """The line through the last two of `timed`, pairs of points and seconds, at `points`; never below the last."""
    (last, seconds), *before = reversed(timed)
    slope = max(0.0, (seconds - before[0][1]) / (last - before[0][0])) if before else 0.0
    return seconds + slope * (points - last)


def _evaluate(net: Net, suite: Suite, data: Dataset, points: int) -> None:
    few = suite.evaluation.model_copy(update={"points": points})
    evaluate(net, create("ce").certify, data, few, "forecast")
