"""The doctor finds nothing wrong here, and names what is wrong with a broken attack or certificate."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Run
from torch import Tensor

from marginbench.benchmarks import load_plugin
from marginbench.benchmarks.attacks.presets import PRESETS
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.certificates.scan import CERTIFICATES
from marginbench.benchmarks.evaluation.canaries import (
    CANARIES,
    Canary,
    detached,
    linear,
    masked,
    planted,
    straight_through,
    weakly_attacked,
)
from marginbench.benchmarks.evaluation.conv_canaries import residual
from marginbench.benchmarks.evaluation.doctor import Result, examine_canaries, examine_layout, table
from marginbench.benchmarks.models import examination

CPU = torch.device("cpu")


@pytest.mark.parametrize("make", CANARIES, ids=range(len(CANARIES)))
def test_everything_passes_on_the_cpu(make: Callable[[], Canary]) -> None:
    canary = make()
    results = list(examine_canaries(CPU, [lambda: canary]))
    assert [r for r in results if r.verdict != "pass"] == []
    seen = {(r.estimator, r.norm) for r in results}
    for norm in canary.exact:
        assert {(f"upper bound: {name}", norm) for name in canary.attacks or ATTACKS} <= seen
        assert {(f"lower bound: {name}", norm) for name in canary.applies} <= seen
    assert f"| {canary.title} " in table(results) and len(table(results, every=True)) >= len(table(results))


def test_every_certificate_is_asked_for_on_some_canary() -> None:
    results = examine_canaries(CPU, [linear, residual], attacks=["deepfool"])
    assert {f"lower bound: {name}" for name in CERTIFICATES} <= {r.estimator for r in results}


def faults(results: list[Result]) -> dict[str, str]:
    return {r.estimator: r.verdict for r in results if r.verdict != "pass"}


def test_an_attack_that_returns_its_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, "deepfool", replace(ATTACKS["deepfool"], function=lambda q: q.x))
    found = faults(list(examine_canaries(CPU, [linear])))
    assert "within 2%" in found["upper bound: deepfool"]


def test_an_attack_that_cheats_is_not_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances that are too short: tighten() measures them itself, so that the attack must be broken below it."""

    def shorter(net: Any, x: Tensor, points: Tensor, y: Tensor, norm: str) -> tuple[Tensor, Tensor]:
        return points, 0.5 * (points - x).flatten(1).norm(dim=1)

    monkeypatch.setattr("marginbench.benchmarks.attacks.attack.tighten", shorter)
    assert "not a bound" in " ".join(faults(list(examine_canaries(CPU, [linear]))).values())


@pytest.mark.parametrize("canary", [linear, planted])
def test_a_certificate_that_is_too_large_is_named(monkeypatch: pytest.MonkeyPatch, canary: Any) -> None:
    honest = CERTIFICATES["crown"]
    lying = replace(honest, function=lambda q: 1.2 * honest(q).lower)
    monkeypatch.setitem(CERTIFICATES, "crown", lying)
    found = faults(list(examine_canaries(CPU, [canary])))
    assert found["lower bound: crown"] == "FAIL: not a bound"


def test_a_missing_doubt_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marginbench.benchmarks.evaluation.evidence.DOUBTS", {})
    assert "none of zero_gradient" in " ".join(faults(list(examine_canaries(CPU, [masked]))).values())


@pytest.mark.parametrize("canary", [masked, detached, straight_through, weakly_attacked])
def test_each_fault_is_seen_by_the_doubt_that_is_made_for_it(canary: Callable[[], Canary]) -> None:
    """Without that doubt the verdict falls, whatever the others say. What random starts find is seen by two."""
    made = canary()
    (wanted,) = made.doubts or ()
    (result,) = examine_canaries(CPU, [lambda: made])
    assert wanted in result.estimator and result.verdict == "pass"
    assert canary in (masked, detached) or result.estimator == f"doubts: {wanted}"


def test_attacks_that_are_strong_enough_are_not_weak() -> None:
    made = replace(weakly_attacked(), attacks=PRESETS["quick"])
    (result,) = examine_canaries(CPU, [lambda: made])
    assert result.verdict == "FAIL: none of weak_attack"


@pytest.mark.parametrize("instructions", ["AVX2", "ALL"])
def test_no_network_meets_a_convolution_that_is_wrong_in_its_layout(
    monkeypatch: pytest.MonkeyPatch, instructions: str
) -> None:
    """oneDNN as on a processor without AVX-512, where one kind of convolution corrupts memory, and as on this one."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", instructions)
    (result,) = examine_layout()
    assert result.verdict == "pass" and result.wrong == 0


def test_a_process_that_crashes_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    assert [result.verdict for result in examine_layout()] == ["FAIL: the process ended with 1: no message"]


def test_a_comparison_of_layouts_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marginbench.benchmarks.evaluation.layout.LIMIT", 0.01)
    assert [result.verdict for result in examine_layout()] == ["FAIL: the process did not end within 0.01 s"]


@pytest.mark.parametrize("broken", [False, True])
def test_the_command_tells_how_far_it_is_and_what_failed(
    run: Run, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    def pair(_: torch.device) -> list[Result]:
        verdicts = ("pass", "FAIL: not a bound" if broken else "pass")
        return [Result("pair", f"upper bound: {i}", "l2", 1.0, 0, v, best=False) for i, v in enumerate(verdicts)]

    monkeypatch.setattr(examination, "examine_layout", lambda: pair(CPU))
    monkeypatch.setattr(examination, "examine_row", pair)
    monkeypatch.setattr(examination, "examine_starts", pair)
    monkeypatch.setattr(examination, "CANARIES", [linear])
    threads = torch.get_num_threads()
    code, out, err = run("doctor", "--device", "cpu")
    assert code == int(broken) and torch.get_num_threads() == threads
    assert (
        "4 parts to examine, in about a minute\n" in err
        and f"[1/4] pair: {'1 of 2 checks failed' if broken else '2 checks passed'}" in err
        and "[4/4] linear:" in err
    )
    assert out.splitlines()[-1].startswith("3 of" if broken else "all ")
    assert ("not a bound" in out) == broken


def test_the_estimators_of_plugins_are_examined(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lies.py").write_text(
        "from marginbench.benchmarks import certificate\n\n"
        "@certificate\ndef lies(q):\n    return q.x.new_full((len(q.x),), 9.0)\n"
    )
    monkeypatch.setattr(examination, "examine_layout", lambda: [Result("-", "-", "-", None, 0, "pass")])
    for part in ("row", "starts"):
        monkeypatch.setattr(examination, f"examine_{part}", lambda _: examination.examine_layout())
    monkeypatch.setattr(examination, "CANARIES", [linear])
    code, out, _ = run("doctor", "--device", "cpu", "--plugin", tmp_path / "lies.py")
    assert code == 1 and "lower bound: lies" in out and "not a bound" in out


def test_a_doubt_of_the_users_is_told_and_no_failure() -> None:
    load_plugin(Path(__file__).parents[1] / "doors" / "my_doubt.py")
    results = [r for r in examine_canaries(CPU, [linear], ["deepfool"], ["crown"]) if r.estimator.startswith("doubts")]
    assert [(r.estimator, r.verdict) for r in results] == [("doubts: few_points", "pass")]
