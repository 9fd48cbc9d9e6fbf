"""Checks the evaluation on networks whose margins or faults are known, on the present machine and device."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.certificates.scan import CERTIFICATES
from marginbench.benchmarks.evaluation import layout
from marginbench.benchmarks.evaluation.canaries import CANARIES, Canary
from marginbench.benchmarks.evaluation.evaluated import Evaluated
from marginbench.benchmarks.evaluation.evidence import is_users
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.methods import NORMS, Net, Norm, NotApplicable, Radii

PROVEN = 0.98  # of the truth, median over the points: radii of certificates that are exact on a network
WITHIN = 0.95  # of the radius: what attacks at the radius are to find lies nearer
FOUND = 0.85  # share of it that they find at least


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    canary: str
    estimator: str
    norm: str
    ratio: float | None  # found / truth, median over the points
    wrong: int  # points on the wrong side of the truth, or other faults
    verdict: str  # pass, or FAIL and why
    best: bool = True  # the best of all estimators, or the doubts: always shown


def examine_canaries(
    device: torch.device,
    canaries: Sequence[Callable[[], Canary]] = CANARIES,
    attacks: Sequence[str] = (),
    certificates: Sequence[str] = (),
) -> Iterator[Result]:
    """Evaluate the canaries with every attack and certificate, or with some, and compare with what is known."""
    for make in canaries:
        canary = make()
        settings = Evaluation(
            points=1000,
            epsilon=canary.epsilon,
            attacks=dict(canary.attacks) or {name: {} for name in attacks or ATTACKS},
            certificates={name: {} for name in certificates or CERTIFICATES} if canary.exact else {},
        )
        found = evaluate(
            canary.net.to(device), no_certificate, canary.data.to(device), settings, "doctor", canary.title
        )
        for norm, exact in canary.exact.items():
            yield from _bounds(canary, found.arrays, norm, exact.numpy())
        yield from _refusals(canary, found, settings.certificates)
        if canary.doubts is not None:
            yield _doubts(canary, set(found.doubts), canary.doubts)


def examine_layout() -> Iterator[Result]:
    """Compare the memory layouts of convolutions on this processor, in a process of its own."""
    problem = layout.examine()
    verdict = f"FAIL: {problem}" if problem else "pass"
    wrong = len(problem.split("; ")) * bool(problem)
    yield Result("memory layout", "gradients of convolutions", "-", None, wrong, verdict)


def table(results: list[Result], every: bool = False) -> str:
    """Markdown: for each canary and norm the best bounds and what failed, or every check."""
    shown = [r for r in results if every or r.best or r.verdict != "pass"]
    lines = [
        (r.canary, r.estimator, r.norm, "-" if r.ratio is None else f"{r.ratio:.4f}", r.wrong, r.verdict) for r in shown
    ]
    headers = ("canary", "estimator", "norm", "found / truth", "wrong", "verdict")
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
        wrong = ~(found >= truth * (1 - canary.tolerance))
        if kind == "lower":
            wrong = ~(found <= truth * (1 + canary.tolerance))
        ratio = float(np.quantile(found / truth, 0.5, method="nearest")) if known.any() else float("nan")
        verdict = "pass"
        if not known.any():
            verdict = "FAIL: no image with a known margin"
        elif wrong.any():
            verdict = "FAIL: not a bound"
        elif not estimator and not _is_best(values, arrays, kind, norm):
            verdict = "FAIL: not the best of all estimators"
        elif kind == "upper":
            verdict = _too_long(canary, norm, estimator, found, truth, ratio)
        elif estimator in canary.proven.get(norm, ()) and not ratio >= PROVEN:
            verdict = f"FAIL: should reach {PROVEN:.0%} of the truth"
        text = f"{kind} bound" + f": {estimator}" * bool(estimator)
        yield Result(canary.title, text, norm, ratio, int(wrong.sum()), verdict, best=not estimator)


def _is_best(values: np.ndarray, arrays: dict[str, np.ndarray], kind: str, norm: Norm) -> bool:
    """Whether they are the least distances or the largest radii of the estimators."""
    each = [found for name, found in arrays.items() if name.startswith(f"{kind}_{norm}_")]
    best = np.fmin if kind == "upper" else np.fmax
    return not each or np.array_equal(values, best.reduce(each))


def _too_long(canary: Canary, norm: Norm, estimator: str, found: np.ndarray, truth: np.ndarray, ratio: float) -> str:
    """What is wrong with the distances of an attack, or of all together."""
    attack = ATTACKS.get(estimator)
    seeks_least = not estimator or (attack is not None and attack.gradient and attack.minimum_norm)
    if canary.reach is not None and seeks_least and not ratio <= canary.reach:
        return f"FAIL: should be within {canary.reach - 1:.0%} of the truth"
    if attack is None or not canary.searched:
        return "pass"
    epsilon = canary.epsilon[norm]
    near = truth < WITHIN * epsilon
    if attack.gradient and not attack.minimum_norm:
        share = float((found[near] <= epsilon * (1 + canary.tolerance)).mean())
        if share < FOUND:
            return f"FAIL: finds {share:.0%} of what lies within {WITHIN:.0%} of the radius"
    height, width = canary.data.shape[1:]
    if height == width and not np.isfinite(found).any():  # some attacks know square images only
        return "FAIL: finds nothing"
    return "pass"


def _refusals(canary: Canary, found: Evaluated, certificates: Mapping[str, Any]) -> Iterator[Result]:
    """Certificates that refuse a network for which they are made."""
    for name in sorted(canary.applies & certificates.keys()):
        needs = CERTIFICATES[name].needs
        for norm in NORMS if needs is None or not needs.missing else ():
            reason = found.estimators.get(f"{name}_{norm}", {}).get("not_applicable")
            if reason is not None:
                yield Result(canary.title, f"lower bound: {name}", norm, None, 1, f"FAIL: not applicable: {reason}")


def _doubts(canary: Canary, raised: set[str], wanted: frozenset[str]) -> Result:
    text = f"doubts: {', '.join(sorted(raised)) or 'none'}"
    raised = {name for name in raised if not is_users(name)}
    if wanted:
        verdict = "pass" if raised & wanted else f"FAIL: none of {', '.join(sorted(wanted))}"
    else:
        verdict = "FAIL: there is nothing to doubt" if raised else "pass"
    return Result(canary.title, text, "both", None, 0, verdict)


def no_certificate(net: Net, x: torch.Tensor, norm: Norm) -> Radii | NotApplicable:
    return NotApplicable("a canary has no certificate of its own")
