"""Attacks from files: measured beside the others, kept from doing harm, or refused."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attack_support import with_attacks
from support import a_query
from torch import Tensor, nn

from marginbench.benchmarks.attacks.from_file import foreign, load_attack
from marginbench.benchmarks.attacks.ray import is_adversarial
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.evaluation.canaries import planted
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import NORMS, MarginbenchError, Net, Norm, NotApplicable

FILE = """
import torchattacks

def make(model, norm, epsilon, steps=5):
    kind = torchattacks.PGDL2 if norm == "L2" else torchattacks.PGD
    return kind(model, eps=2 * epsilon, alpha=epsilon / 2, steps=steps)
"""


def test_an_attack_from_a_file_is_measured_beside_the_others(tiny: Path) -> None:
    (tiny.parent / "my_attack.py").write_text(FILE)
    path = with_attacks(tiny, '[evaluation.attacks]\nblend = {}\nmine = { file = "my_attack.py:make", steps = 10 }\n')
    settings = load_suite(str(path)).evaluation.model_copy(update={"certificates": {}})
    found = evaluate(trained(), no_certificate, small_data(), settings, "test")
    for norm in NORMS:
        reached = found.arrays[f"upper_{norm}_mine"][found.arrays["output_margin"] > 0]
        assert (reached <= 2.001 * settings.epsilon[norm]).mean() > 0.05
        assert (found.arrays[f"upper_{norm}"] <= found.arrays[f"upper_{norm}_mine"]).all()
        assert found.estimators[f"mine_{norm}"]["backward"] > 0


def test_the_fingerprint_follows_the_content_of_the_file_and_not_its_folder(tiny: Path, tmp_path: Path) -> None:
    table = '[evaluation.attacks]\nmine = { file = "my_attack.py:make" }\n'
    (tiny.parent / "my_attack.py").write_text(FILE)
    here = load_suite(str(with_attacks(tiny, table)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("other.toml", "my_attack.py"):
        (elsewhere / name).write_text((tiny.parent / name).read_text())
    there = load_suite(str(elsewhere / "other.toml"))
    assert here.fingerprint == there.fingerprint
    assert str(tmp_path) not in str(here.model_dump(mode="json", exclude={"folder"}))
    (elsewhere / "my_attack.py").write_text(FILE + "# changed\n")
    assert load_suite(str(elsewhere / "other.toml")).fingerprint != here.fingerprint


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('mine = { file = "no.py:make" }', "mine.*no.py: no such file"),
        ('mine = { file = "my_attack.py" }', "write FILE.py:NAME, as in my_attack.py:make"),
        ('mine = { file = "my_attack.py:mak" }', "no function or class 'mak': did you mean 'make'"),
        ('mine = { file = "my_attack.py:make", step = 3 }', "unexpected keyword argument 'step'"),
        ('mine = { file = "broken.py:make" }', "broken.py, line 1: ValueError: no$"),
        ('apgd = { file = "my_attack.py:make" }', "choose another name"),
        ('"my attack" = { file = "my_attack.py:make" }', "choose another name"),
        ("mine = {}", "mine: unknown"),
    ],
)
def test_a_wrong_entry_is_explained(tiny: Path, entry: str, words: str) -> None:
    (tiny.parent / "my_attack.py").write_text(FILE)
    (tiny.parent / "broken.py").write_text("raise ValueError('no\\nluck')\n")
    with pytest.raises(MarginbenchError, match=words):
        load_suite(str(with_attacks(tiny, f"[evaluation.attacks]\n{entry}\n")))


def test_a_file_that_changes_after_the_suite_was_read_is_refused(tiny: Path) -> None:
    """The record would name the version that was read."""
    file, helper = tiny.parent / "my_attack.py", tiny.parent / "steps_n.py"
    file.write_text("import steps_n\n" + FILE)
    helper.write_text("STEPS = 5\n")
    path = with_attacks(tiny, '[evaluation.attacks]\nmine = { file = "my_attack.py:make", steps = 1 }\n')
    suite = load_suite(str(path))
    settings = suite.evaluation.attacks["mine"]
    assert load_attack("mine", settings).name == "mine"
    for edited in (helper, file):
        edited.write_text(edited.read_text() + "# edited\n")
        assert load_suite(str(path)).fingerprint != suite.fingerprint
        with pytest.raises(MarginbenchError, match=r"my_attack\.py: the file has changed since the suite was read"):
            load_attack("mine", settings)


def test_an_edited_attack_file_is_loaded_again(tmp_path: Path) -> None:
    file = tmp_path / "my_attack.py"
    for answer in (1, 2, 1):  # same size, perhaps same second
        file.write_text(f"def make(model, norm, epsilon):\n    raise TypeError({answer})\n")
        attack = load_attack("mine", {"file": f"{file}:make"})
        with pytest.raises(TypeError, match=f"{answer}"):
            attack.propose(query(trained()))


def trained() -> Net:
    """A random network; its mistakes do not matter here."""
    data, suite = small_data(), small_suite()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_net(suite.network.name, 4, data.shape, data.num_classes, torch.tensor([0.5]), torch.tensor([0.2]))


def no_certificate(net: Net, x: Tensor, norm: Norm) -> NotApplicable:
    return NotApplicable("none")


class Rude:
    """An attack that does all that an attack must not do."""

    def __init__(self, model: nn.Module, norm: str, epsilon: float) -> None:
        self.model = model

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)
        self.model.train()
        for parameter in self.model.parameters():
            assert not parameter.requires_grad
        images.requires_grad_()
        self.model(images).sum().backward()
        point = images.detach() + 3 * torch.randn_like(images)
        point[0] = torch.nan
        images.detach().zero_()
        return point.double()


@pytest.mark.parametrize("norm", NORMS)
def test_a_rude_attack_does_no_harm(norm: Norm) -> None:
    net = trained()
    net.train()
    net[0].eval() if isinstance(net, nn.Sequential) else net.normalise.eval()
    net.requires_grad_(True)
    next(net.parameters()).requires_grad_(False)
    x = small_data().test.images(slice(12))
    with torch.no_grad():
        y = net(x).argmax(1)
    wanted = [p.requires_grad for p in net.parameters()]
    modes, before = [m.training for m in net.modules()], x.clone()
    states = [torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()]
    attack = foreign(Rude)
    points = [attack.propose(a_query(net, x, y, norm, seed)) for seed in (0, 0)]
    torch.testing.assert_close(*points, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert [p.requires_grad for p in net.parameters()] == wanted
    assert all(p.grad is None for p in net.parameters())
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(x, before)
    assert points[0].dtype == torch.float32
    assert points[0][0].isnan().all(), "not a number: an evaluation says so"
    points[0][0] = x[0]
    assert points[0].min() >= 0
    assert points[0].max() <= 1
    moved = (points[0] != x).flatten(1).any(1)
    assert torch.equal(moved, is_adversarial(net, points[0], y)), "a point that is not adversarial becomes x"


def query(net: nn.Module, norm: Norm = "l2", count: int = 12, seed: int = 0) -> Query:
    """About images with the classes that the network gives them."""
    x = small_data().test.images(slice(count))
    with torch.no_grad():
        return a_query(net, x, net(x).argmax(1), norm, seed)


def test_a_random_attack_is_seeded_from_the_generator() -> None:
    def make(model: nn.Module, norm: str, epsilon: float) -> Any:
        return lambda images, labels: (images + torch.randn_like(images)).clamp(0, 1)

    first, same, other = (foreign(make).propose(query(trained(), seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_foreign_attack_that_fails_is_infinite_and_a_wrong_shape_is_named() -> None:
    q = query(trained(), count=5)

    def still(model: nn.Module, norm: str, epsilon: float) -> Any:
        return lambda images, labels: images

    def flat(model: nn.Module, norm: str, epsilon: float) -> Any:
        return lambda images, labels: images.flatten(1)

    assert torch.equal(foreign(still).propose(q), q.x)
    upper = foreign(still)(q).upper
    assert upper is not None and upper.isinf().all()
    with pytest.raises(MarginbenchError, match=r"'flat' returned \(5, 64\)"):
        foreign(flat).propose(q)


TRAITS = {
    "in the table": ("def make(model, norm, epsilon):\n    return lambda x, y: 0.5 * x\n", {"gradient": False}),
    "in the file": ("gradient = False\n\ndef make(model, norm, epsilon):\n    return lambda x, y: 0.5 * x\n", {}),
    "at the function": (
        "def make(model, norm, epsilon):\n    return lambda x, y: 0.5 * x\n\nmake.gradient = False\n",
        {},
    ),
    "by the decorator": (
        "from marginbench.benchmarks import attack\n\n@attack(gradient=False)\ndef make(q):\n    return 0.5 * q.x\n",
        {},
    ),
}


def doubts_with(name: str, settings: dict[str, Any]) -> dict[str, str]:
    """What is doubted where gradients are 0 and half the light is enough to change every class."""
    canary = planted()
    attacks = {"deepfool": {}, name: settings}
    suite = Evaluation(points=64, epsilon={"linf": 0.05, "l2": 0.25}, attacks=attacks, certificates={})
    return evaluate(canary.net, no_certificate, canary.data, suite, "test").doubts


@pytest.mark.parametrize("where", TRAITS)
def test_a_file_may_say_that_its_attack_uses_no_gradients(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is then doubted like a built-in attack of which that is known; otherwise it counts as a white-box attack."""
    source, traits = TRAITS[where]
    (tmp_path / "my_attack.py").write_text(source)
    found = doubts_with("mine", {"file": f"{tmp_path}/my_attack.py:make", **traits})
    monkeypatch.setitem(ATTACKS, "square", replace(ATTACKS["square"], function=lambda q: 0.5 * q.x))
    assert found == doubts_with("square", {}) and found["black_box_wins"] == "100.0% of correct points"
    white = doubts_with("mine", {"file": f"{tmp_path}/my_attack.py:make", "gradient": True})
    assert "black_box_wins" not in white and "mine_l2" in white["no_backward"]


def test_a_trait_is_true_or_false(tmp_path: Path) -> None:
    (tmp_path / "my_attack.py").write_text(TRAITS["in the table"][0])
    with pytest.raises(MarginbenchError, match=r"my_attack.py: gradient='no': should be true or false"):
        load_attack("mine", {"file": f"{tmp_path}/my_attack.py:make", "gradient": "no"})


def test_settings_of_a_decorated_attack_are_checked(tiny: Path) -> None:
    (tiny.parent / "my_attack.py").write_text(TRAITS["by the decorator"][0].replace("(q)", "(q, *, steps=3)"))
    for entry, words in (
        ("step = 4", "did you mean 'steps'"),
        ('steps = "4"', "steps='4': input should be a valid integer; default: 3"),
    ):
        table = f'[evaluation.attacks]\nmine = {{ file = "my_attack.py:make", {entry} }}\n'
        with pytest.raises(MarginbenchError, match=f"evaluation.attacks.mine: .*{words}"):
            load_suite(str(with_attacks(tiny, table)))
