"""How the libraries that compute were built, and on what: equal versions alone do not give equal bits."""

import os
import platform
import re
from functools import cache
from pathlib import Path

import numpy as np
import torch

VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OMP_DYNAMIC",
    "MKL_DYNAMIC",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
)
"""Environment variables that choose threads, instructions or the order of sums."""

_LIBRARIES = {  # in torch.__config__.show()
    "compiler": r"^  - ((?:GCC|clang|MSVC) ?\S+)",
    "mkl": r"Math Kernel Library Version (\S+ Build \d+)",
    "onednn": r"(?:MKL-DNN|oneDNN) (v\S+(?: \(Git Hash \w+\))?)",
    "openmp": r"OpenMP (\d+)",
    "blas": r"BLAS_INFO=(\w+)",
}
_CPUINFO = {"vendor": "vendor_id", "family": "cpu family", "model": "model", "stepping": "stepping"}
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def variables() -> dict[str, str]:
    """Those of `VARIABLES` that are set now."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


@cache
def builds(cuda: bool = False) -> dict[str, str]:
    """What torch says of itself, with the part of its version that names the build, and numpy's BLAS.

    Args:
        cuda: a GPU is used: with the versions of cuDNN and of the driver, whose libraries take a while to load.
    """
    text = torch.__config__.show()
    found = {"torch": str(torch.__version__), "torch_commit": str(torch.version.git_version)}
    for name, pattern in _LIBRARIES.items():
        if match := re.search(pattern, text, re.MULTILINE):
            found[name] = match[1]
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    if cuda:
        found |= {"cudnn": str(torch.backends.cudnn.version()), "driver": _driver()}
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {**found, "numpy_blas": f"{blas.get('name')} {blas.get('version')}"}


@cache
def processor() -> str:
    """The name on it, which those of several generations may share."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


@cache
def processor_details() -> dict[str, str]:
    """Its kind, as far as the system says, the vector instructions that torch uses, and the sizes of its caches.

    Libraries choose their kernels and blocks, and with them the order of sums, by all of these.
    """
    told = _cpuinfo()
    found = {name: told[key] for name, key in _CPUINFO.items() if key in told}
    found["instructions"] = torch.backends.cpu.get_cpu_capability()
    sizes = [_text(folder / "size") for folder in sorted(_CACHES.glob("index*"))]
    return {**found, "caches": " ".join(sizes)} if sizes else found


@cache
def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first core."""
    first = _text(Path("/proc/cpuinfo")).partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _driver() -> str:
    match = re.search(r"\b\d+\.\d+[.\d]*", _text(Path("/proc/driver/nvidia/version")))
    return match[0] if match else "?"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
