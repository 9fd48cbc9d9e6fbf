"""Where a run took place: recorded beside its results, never part of its id."""

import contextlib
import ctypes
import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from marginbench.methods import MarginbenchError

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
"""Their numbers, as they were before this process kept to some of them."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_PACKAGES = ("marginbench", "torch", "torchattacks", "auto-lirpa", "numpy")


def resolve_device(name: str) -> torch.device:
    """Turn `auto`, `cpu` or `cuda` into a device.

    Raises:
        MarginbenchError: CUDA asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            reason = "this torch has no CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
            raise MarginbenchError(f"--device cuda: {reason}; use --device cpu or auto")
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(name)


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of up to 32 MiB for reuse.

    By default it gives them back to the system, which clears the pages anew at the next allocation: on small networks
    that took a third of the evaluation. Does nothing with another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 2**30)


def cores() -> int:
    """How many processor cores marginbench may use, all its processes together."""
    return len(CORES)


def seconds_on(device: torch.device) -> float:
    """A clock that waits until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextlib.contextmanager
def no_tf32() -> Iterator[None]:
    """A block in which float32 means float32. By default CUDA's convolutions keep ten bits of the factors."""
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


@cache
def environment(device: torch.device) -> dict[str, Any]:
    """Hardware, versions and commit. The host's name is hashed: it serves only to tell machines apart."""
    return {
        "host": hashlib.sha256(platform.node().encode()).hexdigest()[:12],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree, with `+` behind it if files differ; None outside a git checkout."""

    def git(*words: str) -> str:
        here = Path(__file__).parent
        answer = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        return answer.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "../methods", "../benchmarks")
        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None
