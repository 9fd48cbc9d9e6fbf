"""All attacks: found by scanning this folder, and those of plug-ins and of files. A new one needs no line here.

An attack of a suite stands in its table of attacks, by name or as a file:

    [evaluation.attacks]
    fmn = { steps = 100 }
    mine = { file = "my_attack.py:make", steps = 20 }   # see from_file.py
"""

from collections.abc import Mapping
from typing import Any

from marginbench.benchmarks.attacks.attack import ATTACKS, Attack, attack
from marginbench.benchmarks.attacks.from_file import load_attack
from marginbench.benchmarks.registry import import_all

__all__ = ["ATTACKS", "Attack", "attack", "configured_attacks"]

import_all("marginbench.benchmarks.attacks")


def configured_attacks(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Attack]:
    """The attacks of a suite, by its names for them, with their settings.

    Raises:
        MarginbenchError: unknown attack or setting, or a file that has none.
    """
    return {name: _one(name, settings) for name, settings in table.items()}


def _one(name: str, settings: Mapping[str, Any]) -> Attack:
    if "file" in settings:
        return load_attack(name, settings)
    return ATTACKS.find(name, "attack").configured(settings)
