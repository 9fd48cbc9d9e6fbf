"""Processor cores and GPUs: which one to use, how its clock runs, how exactly it computes."""

import contextlib
import ctypes
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from marginbench.methods.errors import ParameterError

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
"""The cores available when the process started, before it was confined to some of them."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def resolve_device(name: str) -> torch.device:
    """Turn `auto`, `cpu` or `cuda` into a device.

    Raises:
        ParameterError: another name, or CUDA asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            reason = "this torch has no CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
            raise ParameterError("device", name, f"{reason}; use cpu or auto")
        return torch.device("cuda", torch.cuda.current_device())
    known = re.fullmatch(r"cpu|cuda:(\d+)", name)
    if known is None:
        raise ParameterError("device", name, "choose auto, cpu or cuda")
    if known[1] is not None and int(known[1]) >= torch.cuda.device_count():
        raise ParameterError("device", name, f"torch sees {torch.cuda.device_count()} CUDA devices; use cpu or auto")
    return torch.device(name)


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of up to 32 MiB for reuse.

    By default it returns them to the system, which clears the pages at the next allocation: with small networks that
    took a third of the evaluation's time. Has no effect with another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 2**30)


def cores() -> int:
    """The number of processor cores that all processes of marginbench may use together."""
    return len(CORES)


@contextlib.contextmanager
def threads_of(number: int | None) -> Iterator[None]:
    """A block in which torch computes with that many threads; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if number is None else number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds_on(device: torch.device) -> float:
    """Seconds on a clock that is read once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """A block with or without TF32, which rounds the factors of CUDA's convolutions and products to ten bits."""
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


@contextlib.contextmanager
def no_tf32() -> Iterator[None]:
    """A block without TF32: float32 means float32."""
    with tf32(False):
        yield


@contextlib.contextmanager
def precision_of(x: Tensor) -> Iterator[None]:
    """Float32 means float32: no TF32, no autocast. Tensors made without a type, as by auto-LiRPA, have that of x."""
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(x.dtype)
        with no_tf32(), torch.autocast(x.device.type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)
