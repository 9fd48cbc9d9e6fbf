"""What a file of weights holds, told by its content and not by its name; nothing but tensors is ever unpickled."""

import importlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from marginbench.benchmarks.machine.files import placeholder
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import one_line

SAVE = "save model.state_dict() with torch.save"
PICKLE = b"\x80"  # its first byte
OF_TORCH = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # soon behind it where torch.save wrote no archive


def read_weights(path: Path) -> Any:
    """What `torch.save`, or safetensors, has written.

    Raises:
        MarginbenchError: no such file, another kind of file, a damaged one, or code in the pickle.
    """
    if path.is_file():
        problem = placeholder(path) or _another_kind(path)
    else:
        problem = "is a folder: give the file of weights in it" if path.is_dir() else "no such file"
    if problem is not None:
        raise MarginbenchError(f"weights {path}: {problem}")
    try:
        if _is_safetensors(path):
            return importlib.import_module("safetensors.torch").load_file(path)
        with path.open("rb") as file:  # of a path, torch too goes by the name
            return torch.load(file, map_location="cpu", weights_only=True)
    except ImportError:
        raise MarginbenchError(
            f"weights {path}: needs a package: pip install safetensors; or save the state dict with torch.save"
        ) from None
    except pickle.UnpicklingError as error:
        found = re.search(r"Unsupported (?!operand)\w+:? .*?(?= was not|\. | by default|$)", str(error), re.MULTILINE)
        what = f"more than tensors ({found[0]})" if found else "something else than tensors"
        raise MarginbenchError(f"weights {path}: refused, it is {what} and unpickling runs code: {SAVE}") from None
    except Exception as error:  # damaged files fail in many ways
        raise MarginbenchError(
            f"weights {path}: not a readable file of weights ({one_line(error)}): copy or download it again"
        ) from None


def is_torchscript(path: Path) -> bool:
    """Whether it is what `torch.jit.save` writes: only that has code beside the weights."""
    return _has_code(_members(path))


def _another_kind(path: Path) -> str | None:
    """What it is, if neither `torch.save` nor safetensors has written it."""
    if names := _members(path):
        if _has_code(names):
            return "is a whole TorchScript model: give it as the model, without weights"
        if all(name.endswith(".npy") for name in names):
            return f"is an .npz file of numpy: {SAVE}"
        return None if any(name.endswith("data.pkl") for name in names) else f"is a zip archive of other things: {SAVE}"
    with path.open("rb") as file:
        start = file.read(32)
    if _is_safetensors(path) or (start.startswith(PICKLE) and OF_TORCH in start):
        return None
    if start.startswith(PICKLE):
        return f"is a pickle that torch.save did not write: {SAVE}"
    return f"holds nothing that torch.save or safetensors has written: copy or download it again, or {SAVE}"


def _has_code(members: list[str]) -> bool:
    return any(name.endswith("/constants.pkl") for name in members)


def _members(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _is_safetensors(path: Path) -> bool:
    """Whether it begins with the length of a header and a header in JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"
