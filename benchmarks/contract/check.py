"""The contract tests: what every method must satisfy, built in or plug-in. `check(method)` runs them all."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from marginbench.benchmarks.contract import loss_checks, run_checks
from marginbench.benchmarks.contract.fixtures import CheckFailedError, NotTestedError
from marginbench.methods import Method

CHECKS = {function.__name__: function for function in (*loss_checks.CHECKS, *run_checks.CHECKS)}


@dataclass(frozen=True)
class Result:
    """Outcome of one check, with the reason if it failed or could not be tested."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    reason: str = ""

    def line(self) -> str:
        return f"{self.status:<8} {self.name:<24} {self.reason}".rstrip()


def run_check(name: str, method: Method) -> Result:
    """Run one check on one configured method."""
    try:
        CHECKS[name](method)
    except NotTestedError as reason:
        return Result(name, "skipped", str(reason))
    except CheckFailedError as reason:
        return Result(name, "failed", str(reason))
    except Exception as error:  # the method under test may raise anything
        return Result(name, "failed", f"raised {type(error).__name__}: {error}")
    return Result(name, "passed")


def check(method: Method) -> Iterator[Result]:
    """Run every check on one configured method, one after the other."""
    for name in CHECKS:
        yield run_check(name, method)
