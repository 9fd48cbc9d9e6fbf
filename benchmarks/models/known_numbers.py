"""Numbers that follow from a line of arithmetic, by the functions that make the tables: margins, intervals, bounds."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.evaluation.doctor import Result
from marginbench.benchmarks.evaluation.evaluated import output_margins
from marginbench.benchmarks.probes._confident_attack import backtracked, settled, wrong_confidence
from marginbench.benchmarks.probes.clever import Clever
from marginbench.benchmarks.probes.constrained_margin import ConstrainedMargin
from marginbench.benchmarks.probes.linearised_margin import LinearisedMargin
from marginbench.benchmarks.probes.probe import Subject
from marginbench.benchmarks.probes.smoothing import Smoothing, lower_bound
from marginbench.benchmarks.records.metrics import summarise
from marginbench.benchmarks.statistics.paired import holm, mean_and_interval
from marginbench.benchmarks.statistics.pairwise import pairwise
from marginbench.methods import NORMS, Net

T_OF_TWO = 4.302652729749464  # Student's quantile of 97.5 % at two degrees of freedom, from a table
PHI_OF_ONE = 0.8413447460685429  # P(X <= 1) for a standard normal X


def examine_numbers() -> Iterator[Result]:
    """Each against its closed form."""
    yield _equality()
    yield from _margins()
    yield from _clever()
    yield from _rejecting()
    yield from _statistics()


def known(cell: str, found: str, right: bool, wanted: str) -> Result:
    """A line about a number that is known."""
    verdict = "pass" if right else f"FAIL: {found}, not {wanted}"
    return Result("table row, known", cell, "-", None, int(not right), verdict, best=False)


def _near(cell: str, found: Sequence[float], wanted: Sequence[float], tolerance: float = 1e-5) -> Result:
    seen, right = (", ".join(f"{value:.5g}" for value in values) for values in (found, wanted))
    return known(cell, seen, np.allclose(found, wanted, rtol=tolerance, atol=0), right)


def _equality() -> Result:
    """An adversarial image at the radius itself breaks the point there, and a certified radius holds at itself."""
    at, beyond = np.array([0.5, 0.5, 0.5, 0.0]), np.array([0.5, 0.6, 0.7, 0.0])
    label = np.zeros(4, dtype=np.int64)
    arrays = {"label": label, "prediction": label + (at == 0), "output_margin": at}
    for norm in NORMS:
        arrays |= {f"upper_{norm}": beyond, f"lower_{norm}": at, f"lower_{norm}_any": at}
    found = summarise(arrays, dict.fromkeys(NORMS, 0.5))
    values = [found[f"{kind}_accuracy_{norm}"] for norm in NORMS for kind in ("robust", "certified")]
    return known("at the radius itself", str(values), values == [0.5, 0.75] * 2, "robust 0.5, certified 0.75")


def _margins() -> Iterator[Result]:
    """z = (0, 3 a - 4 b) of images (a, b): at (1, 0) it is 3 and at (1, 1) -1, each with its class as label."""
    net = Net(nn.Identity(), nn.Sequential(nn.Flatten()), nn.Linear(2, 2, bias=False)).eval().requires_grad_(False)
    net.get_parameter("head.weight").copy_(torch.tensor([[0.0, 0.0], [3.0, -4.0]]))
    split = Split(torch.tensor([[255, 0], [255, 255]], dtype=torch.uint8).view(2, 1, 1, 2), torch.tensor([1, 0]), 255)
    x = split.images(slice(None))
    margins = output_margins(net, split.y, net(x), lambda: net.features(x))
    subject = Subject(net, split, split, split, dict.fromkeys(NORMS, 0.1), seed=0)
    margins |= LinearisedMargin().measure(subject)
    margins |= Smoothing(sigma=0.01, n0=1, n=2, alpha=PHI_OF_ONE**2).measure(subject)  # votes: 2 of 2, hence Phi(1)
    gap = np.array([3.0, 1.0])
    wanted = {
        "output_margin": gap,
        "feature_margin": gap / (5 * math.sqrt(2)),  # the longest feature is (1, 1)
        "linearised_l2": gap / 5,
        "linearised_linf": gap / 7,
        "smoothed_radius": np.full(2, 0.01),
    }
    for name, values in wanted.items():
        yield _near(f"linear, {name}", margins[name].tolist(), values.tolist())
    within = ConstrainedMargin().measure(subject)["constrained_train"]  # the images differ in b alone
    yield _near("linear, constrained_train", within.tolist(), (gap / 4).tolist(), tolerance=2e-3)


def _clever() -> Iterator[Result]:
    """z = (0, max(a, 0) + 4 max(a - 0.6, 0)) of a pixel a: its slope is 5 somewhere within 0.4 of 0.4, and of 0.8."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), nn.ReLU())
    net = Net(nn.Identity(), body, nn.Linear(2, 2, bias=False)).eval().requires_grad_(False)
    net.get_parameter("body.1.weight").fill_(1)
    net.get_parameter("body.1.bias").copy_(torch.tensor([0.0, -0.6]))
    net.get_parameter("head.weight").copy_(torch.tensor([[0.0, 0.0], [1.0, 4.0]]))
    split = Split(torch.tensor([102, 204], dtype=torch.uint8).view(2, 1, 1, 1), torch.tensor([1, 1]), 255)
    subject = Subject(net, split, split, split, dict.fromkeys(NORMS, 0.4), seed=0)
    scores = Clever(radius=dict.fromkeys(NORMS, 0.4), batches=4).measure(subject)
    for norm in NORMS:
        yield _near(f"a kink, clever_{norm}", scores[f"clever_{norm}"].tolist(), [0.4 / 5, 1.6 / 5])


