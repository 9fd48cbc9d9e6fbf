"""Models and weights from files of users."""

import hashlib
import importlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.machine.seeds import seeded
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import one_line
from marginbench.methods.userfile import load_function, user_code

NESTED = ("state_dict", "model_state_dict", "model")  # where checkpoints keep the state dict


def load_model(spec: str) -> tuple[nn.Module, str]:
    """Call the factory that `FILE.py:FACTORY` names. Returns the module, and the SHA-256 of the file.

    The file may import modules of its own folder, which enter the hash. Weights drawn by the factory are the
    same in each call: torch's global generators are seeded meanwhile.

    Raises:
        MarginbenchError: file or factory missing, one of them raises, or what comes back is no module.
    """
    made = load_function(spec, "model")
    with user_code(made.path, "model"), seeded(torch.device("cpu"), "factory"):
        model = made.function()
    if not isinstance(model, nn.Module):
        name = spec.rpartition(":")[2]
        raise MarginbenchError(f"model {made.path}: {name}() returns {type(model).__name__}, not a torch.nn.Module")
    return model, made.source


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into the model; nothing but tensors is ever unpickled.

    Raises:
        MarginbenchError: no such file, not a state dict, code in the pickle, or a state dict of another network.
    """
    path = Path(path).expanduser()
    state = _read_state(path)
    try:
        report = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # names shapes that differ, below a headline
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise MarginbenchError(f"weights {path}: do not fit the model: {lines[-1]}") from None
    kinds = (("no key", report.missing_keys), ("unexpected key", report.unexpected_keys))
    wrong = [f"{kind} {keys[0]!r} (the first of {len(keys)})" for kind, keys in kinds if keys]
    if wrong:
        raise MarginbenchError(f"weights {path}: do not fit the model: {', '.join(wrong)}")


def _read_state(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise MarginbenchError(f"weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            state: Any = importlib.import_module("safetensors.torch").load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise MarginbenchError(
            f"weights {path}: needs a package: pip install safetensors; or save the state dict with torch.save"
        ) from None
    except pickle.UnpicklingError as error:
        found = re.search(r"Unsupported \w+:? .*?(?= was not|\. | by default|$)", str(error), re.MULTILINE)
        reason = found[0] if found else "not a state dict saved with torch.save"
        raise MarginbenchError(
            f"weights {path}: refused, it is more than tensors ({reason}) and unpickling runs code:"
            " save model.state_dict() with torch.save"
        ) from None
    except Exception as error:  # damaged files fail in many ways
        raise MarginbenchError(f"weights {path}: not a readable file of weights ({one_line(error)})") from None
    if isinstance(state, Mapping):
        state = next((state[key] for key in NESTED if isinstance(state.get(key), Mapping)), state)
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise MarginbenchError(f"weights {path}: holds no tensors by name: save model.state_dict() with torch.save")
    return state


def fingerprint(net: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: names, types, shapes, bytes."""
    tensors = {**dict(net.named_buffers()), **net.state_dict()}
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
