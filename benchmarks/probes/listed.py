"""All probes: those of this folder, found by scanning, and those of plug-ins."""

from marginbench.benchmarks.probes.base import PROBES, Probe, Subject, probe
from marginbench.benchmarks.registry import import_all

__all__ = ["PROBES", "Probe", "Subject", "probe"]

import_all("marginbench.benchmarks.probes")
