"""A record is reused for the model that it is of, and for no other."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import Run
from torch import Tensor, nn

from marginbench.benchmarks import ModelOutcome, evaluate_model
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.benchmarks.models.answers import Answers
from marginbench.benchmarks.records.current import OTHER_DATA
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.runs import measure
from marginbench.methods.errors import ParameterError


class Own(nn.Module):
    """A module of a notebook, whose cell is edited and executed again."""

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        with seeded(torch.device("cpu"), "test"):
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.layers(x) / self.temperature
        return z


def edited(forward: Callable[[Own, Tensor], Tensor]) -> nn.Module:
    cell = type("Own", (Own,), {"forward": forward, "__module__": Own.__module__})
    module: nn.Module = cell()
    assert repr(module) == repr(Own())
    return module


def one_row_detached(self: Own, x: Tensor) -> Tensor:
    """The same logits everywhere; gradients lie."""
    return Own.forward(self, torch.cat([x[:, :, :1].detach(), x[:, :, 1:]], 2))


def eight_bits(self: Own, x: Tensor) -> Tensor:
    """The same logits on all images of a data set, and the same gradients: a step function in front."""
    return Own.forward(self, x + ((15 * x).round() / 15 - x).detach())


CHANGES = {
    "forward": lambda: edited(lambda self, x: Own.forward(self, 0.9 * x)),
    "an attribute": lambda: Own(2.0),
    "gradients": lambda: edited(one_row_detached),
    "steps": lambda: edited(eight_bits),
    "a pixel that is 0 in all images": lambda: edited(
        lambda self, x: Own.forward(self, x) * (1 - 2 * (x[:, :, :1, 0] > 0.2).float().flatten(1))
    ),
    "a class masked": lambda: edited(lambda self, x: Own.forward(self, x).index_fill(1, torch.tensor([3]), -torch.inf)),
}


def test_a_mask_does_not_hide_that_the_other_logits_changed() -> None:
    def of(scale: float) -> Answers:
        logits = np.concatenate([scale * np.linspace(-3, 3, 40).reshape(10, 4), np.full((10, 1), -1e9)], 1)
        return Answers(*3 * (logits.astype(np.float32),), np.ones((10, 4), np.float32))

    assert of(1.0).match(of(1.0).arrays()) and not of(1.0).match(of(0.9).arrays())


def evaluate(model: nn.Module | str, tiny: Path, **options: object) -> ModelOutcome:
    return evaluate_model(model, suite=str(tiny), out=tiny.parent / "out", name="mine", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_answers_otherwise_is_evaluated_again(
    tiny: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    caplog.set_level(logging.INFO, "marginbench")
    first = evaluate(Own(), tiny)
    assert not first.resumed and "mine" not in caplog.text
    second = evaluate(CHANGES[change](), tiny)
    assert not second.resumed and second.path != first.path
    assert second.record.identity.weights == first.record.identity.weights
    assert second.record.identity.source == first.record.identity.source
    assert "it is another model" in caplog.text
    again = evaluate(CHANGES[change](), tiny)
    assert again.resumed and again.path == second.path
    for outcome in (evaluate(Own(), tiny), evaluate(Own(1.0 + 1e-6), tiny)):  # the second as by other rounding
        assert outcome.resumed and outcome.path == first.path
        assert f"mine has a record of {first.record.finished}, which is reused" in caplog.text
    stale = [row for row in again.table["doubts"] if "stale" in row]
    assert len(again.table) == 2 and len(stale) == 1


def test_plain_python_is_told_that_a_record_is_reused(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    finished = evaluate(Own(), tiny).record.finished
    for progress in (True, False):
        capfd.readouterr()
        assert evaluate(Own(), tiny, progress=progress).resumed
        said = f"mine has a record of {finished}, which is reused" in capfd.readouterr().err
        assert said == progress


def test_the_first_word_is_that_a_record_is_reused(run: Run, trained: Path, tiny: Path) -> None:
    words = ("evaluate", "--model", f"{trained / 'models.py'}:mlp", "--suite", tiny, "--out", tiny.parent / "out")
    code, _, err = run(*words)
    assert code == 0 and "has a record" not in err
    code, text, err = run(*words)
    assert code == 0 and err.startswith("mlp has a record of 20") and "`fresh` repeats" in err
    assert "mlp had a record already, of 20" in text and "--fresh" in text


HELPER = """
import helper
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        return helper.scale(self.layers(x))


class Loading(Model):
    def __init__(self):
        super().__init__()
        self.table = torch.load({path!r})  # no parameter and no buffer

    def forward(self, x):
        return self.layers(x) * self.table * 3
