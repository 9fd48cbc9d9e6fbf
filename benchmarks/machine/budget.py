"""How much memory this process may still take: what is free now, under every limit that holds for it.

A Linux process that takes more than there is is killed without an exception. So whoever may need much asks first.
"""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from marginbench.methods.errors import ParameterError

if TYPE_CHECKING:
    import torch

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
SMALLEST = 10**9  # bytes that it makes sense to plan with: half of that is Python and torch
RESERVE = 0.1  # share of what is left that is not planned with: others need memory too
CLEARANCE = 2**28  # bytes of it, at least
SPACE = 2**29  # bytes of addresses that are taken beside what is used: heaps of threads, kernels, gaps
FLOOR = 2**26  # bytes that are always there: networks of any size get an answer, however narrow the limit

_limits: list[int] = []  # bytes that this process may hold; the last one counts


def parse_size(text: str | int) -> int:
    """Bytes: `4GB`, `500 MiB`, or a number of bytes.

    Raises:
        ParameterError: of `memory`: no such size, or less than it makes sense to plan with.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMGT]I?B)?\s*", str(text).upper())
    if match is None or isinstance(text, bool):
        raise ParameterError("memory", text, "must be a size such as 4GB or 500MiB")
    size = int(float(match[1]) * UNITS.get(match[2], 1))
    if size < SMALLEST:
        raise ParameterError("memory", text, f"must be at least {gigabytes(SMALLEST)}; leave it out for what is free")
    return size


def gigabytes(size: float) -> str:
    """`3.2 GB`, or `0.04 GB`: two digits at least."""
    return f"{size / 1e9:.2g} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"


@contextmanager
def limited(size: int | None) -> Iterator[None]:
    """A block in which this process plans to hold at most `size` bytes, all it has included; None: no such limit."""
    if size is None:
        yield
        return
    _limits.append(size)
    try:
        yield
    finally:
        _limits.pop()


def available(device: "torch.device | None" = None) -> int:
    """Bytes that this process may allocate now, in the memory of the device; default: of the host.

    Of the host, the least of: what the kernel calls available; what is left under the limits of the control groups
    (version 1 or 2), of the address space and of the data segment; and what is left of `limited`. Less a reserve.
    """
    if device is not None and device.type == "cuda":
        import torch  # heavy: the command line reads sizes without it

        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return _without_reserve(free + unused)
    _return_freed_memory()
    status = _status()
    left = [_free(), *_control_groups()]
    left += [limit - status.get(name, 0) - SPACE for name, limit in _resource_limits()]
    left += [limit - status.get("VmRSS", 0) for limit in _limits[-1:]]
    return _without_reserve(min(left))


def _without_reserve(left: int) -> int:
    return max(FLOOR, left - max(int(RESERVE * left), CLEARANCE))


def _return_freed_memory() -> None:
    """What glibc keeps for reuse counts as taken until it is returned."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status() -> dict[str, int]:
    """VmSize, VmRSS, VmData, ... of this process, in bytes; nothing where there is no /proc."""
    return _table(Path("/proc/self/status"))


def _free() -> int:
    known = _table(Path("/proc/meminfo"))
    if "MemAvailable" in known:
        return known["MemAvailable"]
    with suppress(ValueError, OSError, AttributeError):  # not Linux: half of what there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 2**33


def _table(path: Path) -> dict[str, int]:
    """The lines `NAME: NUMBER kB` of a file, in bytes."""
    with suppress(OSError):
        lines = re.findall(r"^(\w+):\s+(\d+) kB$", path.read_text(encoding="utf-8"), re.MULTILINE)
        return {name: 1024 * int(number) for name, number in lines}
    return {}


def _resource_limits() -> Iterator[tuple[str, int]]:
    """The soft limits that there are, by the line of /proc/self/status that they limit."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, kind in (("VmSize", resource.RLIMIT_AS), ("VmData", resource.RLIMIT_DATA)):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            yield name, limit


def _control_groups(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What is left under the limit of each control group that this process is in, from its own up to the root.

    Cached files do not count as taken: the kernel drops them first.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            top, limit, used, cached = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in kinds.split(","):
            top, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts), -1, -1):
            folder = top.joinpath(*parts[:depth])
            with suppress(OSError, ValueError):  # no such file at the root, or `max`
                allowed = int((folder / limit).read_text())
                found = re.search(rf"^{cached} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
                yield allowed - int((folder / used).read_text()) + (int(found[1]) if found else 0)
