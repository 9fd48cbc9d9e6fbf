"""All probes: found by scanning this folder, and those of plug-ins. A new one needs no line here."""

from marginbench.benchmarks.probes.probe import PROBES, Probe, Subject, probe
from marginbench.benchmarks.registry import import_all

__all__ = ["PROBES", "Probe", "Subject", "probe"]

import_all("marginbench.benchmarks.probes")