"""


def test_what_the_file_imports_or_loads_is_part_of_the_model(tiny: Path) -> None:
    folder, table = tiny.parent, tiny.parent / "table.pt"
    (folder / "net.py").write_text(HELPER.format(path=str(table)))
    paths = []
    for factor in (1, 2, 1):
        (folder / "helper.py").write_text(f"def scale(z):\n    return {factor} * z\n")
        torch.save(torch.full((10,), float(factor)), table)
        for name in ("Model", "Loading"):
            outcome = evaluate(f"{folder / 'net.py'}:{name}", tiny)
            assert outcome.resumed == (len(paths) > 3), (factor, name)
            paths.append(outcome.path)
    assert paths[:2] == paths[4:] and len(set(paths)) == 4
    assert np.abs(np.load(paths[2].with_suffix(".npz"))["answers_logits"]).max() > 0


def test_fresh_replaces_the_record_that_would_be_reused(tiny: Path) -> None:
    first = evaluate(Own(), tiny)
    again = evaluate(Own(1.0 + 1e-6), tiny, fresh=True)
    assert not again.resumed and again.path == first.path and len(again.table) == 1


def test_a_record_whose_arrays_are_damaged_is_no_hindrance(tiny: Path) -> None:
    first = evaluate(Own(), tiny)
    first.path.with_suffix(".npz").write_bytes(b"half")
    again = evaluate(Own(2.0), tiny)
    assert not again.resumed and again.record.status == "done"
    with pytest.raises(ParameterError, match="fresh"):
        evaluate(Own(), tiny)
    assert evaluate(Own(), tiny, fresh=True).record.status == "done"


def test_randomness_from_the_global_generator_is_no_change(tiny: Path) -> None:
    def noisy(self: Own, x: Tensor) -> Tensor:
        return Own.forward(self, x) + torch.rand(10)

    assert not evaluate(edited(noisy), tiny).resumed
    assert evaluate(edited(noisy), tiny).resumed


def answers(logits: np.ndarray, slopes: np.ndarray) -> Answers:
    return Answers(*3 * (logits.astype(np.float32),), slopes.astype(np.float32))


def test_answers_match_up_to_rounding_only() -> None:
    generator = np.random.default_rng(0)
    logits, slopes = generator.normal(size=(50, 10)), generator.normal(size=(50, 4))
    given = answers(logits, slopes)
    shifted = answers(logits + 1e6, slopes)
    kinked = slopes.copy()
    kinked[::40] *= -1

    def same(first: Answers, second: Answers) -> bool:
        return first.match(second.arrays())

    assert same(given, given) and same(given, answers(logits + 1e-5, slopes * 1.001))
    assert same(given, answers(logits, kinked)), "a few slopes lie at a kink"
    assert not same(given, answers(logits, -slopes)) and not same(given, answers(1.01 * logits, slopes))
    assert same(shifted, answers(logits + 1e6 + 0.1, slopes)), "float32 has no more digits there"
    moved = replace(given, moved_logits=given.moved_logits + 0.1)
    assert not same(given, moved) and not same(given, shifted)
    assert not same(given, answers(logits[:, :9], slopes)) and not given.match({})
    one = logits.copy()
    one[7, 3] += 1
    assert not same(given, answers(one, slopes)), "one image is enough"
    for value in (np.nan, -np.inf):
        masked = np.where(np.arange(10) == 3, value, logits)
        assert same(answers(masked, slopes), answers(masked, slopes)) and not same(given, answers(masked, slopes))
        assert not same(answers(masked, slopes), given)
        nothing = np.full_like(logits, value)
        assert same(answers(nothing, slopes), answers(nothing, slopes)) and not same(answers(nothing, slopes), given)
    assert given.digest() != answers(one, slopes).digest() and given.digest() == answers(logits, slopes).digest()


def test_an_older_model_that_is_asked_for_again_is_told_that_its_row_is_stale(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "marginbench")
    times = iter(f"2026-01-0{day}T00:00:00+00:00" for day in range(1, 9))
    monkeypatch.setattr(measure, "now", lambda: next(times))
    evaluate(Own(), tiny)
    evaluate(Own(2.0), tiny)
    assert "stale" not in caplog.text
    assert evaluate(Own(), tiny).resumed and "mine has a newer record, of another model; the table calls" in caplog.text


def test_older_data_that_are_asked_for_again_are_too(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a file of images is changed, and changed back."""
    caplog.set_level(logging.INFO, "marginbench")
    evaluate(Own(), tiny)

    def other(records: Iterable[Record]) -> dict[str, str]:
        return {record.id: OTHER_DATA for record in records}

    monkeypatch.setattr("marginbench.benchmarks.models.evaluate.marks", other)
    assert evaluate(Own(), tiny).resumed and "newer records are of other data than that of mine; the" in caplog.text
