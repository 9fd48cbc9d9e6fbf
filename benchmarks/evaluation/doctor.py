"""Checks the evaluation on networks whose margins or faults are known, on the present machine and device."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tabulate import tabulate

from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.certificates.scan import CERTIFICATES
from marginbench.benchmarks.evaluation import layout
from marginbench.benchmarks.evaluation.canaries import CANARIES, Canary
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.methods import Net, Norm, NotApplicable, Radii

TIGHT = 1.02  # how far bounds may lie from the truth where they should reach it, median over the points


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    canary: str
    estimator: str
    norm: str
    ratio: float | None  # found / truth, median over the points
    wrong: int  # points on the wrong side of the truth
    verdict: str  # pass, or FAIL and why
    best: bool = True  # the best of all estimators, or the doubts: always shown


def examine_canaries(device: torch.device, canaries: Sequence[Callable[[], Canary]] = CANARIES) -> Iterator[Result]:
    """Evaluate the canaries with every attack and certificate, and compare what was found with what is known."""
    settings = Evaluation(
        points=1000,
        epsilon={"linf": 0.05, "l2": 0.25},
        attacks={name: {} for name in ATTACKS},
        certificates={name: {} for name in CERTIFICATES},
    )
    for make in canaries:
        canary = make()
        net = canary.net.to(device)
        found = evaluate(net, _no_certificate, canary.data.to(device), settings, "doctor", canary.title)
        for norm, exact in canary.exact.items():
            yield from _bounds(canary, found.arrays, norm, exact.numpy())
        yield _doubts(canary, set(found.doubts))


def examine_layout() -> Result:
    """Compare the memory layouts of convolutions on this processor, in a process of its own."""
    problem = layout.examine()
    verdict = f"FAIL: {problem}" if problem else "pass"
    return Result(
        "memory layout", "gradients of convolutions", "-", None, len(problem.split("; ")) * bool(problem), verdict
    )


def table(results: list[Result], every: bool = False) -> str:
    """Markdown: for each canary and norm the best bounds and what failed, or every estimator."""
    shown = [r for r in results if every or r.best or r.verdict != "pass"]
    lines = [
        (r.canary, r.estimator, r.norm, "-" if r.ratio is None else f"{r.ratio:.4f}", r.wrong, r.verdict) for r in shown
    ]
    headers = ("canary", "estimator", "norm", "found / truth", "points on the wrong side", "verdict")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def _bounds(canary: Canary, arrays: dict[str, np.ndarray], norm: Norm, exact: np.ndarray) -> Iterator[Result]:
    known = np.isfinite(exact)
    truth = exact[known]
    for name, values in sorted(arrays.items()):
        kind, _, estimator = name.partition(f"_{norm}")
        if kind not in ("upper", "lower") or not name.startswith(f"{kind}_{norm}"):
            continue
        estimator = estimator.removeprefix("_")
        found = values[known]
        wrong = found < truth * (1 - canary.tolerance) if kind == "upper" else found > truth * (1 + canary.tolerance)
        ratio = float(np.median(found / truth)) if known.any() else float("nan")
        must_be_tight = canary.tight and (not estimator or _exact_on_linear(kind, estimator))
        verdict = "pass"
        if not known.any():
            verdict = "FAIL: no image with a known margin"
        elif wrong.any():
            verdict = "FAIL: not a bound"
        elif must_be_tight and not 1 / TIGHT <= ratio <= TIGHT:
            verdict = f"FAIL: should be within {TIGHT - 1:.0%} of the truth"
        text = f"{kind} bound" + f": {estimator}" * bool(estimator)
        yield Result(canary.title, text, norm, ratio, int(wrong.sum()), verdict, best=not estimator)


def _exact_on_linear(kind: str, estimator: str) -> bool:
    if kind == "upper" and estimator in ATTACKS:
        return ATTACKS[estimator].gradient and ATTACKS[estimator].minimum_norm
    return estimator in CERTIFICATES and CERTIFICATES[estimator].exact_on_linear


def _doubts(canary: Canary, raised: set[str]) -> Result:
    text = f"doubts: {', '.join(sorted(raised)) or 'none'}"
    if canary.doubts:
        verdict = "pass" if raised & canary.doubts else f"FAIL: none of {', '.join(sorted(canary.doubts))}"
    else:
        verdict = "FAIL: there is nothing to doubt" if raised else "pass"
    return Result(canary.title, text, "both", None, 0, verdict)


def _no_certificate(net: Net, x: torch.Tensor, norm: Norm) -> Radii | NotApplicable:
    return NotApplicable("a canary has no certificate of its own")
