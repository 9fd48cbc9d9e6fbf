"""The contract tests: what every method must satisfy, built in or plug-in. `check(method)` runs them all."""

import importlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from marginbench.benchmarks.contract import loss_checks, run_checks
from marginbench.benchmarks.contract.fixtures import CheckFailedError, NotFiniteError, NotTestedError
from marginbench.benchmarks.plugins import load_plugin
from marginbench.benchmarks.training.loop import DivergedError
from marginbench.methods import MarginbenchError, Method, create, spec_of
from marginbench.methods.blame import blamed, fault

NOT_FINITE = "not finite"  # a fault, whichever line is at it
CHECKS = {function.__name__: function for function in (*loss_checks.CHECKS, *run_checks.CHECKS)}

WIDTH = max(map(len, CHECKS))


@dataclass(frozen=True)
class Result:
    """Outcome of one check, with the reason if it failed or could not be tested, or what is to be said if it passed."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    reason: str = ""
    fault: str = ""  # which error of which line of a hook, if it was that

    def line(self) -> str:
        return f"{self.status:<8} {self.name:<{WIDTH}} {self.reason}".rstrip()


def run_check(name: str, method: Method) -> Result:
    """Run one check on one configured method."""
    try:
        note = CHECKS[name](method)
    except NotTestedError as reason:
        return Result(name, "skipped", str(reason))
    except (NotFiniteError, DivergedError) as reason:
        return Result(name, "failed", str(reason), NOT_FINITE)
    except CheckFailedError as reason:
        return Result(name, "failed", str(reason))
    except Exception as error:  # the method under test may raise anything
        place = blamed(error)
        told = fault(error) if isinstance(error, MarginbenchError) else f"raised {fault(error)}"
        return Result(name, "failed", told, "" if place is None else f"{type(error).__name__} at {place}")
    return Result(name, "passed", note or "")


def parametrize_with_checks(*targets: Method | str | Path) -> Any:
    """A decorator for a test with the argument `check`, which pytest then calls once for each check.

        @parametrize_with_checks("my_margin.py")
        def test_contract(check): check()

    Args:
        targets: methods, spec strings, or plug-in files, of which every method is meant.

    Raises:
        MarginbenchError: no such method or file.
    """
    pytest = importlib.import_module("pytest")  # needed by nobody else

    def run(name: str, method: Method) -> None:
        result = run_check(name, method)
        if result.status == "skipped":
            pytest.skip(result.reason)
        assert result.status == "passed", result.reason

    cases = itertools.product(CHECKS, (method for target in targets for method in methods_of(target)))
    params = [pytest.param(partial(run, name, method), id=f"{name}-{spec_of(method)}") for name, method in cases]
    return pytest.mark.parametrize("check", params)


def methods_of(target: Method | str | Path) -> list[Method]:
    """The method itself, the one of a spec string, or those of a plug-in file.

    Raises:
        MarginbenchError: no such method or file, or a file without methods.
    """
    if isinstance(target, Method):
        return [target]
    if str(target).endswith(".py"):
        methods = [create(cls.info.key) for cls in load_plugin(target)]
        if not methods:
            raise MarginbenchError(f"plug-in {target}: defines no method, and the contract is about methods")
        return methods
    return [create(str(target))]


def check(method: Method) -> Iterator[Result]:
    """Run every check on one configured method, one after the other. What fails in one place is told once.

    Where a training does not stay finite, the checks that need it after that have nothing to test.
    """
    told: dict[str, Result] = {}  # the first that told it, by fault
    for name in CHECKS:
        result = run_check(name, method)
        first = told.get(result.fault)
        if first is not None and result.fault == NOT_FINITE:
            result = replace(result, status="skipped", reason=f"{first.reason}, see {first.name}")
        elif first is not None:
            result = replace(result, reason=f"as {first.name}, see above")
        elif result.fault:
            told[result.fault] = result
        yield result
