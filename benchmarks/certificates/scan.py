"""All certificates: found by scanning this folder, and those of plug-ins. A new one needs no line here.

A suite lists them with their settings:

    [evaluation.certificates]
    crown = {}
    milp = { time_limit = 10.0 }
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from marginbench.benchmarks.certificates.certificate import CERTIFICATES, OWN, Certificate, certificate
from marginbench.benchmarks.extras import Needs
from marginbench.benchmarks.registry import import_all

__all__ = ["CERTIFICATES", "OWN", "Certificate", "Needs", "certificate", "configured_certificates", "install_advice"]

import_all("marginbench.benchmarks.certificates")


def configured_certificates(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Certificate]:
    """The certificates of a suite, by name, with their settings.

    Raises:
        MarginbenchError: unknown certificate or setting.
    """
    return {name: CERTIFICATES.find(name, "certificate").configured(settings) for name, settings in table.items()}


def install_advice(names: Iterable[str]) -> str | None:
    """What to install for certificates of these names, if anything; without it their columns stay empty."""
    advice = defaultdict(list)
    for name in names:
        needs = CERTIFICATES[name].needs
        if needs is not None and needs.missing:
            advice[needs.advice].append(name)
    return "; ".join(f"{', '.join(without)}: {text}" for text, without in advice.items()) or None