def _rejecting() -> Iterator[Result]:
    """Logits of a pixel a, so small that class 1 is furthest above the mean of the others where it does not win.

    z = (0.2 + 3 t, t, -5 - 20 t) / 1000 for t = a - 0.5 in [-0.2, 0.2]: it wins below t = -0.1, and most surely there.
    """
    net = Net(nn.Identity(), nn.Sequential(nn.Flatten()), nn.Linear(1, 3)).eval().requires_grad_(False)
    slope = torch.tensor([3.0, 1.0, -20.0])
    net.get_parameter("head.weight").copy_(slope[:, None] / 1000)
    net.get_parameter("head.bias").copy_((torch.tensor([0.2, 0.0, -5.0]) - 0.5 * slope) / 1000)
    x = torch.full((1, 1, 1, 1), 0.5)
    q = Query(net, x, torch.tensor([0]), "linf", 0.2, x[:0], torch.Generator())
    for name, ascent in (("wrong_confidence", backtracked), ("wrong_confidence by momentum", settled)):
        found = wrong_confidence(q, ascent(30)).tolist()
        yield _near(f"small logits, {name}", found, [1.45e-3], tolerance=2e-2)


def _statistics() -> Iterator[Result]:
    """Intervals over three seeds, Holm's correction, and bounds on how often something happens."""
    a, b = [1.0, 2.0, 6.0], [0.0, 3.0, 2.0]  # variance of a: 7; of a - b: 19 / 3
    mean, half = mean_and_interval(a)
    yield _near("mean of three", [mean, half or math.nan], [3, T_OF_TWO * math.sqrt(7 / 3)])
    pair = pairwise(np.array([a, b]))
    width = T_OF_TWO * math.sqrt(19 / 9)
    yield _near("difference of two rows", [pair.difference[0, 1], pair.half[0, 1]], [4 / 3, width])
    yield _near("Holm's correction", holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    bound = lower_bound(np.array([1, 2]), 2, 0.25)  # 1 - (1 - p)^2 = 1/4, and p^2 = 1/4
    yield _near("Clopper-Pearson", bound.tolist(), [1 - math.sqrt(0.75), 0.5])
