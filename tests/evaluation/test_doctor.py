"""The doctor finds nothing wrong here, and names what is wrong with a broken attack or certificate."""

import logging
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import MARGINBENCH, Start, wait_for
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
from marginbench.methods import MarginbenchError

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


def _parts(
    monkeypatch: pytest.MonkeyPatch, jobs: int, first: Callable[[torch.device], Any], canary: Callable[[], Canary]
) -> None:
    """Let the doctor examine four parts, three times the same before a canary, in so many processes."""
    monkeypatch.setattr(examination, "choose_jobs", lambda *_: jobs)
    monkeypatch.setattr(examination, "examine_layout", partial(first, CPU))
    monkeypatch.setattr(examination, "examine_row", first)
    monkeypatch.setattr(examination, "examine_starts", first)
    monkeypatch.setattr(examination, "CANARIES", [canary])


@pytest.mark.parametrize("broken", [False, True])
def test_the_command_tells_how_far_it_is_and_what_failed(
    run: Run, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    def pair(_: torch.device) -> list[Result]:
        verdicts = ("pass", "FAIL: not a bound" if broken else "pass")
        return [Result("pair", f"upper bound: {i}", "l2", 1.0, 0, v, best=False) for i, v in enumerate(verdicts)]

    _parts(monkeypatch, 1, pair, masked)
    threads = torch.get_num_threads()
    code, out, err = run("doctor", "--device", "cpu")
    assert code == int(broken) and torch.get_num_threads() == threads
    assert (
        "4 parts to examine, in about four minutes\n" in err
        and f"[1/4] pair: {'1 of 2 checks failed' if broken else '2 checks passed'}" in err
        and "[4/4] masked gradients:" in err
    )
    assert out.splitlines()[-1].startswith("3 of" if broken else "all ")
    assert ("not a bound" in out) == broken


def test_processes_find_what_one_alone_finds_in_the_same_order(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "marginbench")
    lines = []
    for jobs in (1, 3):
        _parts(monkeypatch, jobs, partial(examine_canaries, canaries=[masked]), detached)
        caplog.clear()
        lines.append(examination.examine(CPU))
        assert len({message for message in caplog.messages if message.startswith("[")}) == 4
    assert lines[0] == lines[1] and [r.canary for r in lines[0]] == 3 * ["masked gradients"] + ["one row detached"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_estimators_of_plugins_are_examined(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jobs: int
) -> None:
    (tmp_path / "lies.py").write_text(
        "from marginbench.benchmarks import certificate\n\n"
        "@certificate\ndef lies(q):\n    return q.x.new_full((len(q.x),), 9.0)\n"
    )
    _parts(monkeypatch, jobs, partial(examine_canaries, canaries=[masked]), linear)
    code, out, err = run("doctor", "--device", "cpu", "--plugin", tmp_path / "lies.py")
    assert code == 1 and "lower bound: lies" in out and "not a bound" in out
    assert ("two minutes" in err) == (jobs > 1)


def test_a_process_that_is_killed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _parts(monkeypatch, 2, partial(examine_canaries, canaries=[partial(os._exit, 1)]), linear)
    with pytest.raises(MarginbenchError, match="was killed"):
        examination.examine(CPU)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_nothing_goes_on_after_the_end(start: Start, number: int, code: int) -> None:
    patched = (
        f"from marginbench.benchmarks.models import examination\nexamination.choose_jobs = lambda *_: 2\n{MARGINBENCH}"
    )
    process = start(patched, "doctor", "--device", "cpu")
    wait_for(lambda: "[1/" in process.err, process)
    os.kill(process.pid, number)
    assert process.wait() == code and "Traceback" not in process.err
    wait_for(lambda: not process.group())


def test_a_doubt_of_the_users_is_told_and_no_failure() -> None:
    load_plugin(Path(__file__).parents[1] / "doors" / "my_doubt.py")
    results = [r for r in examine_canaries(CPU, [linear], ["deepfool"], ["crown"]) if r.estimator.startswith("doubts")]
    assert [(r.estimator, r.verdict) for r in results] == [("doubts: few_points", "pass")]
