"""Finds out where a run takes place."""

import hashlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from marginbench.benchmarks.machine.device import cores
from marginbench.benchmarks.records.record import Environment

_PACKAGES = ("marginbench", "torch", "torchattacks", "auto-lirpa", "numpy")


def environment(device: torch.device) -> Environment:
    """Hardware, versions and commit. The host's name is hashed: it serves only to tell machines apart."""
    return Environment(
        host=hashlib.sha256(platform.node().encode()).hexdigest()[:12],
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        processor=_processor(),
        cores=cores(),
        threads=torch.get_num_threads(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: _version(name) for name in _PACKAGES},
        commit=_commit(),
    )


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """The commit of the source tree, with `+` after it if files differ; None outside a checkout of marginbench.

    An installed package may lie in a virtual environment inside somebody else's repository, which does not track it.
    """

    here = Path(__file__)

    def git(*words: str) -> str:
        answer = subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True, check=True)
        return answer.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", here.name)
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "../../methods", "../../benchmarks")
        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None
