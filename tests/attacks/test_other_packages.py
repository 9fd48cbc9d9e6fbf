"""Our attacks beside those of other packages, on a small network trained on digits. Skipped where one is missing."""

import importlib
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support import a_query
from torch import Tensor

from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.attacks.ray import distance, is_adversarial, tighten
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.loop import train
from marginbench.methods import NORMS, Net, Norm, create

EPSILON: dict[Norm, float] = {"l2": 0.4, "linf": 0.08}


def package(name: str) -> ModuleType:
    """Import it, or skip the test: their deprecation warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name} is not installed: {error}")


@cache
def network() -> tuple[Net, Tensor, Tensor]:
    """A small network on digits, and test images that it classifies correctly."""
    values = {
        "name": "elsewhere",
        "title": "small",
        "seeds": 1,
        "data": {"name": "digits", "validation": 200},
        "network": {"name": "mlp", "width": 32},
        "training": {"epochs": 12, "batch_size": 64, "learning_rate": 5e-3},
        "evaluation": {"points": 1, "epsilon": EPSILON, "attacks": {}, "certificates": {}},
    }
    suite = Suite(**values, folder=Path())  # type: ignore[arg-type]
    data = load_data("digits", 200, Path())
    net = train(create("ce"), suite, data, 0).net.eval().requires_grad_(False)
    x, y = data.test.images(slice(110)), data.test.y[:110]
    with torch.no_grad():
        right = net(x).argmax(1) == y
    return net, x[right][:100], y[right][:100]


def ours(name: str, norm: Norm, **settings: Any) -> Tensor:
    net, x, y = network()
    found = ATTACKS[name](a_query(net, x, y, norm, epsilon=EPSILON[norm]), **settings).upper
    assert found is not None
    return found


def foolbox_distances(norm: Norm) -> dict[str, Tensor]:
    """Distances of the points that foolbox's minimum-norm attacks find, tightened like ours."""
    foolbox = package("foolbox")
    net, x, y = network()
    kinds: dict[str, Any] = {
        "l2": {
            "deepfool": foolbox.attacks.L2DeepFoolAttack(steps=50),
            "ddn": foolbox.attacks.DDNAttack(steps=100),
            "fmn": foolbox.attacks.L2FMNAttack(steps=100),
            "cw": foolbox.attacks.L2CarliniWagnerAttack(steps=200, binary_search_steps=4, initial_const=0.1),
        },
        "linf": {
            "deepfool": foolbox.attacks.LinfDeepFoolAttack(steps=50),
            "fmn": foolbox.attacks.LInfFMNAttack(steps=100),
        },
    }
    found = {}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        model = foolbox.PyTorchModel(net, bounds=(0, 1), device=x.device)
        for name, attack in kinds[norm].items():
            points = attack(model, x, y, epsilons=None)[1]
            found[name] = tighten(net, x, points.detach(), y, norm)[1]
    return found


@pytest.mark.parametrize("norm", NORMS)
def test_minimum_norm_medians_are_not_above_the_best_of_foolbox(norm: Norm) -> None:
    theirs = {name: float(found.median()) for name, found in foolbox_distances(norm).items()}
    best = min(theirs.values())
    medians = {name: float(ours(name, norm).median()) for name in ("deepfool", "fmn", "ddn", "fab_t")}
    for name, median in medians.items():
        assert median <= 1.02 * best, (name, medians, theirs)
    assert float(ours("cw", norm, steps=100).median()) <= 1.02 * theirs.get("cw", 1.05 * best), theirs


def original_autoattack(norm: Norm, part: int) -> Tensor:
    """Points of the original AutoAttack, standard version, with a `part` of its steps and queries."""
    kinds = package("pyautoattack.autoattack")
    net, x, y = network()
    text = {"l2": "L2", "linf": "Linf"}[norm]
    attack = kinds.AutoAttack(net, norm=text, eps=EPSILON[norm], seed=0, version="standard")
    common = {"n_iter": attack.apgd.n_iter // part, "norm": text, "eps": EPSILON[norm], "logger": attack.logger}
    attack.apgd = kinds.APGDAttack(net, n_restarts=attack.apgd.n_restarts, **common)
    targets = attack.apgd_targeted.n_target_classes
    attack.apgd_targeted = kinds.APGDAttack_targeted(net, n_restarts=1, n_target_classes=targets, **common)
    attack.fab.n_iter //= part
    attack.square.n_queries //= part
    with torch.random.fork_rng(devices=[]):
        points: Tensor = attack.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return points


@pytest.mark.parametrize("norm", NORMS)
def test_the_autoattack_preset_gives_the_robust_accuracy_of_the_original(norm: Norm) -> None:
    """Both with a fifth of their steps and queries, to save time; with all of them they agreed, too."""
    part = 5
    points = original_autoattack(norm, part)
    net, x, y = network()
    assert (distance(points.double() - x.double(), norm) <= EPSILON[norm] * (1 + 1e-4)).all()
    theirs = 1 - float(is_adversarial(net, points, y).float().mean())
    effort = {"steps", "n_queries"}
    distances = [
        ours(name, norm, **{key: value // part if key in effort else value for key, value in settings.items()})
        for name, settings in PRESETS["autoattack"].items()
    ]
    mine = float((torch.stack(distances).amin(0) > EPSILON[norm]).float().mean())
    assert 0.2 < theirs < 0.8, "the comparison needs an epsilon in between"
    assert abs(mine - theirs) <= 0.005, (mine, theirs)
