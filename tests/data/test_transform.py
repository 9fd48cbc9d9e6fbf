"""A transform from a user's file, as a user writes it, and what is refused."""

import hashlib
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.plugins import load_plugin
from marginbench.benchmarks.suites.augment import Augment
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.training.run import Run
from marginbench.methods import MarginbenchError, create
from marginbench.methods.userfile import USER_MODULE

DOORS = Path(__file__).parents[1] / "doors"


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "my_transform.py"
    shutil.copy(DOORS / "my_transform.py", path)
    load_plugin(path)
    return path


def with_augment(settings: object) -> Suite:
    suite = small_suite()
    training = suite.training.model_copy(update={"augment": Augment.model_validate(settings)})
    return suite.model_copy(update={"training": training})


def test_a_plugin_adds_a_transform(plugin: Path) -> None:
    noisy = Run(create("ce"), with_augment({"flip": {}, "noise": {"sigma": 0.2}}), small_data(), 0)._batch()
    flipped = Run(create("ce"), with_augment(["flip"]), small_data(), 0)._batch()
    again = Run(create("arcface"), with_augment({"noise": {"sigma": 0.2}, "flip": {}}), small_data(), 0)._batch()
    inside = (flipped.x > 0.5) & (noisy.x < 1) & (noisy.x > 0)  # where the limits cut off little
    assert 0.1 < float((noisy.x - flipped.x)[inside].std()) < 0.25, "it comes after the built-in ones"
    assert torch.equal(noisy.x, again.x)


def test_its_content_is_part_of_the_fingerprint(plugin: Path, tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("epochs = 2\n", 'epochs = 2\naugment = ["crop", "noise"]\n'))
    before = load_suite(str(tiny))
    source = hashlib.sha256(plugin.read_bytes()).hexdigest()[:16]
    assert before.model_dump(mode="json")["training"]["augment"] == {
        "crop": {"padding": 4, "mode": "zero"},
        "noise": {"sigma": 0.1, "source": source},
    }
    fingerprint = before.fingerprint
    plugin.write_text(plugin.read_text().replace("randn", "rand"))
    load_plugin(plugin)
    assert load_suite(str(tiny)).fingerprint != fingerprint


def test_another_process_can_read_a_suite_before_it_loads_the_plugins(plugin: Path) -> None:
    suite = with_augment(["noise"])
    sent = pickle.dumps(suite)
    assert USER_MODULE.encode() not in sent
    assert pickle.loads(sent) == suite


def test_its_settings_are_checked_like_ours(plugin: Path, tiny: Path) -> None:
    for settings, wrong in (
        ("noise = { sigma = 0.0 }", r"training\.augment\.noise\.sigma=0\.0"),
        ("noise = { sgma = 0.1 }", r"unknown key 'training\.augment\.noise\.sgma': did you mean 'sigma'"),
        ("nose = {}", "unknown transform 'nose': did you mean 'noise'"),
    ):
        text = tiny.read_text()
        tiny.write_text(text.replace("epochs = 2\n", f"epochs = 2\naugment = {{ {settings} }}\n"))
        with pytest.raises(MarginbenchError, match=wrong):
            load_suite(str(tiny))
        tiny.write_text(text)


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        ("x + noise", r"should stay in \[0, 1\]"),
        ("torch.rand_like(x)", "draw all random numbers from `stream`"),
        ("x[:, :, 1:]", r"torch.float32 \[2, 1, 8, 8\] on cpu became torch.float32 \[2, 1, 7, 8\] on cpu"),
        ("x.double()", "became torch.float64"),
        ("None", "became NoneType"),
    ],
)
def test_a_transform_that_breaks_the_contract_is_refused_before_training(
    result: str, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.py"
    text = (DOORS / "my_transform.py").read_text()
    path.write_text(text.replace("(x + self.sigma * noise).clamp(0, 1)", result))
    load_plugin(path)
    with pytest.raises(MarginbenchError, match=f"transform 'noise': .*{problem}"):
        Run(create("ce"), with_augment(["noise"]), small_data(), 0)
