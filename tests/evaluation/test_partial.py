"""What was found before an interruption is not sought again, and the numbers are those of an evaluation in one go."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_support import no_certificate
from support import Run
from torch import Tensor

from marginbench.benchmarks.attacks.scan import ATTACKS, Attack
from marginbench.benchmarks.certificates.scan import CERTIFICATES, Certificate
from marginbench.benchmarks.contract.fixtures import small_data
from marginbench.benchmarks.estimator import Answer, Query
from marginbench.benchmarks.evaluation import sandwich
from marginbench.benchmarks.evaluation.evaluated import Evaluated
from marginbench.benchmarks.evaluation.partial import Found, Partial
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.methods import Net

PROBED = {"smoothing": {"sigma": 0.1, "n": 50}}
VALUES: dict[str, Any] = {
    "points": 40,
    "epsilon": {"linf": 0.05, "l2": 0.25},
    "attacks": {"fmn": {}, "noise": {}, "deepfool": {}},
    "certificates": {"crown": {}},
}
CPU = torch.device("cpu")


def evaluated(net: Net, partial: Partial | None = None, **changes: Any) -> Evaluated:
    settings = Evaluation(**{**VALUES, **PROBED, **changes})
    return evaluate(net, no_certificate, small_data(), settings, "test", partial=partial)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each estimator is asked; images come in two groups."""
    seen: Counter[str] = Counter()

    def counting(name: str, function: Any) -> Any:
        def ask(q: Query, **settings: Any) -> Any:
            seen[f"{name}_{q.norm}"] += q.at is None and len(q.x) > 0  # `at`: a radius that is checked once more
            return function(q, **settings)

        return ask

    for name in VALUES["attacks"]:
        monkeypatch.setitem(ATTACKS, name, replace(ATTACKS[name], function=counting(name, ATTACKS[name].function)))
    crown = CERTIFICATES["crown"]
    monkeypatch.setitem(CERTIFICATES, "crown", replace(crown, function=counting("crown", crown.function)))
    monkeypatch.setattr(sandwich, "ROWS", 20)
    monkeypatch.setattr("marginbench.benchmarks.evaluation.evidence.DOUBTS", {})  # they ask attacks too
    return seen


def same(one: Evaluated, other: Evaluated) -> bool:
    return one.arrays.keys() == other.arrays.keys() and all(
        np.array_equal(values, other.arrays[name]) for name, values in one.arrays.items()
    )


@pytest.mark.parametrize("fatal", ["deepfool_l2", "crown_linf", "smoothing"])
def test_an_evaluation_goes_on_where_it_has_died(
    trained: Net, asked: Counter[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fatal: str
) -> None:
    whole, once = evaluated(trained), Counter(asked)
    asked.clear()
    estimate, probe = sandwich._Enclosure._estimate, "marginbench.benchmarks.probes.smoothing.smoothing_arrays"

    def dying(self: Any, name: str, q: Query) -> Found:
        if f"{name}_{q.norm}" == fatal and self.seed_parts[-1] > 0:  # in the second group of images
            raise KeyboardInterrupt
        return estimate(self, name, q)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    partial = Partial(tmp_path / "run.partial")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sandwich._Enclosure, "_estimate", dying)
        if fatal == "smoothing":
            patch.setattr(probe, die)
        evaluated(trained, partial)
    before = Counter(asked)
    resumed = evaluated(trained, partial)
    assert asked == once, "nothing twice"
    assert before != once or fatal == "smoothing"
    assert same(whole, resumed) and resumed.recalled > 0 == whole.recalled
    for name, facts in whole.estimators.items():
        again = resumed.estimators[name]
        assert {key: again[key] for key in facts if key != "seconds"} == {k: facts[k] for k in facts if k != "seconds"}
    partial.remove()
    assert [*tmp_path.iterdir()] == []


def test_nothing_is_kept_without_a_folder(trained: Net, asked: Counter[str], tmp_path: Path) -> None:
    assert same(evaluated(trained, Partial()), evaluated(trained)) and set(asked.values()) == {4}


def test_another_network_or_version_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twin: without the logits in the key, the figures of one network would be told of another."""
    logits, partial = torch.rand(4, 3), Partial(tmp_path)
    found = Found({"upper": torch.rand(4)}, {"forward": 3})
    partial.about(logits).keep("fmn_l2 0", found)
    recalled = partial.about(logits.clone()).recall("fmn_l2 0", CPU)
    assert recalled is not None and recalled.facts == {"forward": 3}
    assert torch.equal(recalled.arrays["upper"], found.arrays["upper"])
    assert partial.about(logits).recall("fmn_l2 20", CPU) is None
    assert partial.about(logits.nextafter(logits + 1)).recall("fmn_l2 0", CPU) is None
    assert partial.recall("fmn_l2 0", CPU) is None
    monkeypatch.setattr("marginbench.benchmarks.records.provenance._commit", lambda: "another")
    assert partial.about(logits).recall("fmn_l2 0", CPU) is None


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no archive"])
def test_a_file_that_cannot_be_read_counts_as_none(tmp_path: Path, spoil: Any) -> None:
    partial = Partial(tmp_path).about(torch.rand(2, 2))
    partial.keep("fmn_l2 0", Found({"upper": torch.rand(4)}, {}))
    (file,) = tmp_path.iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    assert partial.recall("fmn_l2 0", CPU) is None


def test_a_reason_is_not_kept(
    trained: Net, asked: Counter[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With more memory, or a package installed, the certificate applies."""
    crown = CERTIFICATES["crown"]
    with monkeypatch.context() as patch:
        patch.setitem(CERTIFICATES, "crown", Certificate("crown", lambda q: Answer(reason="needs 9 GB")))
        first = evaluated(trained, Partial(tmp_path))
    assert first.estimators["crown_l2"] == {"not_applicable": "needs 9 GB"}
    second = evaluated(trained, Partial(tmp_path))
    assert "lower_l2_crown" in second.arrays and crown is CERTIFICATES["crown"]
    assert asked["fmn_l2"] == 2, "in two groups of images, once"


def test_an_estimator_more_changes_no_other_number(trained: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draws from a stream of its own."""

    def scattered(q: Query) -> Tensor:
        return torch.rand(q.x.shape, generator=q.generator)

    monkeypatch.setattr("marginbench.benchmarks.evaluation.evidence.DOUBTS", {})
    for name in ("one", "two"):
        monkeypatch.setitem(ATTACKS, name, Attack(name, scattered))
    few = evaluated(trained, attacks={"two": {}}, certificates={}).arrays
    many = evaluated(trained, attacks={"one": {}, "two": {}}, certificates={}).arrays
    for norm in ("l2", "linf"):
        assert np.isfinite(few[f"upper_{norm}_two"]).mean() > 0.5
        assert np.array_equal(few[f"upper_{norm}_two"], many[f"upper_{norm}_two"])
        assert not np.array_equal(many[f"upper_{norm}_one"], many[f"upper_{norm}_two"])


def test_a_failed_run_keeps_its_parts_and_a_done_one_has_none(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = ("run-all", "--suite", tiny, "--out", out, "--jobs", "1", "--methods", "ce", "--memory", "4GB")

    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(sandwich, "collect", fail)
        assert run(*words)[0] == 1
    (folder,) = (out / "tiny" / "runs").glob("*.partial")
    (record,) = (out / "tiny" / "runs").glob("*.json")
    assert any(folder.iterdir()) and folder.stem == record.stem
    code, _, err = run(*words, "--retry")
    assert code == 0 and "taken from an evaluation that was interrupted" in err
    assert json.loads(record.read_text())["status"] == "done" and not folder.exists()
