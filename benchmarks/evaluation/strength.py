"""Are attacks random where they should be, and do restarts help? Frozen seeds are seen here, and nowhere else."""

from collections.abc import Iterator

import torch

from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.evaluation.canaries import linear
from marginbench.benchmarks.evaluation.doctor import Result, no_certificate
from marginbench.benchmarks.evaluation.hard_canaries import Lottery, lottery
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.methods import NORMS, Norm

STARTS = 12
SHARE = 0.85  # of the images that so many starts must find: one start finds a third, or with small starts a quarter


def examine_starts(device: torch.device) -> Iterator[Result]:
    """Attacks with restarts win a lottery in which every start wins with a chance of about one third."""
    game = lottery()
    game = Lottery(game.net.to(device), game.x.to(device), game.y.to(device), game.epsilon)
    for name, attack in ATTACKS.items():
        for norm in NORMS:
            if "restarts" in attack.settings:
                yield _starts(game, name, attack, norm)
    yield _streams(device)


def _starts(game: Lottery, name: str, attack: Attack, norm: Norm) -> Result:
    points, shares = [], []
    for seed, settings in ((1, {"restarts": STARTS}), (2, {"restarts": 2}), (3, {"restarts": 2})):
        stream = torch.Generator(game.x.device).manual_seed(seed)
        q = Query(game.net, game.x, game.y, norm, game.epsilon, game.x[:0], stream)
        points.append(attack.propose(q, **settings))
        with torch.no_grad():
            shares.append(float((game.net(points[-1]).argmax(1) != game.y).float().mean()))
    verdict = "pass"
    if torch.equal(points[1], points[2]):
        verdict = "FAIL: two seeds give the same points"
    elif attack.gradient and shares[0] < SHARE:
        verdict = f"FAIL: {STARTS} starts find {shares[0]:.0%} of the images: they do not differ, or lead nowhere"
    return Result("lottery", f"restarts: {name}", norm, None, int(verdict != "pass"), verdict, best=False)


def _streams(device: torch.device) -> Result:
    """The same names give the same numbers, other names others."""
    canary = linear()
    net, data = canary.net.to(device), canary.data.to(device)
    settings = Evaluation(points=16, epsilon={"linf": 0.05, "l2": 0.25}, attacks={"noise": {}}, certificates={})
    found = [
        evaluate(net, no_certificate, data, settings, "doctor", repetition).arrays["upper_l2"].tolist()
        for repetition in (0, 0, 1)
    ]
    verdict = "pass"
    if found[0] != found[1]:
        verdict = "FAIL: the same seed gives other distances"
    elif found[0] == found[2]:
        verdict = "FAIL: another seed gives the same distances"
    return Result("seeds", "evaluation", "-", None, int(verdict != "pass"), verdict, best=False)
