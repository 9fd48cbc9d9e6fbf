"""Models from files of users: a factory in Python, a TorchScript archive, an ONNX graph."""

import hashlib
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from marginbench.benchmarks.machine.files import placeholder
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.benchmarks.models.onnx_file import read_onnx
from marginbench.benchmarks.models.weights_file import is_torchscript
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import one_line
from marginbench.methods.userfile import load_function, user_code


def load_model(spec: str) -> tuple[nn.Module, str]:
    """The module that `FILE.py:FACTORY` makes, or that a TorchScript or ONNX file holds.

    The file may import modules of its own folder, which are part of it. Weights drawn by the factory are the same in
    each call: torch's global generators are seeded meanwhile.

    Returns:
        The module, and the SHA-256 of the file.

    Raises:
        MarginbenchError: file or factory missing, one of them raises, or what comes back is no module.
    """
    path = Path(spec).expanduser()
    if path.suffix not in ("", ".py") and (path.is_file() or ":" not in path.name):
        return _from_archive(path), hashlib.sha256(path.read_bytes()).hexdigest()
    made = load_function(spec, "model")
    with user_code(made.path, "model"), seeded(torch.device("cpu"), "factory"):
        model = made.function()
    if not isinstance(model, nn.Module):
        name = spec.rpartition(":")[2]
        raise MarginbenchError(f"model {made.path}: {name}() returns {type(model).__name__}, not a torch.nn.Module")
    return model, made.source


def _from_archive(path: Path) -> nn.Module:
    if not path.is_file():
        raise MarginbenchError(f"model {path}: no such file")
    if (problem := placeholder(path)) is not None:
        raise MarginbenchError(f"model {path}: {problem}")
    if path.suffix == ".onnx":
        return read_onnx(path)
    if not is_torchscript(path):
        problem = "write FILE.py:FACTORY, which makes the network, and give a file of weights as the weights"
        raise MarginbenchError(f"model {path}: neither TorchScript nor ONNX: {problem}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it speaks of the format that follows it
            model: nn.Module = torch.jit.load(str(path)).cpu()
            return model
    except Exception as error:  # operators that are not known, damaged files
        raise MarginbenchError(f"model {path}: cannot be read ({one_line(error)})") from error


def fingerprint(net: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: names, types, shapes, bytes."""
    tensors = {**dict(net.named_buffers()), **net.state_dict()}
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, Tensor):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
