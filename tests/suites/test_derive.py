"""Suites with some keys changed: what they hold, what they are called, what they share with their base."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from marginbench.benchmarks.contract.fixtures import small_data
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.training.run import Run
from marginbench.methods import MarginbenchError, create

DIGITS = load_suite("digits")


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("training.epochs=5", "training.epochs", 5),
        ("training.learning_rate=1e-2", "training.learning_rate", 0.01),
        ("training.precision=bf16", "training.precision", "bf16"),
        ("training.drops=none", "training.drops", None),
        ("network.width=8", "network.width", 8),
        ("network.name=mlp", "network.name", "mlp"),
        ("evaluation.points=100", "evaluation.points", 100),
        ("evaluation.epsilon.l2=1", "evaluation.epsilon", {"linf": 0.1, "l2": 1.0}),
        ("evaluation.attacks.fmn.steps=100", "evaluation.attacks.fmn", {"steps": 100}),
        ("evaluation.attacks={ fmn = { steps = 3 } }", "evaluation.attacks", {"fmn": {"steps": 3}}),
        ("evaluation.certificates.crown=none", "evaluation.certificates", {}),
        ("evaluation.rejection=none", "evaluation.rejection", None),
        ("data.train_size=500", "data.train_size", 500),
    ],
)
def test_a_key_is_changed_and_nothing_else(text: str, path: str, value: Any) -> None:
    suite = derive(DIGITS, [text])
    found: Any = suite.model_dump()
    for part in path.split("."):
        found = found[part]
    assert found == value
    first = path.split(".", maxsplit=1)[0]
    for section in {"data", "network", "training", "evaluation"} - {first}:
        assert getattr(suite, section) == getattr(DIGITS, section)
    assert (suite.seeds, suite.methods, suite.folder) == (DIGITS.seeds, DIGITS.methods, DIGITS.folder)


def test_a_list_is_written_as_in_a_file() -> None:
    suite = derive(DIGITS, ["training.schedule=drops", "training.drops=[[3, 0.1], [5, 0.01]]"])
    assert suite.training.drops == [[3, 0.1], [5, 0.01]]
    assert derive(DIGITS, ['training.augment=["crop", "flip"]']).training.augment is not None


def test_texts_and_values_mean_the_same_in_any_order() -> None:
    texts = ["training.epochs=5", "network.width=8", "evaluation.attacks=autoattack"]
    by_text, turned = derive(DIGITS, texts), derive(DIGITS, texts[::-1])
    by_value = derive(DIGITS, {"network.width": 8, "evaluation.attacks": "autoattack", "training.epochs": 5})
    one_by_one = derive(derive(derive(DIGITS, texts[:1]), texts[1:2]), texts[2:])
    assert by_text == turned == by_value == one_by_one
    assert by_text.name == "digits+evaluation.attacks=autoattack+network.width=8+training.epochs=5"
    assert by_text.title == f"{DIGITS.title}; changed: {by_text.name.partition('+')[2].replace('+', ', ')}"
    assert by_text.fingerprint == one_by_one.fingerprint != DIGITS.fingerprint


def test_what_changes_nothing_counts_for_nothing() -> None:
    assert derive(DIGITS, []) is DIGITS
    assert derive(DIGITS, ["training.epochs=25", "evaluation.attacks=quick", "training.weight_decay=0.0"]) is DIGITS
    assert derive(DIGITS, ["training.epochs=25", "network.width=8"]).name == "digits+network.width=8"
    needed = derive(DIGITS, ["training.optimiser=RMSprop", "training.optimiser_settings.momentum=0.5"])
    assert needed.name.count("+") == 2
    assert derive(derive(DIGITS, ["training.epochs=5"]), ["training.epochs=25"]) is DIGITS


def test_a_network_of_another_name_has_its_own_width() -> None:
    narrow = derive(DIGITS, ["network.width=3"])
    assert derive(narrow, ["network.name=cnn7"]).network.width == 3, "it was asked for"
    assert derive(DIGITS, ["network.name=cnn7"]).network.width == 32
    assert derive(DIGITS, ["network.name=cnn7", "network.width=4"]).network.width == 4


@pytest.mark.parametrize(
    "settings",
    [
        {"training.augment": ["crop", "flip"]},
        {"training.learning_rate": 1e-5},
        {"network.file": str(Path(__file__).parents[1] / "doors" / "my_net.py:make")},
        {f"evaluation.attacks.{name}.steps": 7 for name in ("fmn", "apgd", "ddn", "cw", "deepfool", "fab_t")},
    ],
)
def test_every_name_is_safe_for_a_folder(settings: dict[str, Any]) -> None:
    suite = derive(DIGITS, settings)
    assert re.fullmatch(r"digits\+[A-Za-z0-9_.+=-]+", suite.name) and len(suite.name) <= 100
    assert suite.name != derive(DIGITS, {**settings, "training.epochs": 3}).name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training.epoch=5", ["unknown key 'training.epoch'", "did you mean 'epochs'"]),
        ("trainig.epochs=5", ["did you mean 'training'", "KEY=VALUE"]),
        ("seeds=3", ["seeds has an option of its own"]),
        ("folder=x", ["'folder' is no key of a section"]),
        ("training.epochs=many", ["training.epochs='many'", "valid integer"]),
        ("training.epochs.x=3", ["'epochs' holds no further keys"]),
        ("training.schedule=drops", ["drops = [[EPOCH, FACTOR], ...] go together"]),
        ("network.name=cn", ["network.name='cn'", "did you mean 'cnn'"]),
        ("evaluation.attacks.fnm.steps=3", ["evaluation.attacks.fnm", "did you mean 'fmn'"]),
        ("evaluation.attacks.fmn.stesp=3", ["evaluation.attacks.fmn.stesp", "did you mean 'steps'"]),
        ("evaluation.attacks=quik", ["evaluation.attacks='quik'", "did you mean 'quick'"]),
        ("training.augment={ crop = { pading = 2 } }", ["'training.augment.crop.pading'", "did you mean 'padding'"]),
        ("training.epochs", ["set='training.epochs'", "KEY=VALUE"]),
        ("training.epochs=", ["KEY=VALUE"]),
        ("training.learning_rate=inf", ["training.learning_rate=inf", "finite"]),
        ("training.learning_rate=nan", ["training.learning_rate='nan'", "valid number"]),
        ("training.weight_decay=inf", ["training.weight_decay=inf", "finite"]),
        ("training.optimiser_settings={ eps = inf }", ["training.optimiser_settings", "eps=inf", "finite"]),
        ("training.optimiser_settings={ betas = [0.9, nan] }", ["betas=[0.9, nan]", "finite"]),
        ("training.augment={ cutout = { size = inf } }", ["training.augment.cutout.size"]),
        ("evaluation.epsilon={ linf = 0.1, l2 = inf }", ["evaluation.epsilon.l2=inf", "finite"]),
        ("evaluation.attacks={ mine = { file = 'x.py:f', rate = inf } }", ["evaluation.attacks.mine", "rate=inf"]),
        ("evaluation.rejection.tpr=inf", ["evaluation.rejection.tpr=inf", "finite"]),
        ("evaluation.attacks.fmn.steps=0", ["evaluation.attacks.fmn.steps=0", "greater than 0"]),
        ("evaluation.certificates.crown.conv_mode=nope", ["certificates.crown.conv_mode='nope'", "'patches'"]),
        ("data.imbalance=inf", ["data.imbalance=inf", "finite"]),
    ],
)
def test_a_wrong_setting_is_named(text: str, words: list[str]) -> None:
    with pytest.raises(MarginbenchError) as error:
        derive(DIGITS, [text])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("drops", "words"),
    [
        ([[]], r"write \[\[EPOCH, FACTOR\], \.\.\.\] with growing epochs"),
        ([[1, 0.1, 2]], "with growing epochs"),
        ([[5, 0.1], [3, 0.01]], "with growing epochs"),
        ([[-1, 0.1]], r"training\.drops\.0\.0=-1: input should be greater than or equal to 0"),
        ([[1, -0.1]], r"training\.drops\.0\.1=-0\.1: input should be greater than or equal to 0"),
        ([[1, 0.1], [25, 0.01]], "drops: that at epoch 25 is never reached with epochs=25"),
    ],
)
def test_drops_that_cannot_be_meant_are_refused(drops: list[list[float]], words: str) -> None:
    with pytest.raises(MarginbenchError, match=words):
        derive(DIGITS, {"training.schedule": "drops", "training.drops": drops})


def test_a_warm_up_longer_than_the_training_is_refused() -> None:
    with pytest.raises(MarginbenchError, match="warm_up: longer than the training, which has 25 epochs"):
        derive(DIGITS, {"training.schedule": "constant", "training.warm_up": 26})
    assert derive(DIGITS, {"training.schedule": "constant", "training.warm_up": 25}).training.warm_up == 25


def test_the_radii_of_noise_are_a_list() -> None:
    suite = derive(DIGITS, ["evaluation.attacks.noise.radii=[1.0, 3.0]"])
    assert suite.evaluation.attacks["noise"] == {"radii": [1.0, 3.0]}


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(MarginbenchError, match=r"'training\.epochs' is given twice"):
        derive(DIGITS, ["training.epochs=5", "training.epochs=6"])
    with pytest.raises(MarginbenchError, match="a list or a mapping"):
        derive(DIGITS, "training.epochs=5")


def first_batch(suite: Suite) -> tuple[Run, torch.Tensor]:
    run = Run(create("arcface"), suite, small_data(), 1)
    return run, run._batch().index


def test_weights_and_draws_are_those_of_the_base() -> None:
    """The comparison of a derived suite with its base is paired."""
    derived = derive(DIGITS, ["training.epochs=5", "evaluation.points=10"])
    renamed = DIGITS.model_copy(update={"name": "another"})
    (base, order), (same, same_order), (other, _) = map(first_batch, (DIGITS, derived, renamed))
    for p, q in zip(base.net.parameters(), same.net.parameters(), strict=True):
        assert torch.equal(p, q)
    assert torch.equal(order, same_order)
    assert torch.equal(base.ctx.generator.get_state(), same.ctx.generator.get_state())
    assert not all(torch.equal(p, q) for p, q in zip(base.net.parameters(), other.net.parameters(), strict=True))
    assert derive(derived, ["network.width=8"]).stream_name == "digits"


def test_a_derived_suite_survives_a_process() -> None:
    suite = derive(DIGITS, ["training.epochs=5"])
    there = pickle.loads(pickle.dumps(suite))
    assert there == suite and there.stream_name == "digits" and there.fingerprint == suite.fingerprint


def test_files_stay_where_they_are(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text("def make(model, norm, epsilon, steps=3):\n    return lambda x, y: x\n")
    tiny.write_text(tiny.read_text().replace("blend = {}", 'blend = {}\nmine = { file = "own.py:make" }'))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    base = load_suite(str(tiny))
    suite = derive(base, ["training.epochs=3", "evaluation.attacks.mine.steps=4"])
    mine = suite.evaluation.attacks["mine"]
    assert mine.pop("sha256") and mine == {"file": str(tmp_path / "own.py:make"), "steps": 4}
    (elsewhere / "own.py").write_text("def make(model, norm, epsilon):\n    return lambda x, y: x\n")
    here = derive(base, ["evaluation.attacks.mine.file=own.py:make"])
    assert here.evaluation.attacks["mine"]["file"] == str(elsewhere / "own.py:make"), "relative to the current folder"


@pytest.mark.parametrize("key", ["folder", "base", "changes"])
def test_a_file_cannot_set_what_is_not_a_key(key: str, tiny: Path) -> None:
    tiny.write_text(f'{key} = "x"\n{tiny.read_text()}')
    with pytest.raises(MarginbenchError, match=f"unknown key '{key}'"):
        load_suite(str(tiny))
