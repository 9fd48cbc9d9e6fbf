"""What the tests of the contract share: the sound method that mutants break."""

from typing import Any, ClassVar

from marginbench.methods import Info, Method


def info(**changes: Any) -> Info:
    facts: dict[str, Any] = {
        "key": "mutant",
        "title": "Mutant",
        "family": "tests",
        "own_family": True,
        "paper": "-",
        "section": "-",
        "year": 2026,
        "neutral": {},
    }
    return Info(**{**facts, **changes})


class Mutant(Method):
    """L = CE(z, y), sound: each mutant breaks one thing."""

    info: ClassVar[Info] = info()
