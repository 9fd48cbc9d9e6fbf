"""A trained network for others: a bundle without pickle, and an ONNX graph where the network has one."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.data.sentence_sets import is_text
from marginbench.benchmarks.extras import ONNX_RUNTIME
from marginbench.benchmarks.machine.files import ensure_file_writable, write_atomically
from marginbench.benchmarks.records.reader import RESULTS
from marginbench.benchmarks.records.training import network_bytes
from marginbench.benchmarks.training.bundle import to_toml
from marginbench.benchmarks.training.load import load_network, training_path
from marginbench.benchmarks.training.onnx_graph import input_name, to_onnx
from marginbench.methods import MarginbenchError, Net

AGREE = 1e-5  # how far the logits of ONNX Runtime may be from ours, relative to the largest one
SUFFIXES = (".safetensors", ".toml", ".onnx")
HEADER = """\
# A network that marginbench has trained; its weights are in {weights}. In Python:
#   from marginbench.benchmarks import load_network
#   net, info = load_network("{name}")  # {reads} to logits [B, K]
"""
IMAGES = "images [B, C, H, W] in [0, 1]"
SENTENCES = "x [B, 2, 1, L] int64"
OF_SENTENCES = (
    "# x[:, 0, 0] are token ids, and x[:, 1, 0] segments: 1 first sentence, 2 second, 0 padding at the end.\n"
)


@dataclass(frozen=True)
class Exported:
    """What was written, and why there is no ONNX file where there is none."""

    files: list[Path]
    without_onnx: str | None  # reason
    agreement: float | None  # largest difference to ONNX Runtime, relative to the largest logit; None: not compared


def export(what: str, output: Path, folder: Path = RESULTS, network: str | None = None) -> Exported:
    """Write OUTPUT.safetensors, OUTPUT.toml and, where it can be made, OUTPUT.onnx, which `onnx_graph` describes.

    Args:
        what, folder, network: as in `load_network`.
        output: a path; a suffix of these three is left out.

    Raises:
        ParameterError: the files cannot be written.
        MarginbenchError: no such network, or the ONNX graph computes something else.
    """
    output = output.with_suffix("") if output.suffix in SUFFIXES else output
    weights, described, graph = (output.with_name(f"{output.name}{end}") for end in SUFFIXES)
    for file in (weights, described, graph):
        ensure_file_writable(file)
    path = training_path(what, folder)
    net, training = load_network(path, network=network)
    content = network_bytes(path.parent, training, path.stem)
    write_atomically(weights, content)
    text = is_text(training.identity.recipe["data"]["name"])
    head = HEADER.format(name=described.name, weights=weights.name, reads=SENTENCES if text else IMAGES)
    more = f"{OF_SENTENCES}\n" if text else "\n"
    write_atomically(described, f"{head}{more}{to_toml(training)}".encode())
    inputs: Callable[[Sequence[int], int], Tensor] = partial(_sentences, net) if text else _images
    graph_bytes, problem = to_onnx(net, inputs(training.input_shape, 2))
    if graph_bytes is None:
        return Exported([weights, described], problem, None)
    agreement = difference(graph_bytes, net, inputs(training.input_shape, 5))
    if agreement is not None and not agreement <= AGREE:
        raise MarginbenchError(
            f"{training.method}: the ONNX graph gives other logits in ONNX Runtime, by {agreement:.1e} of the largest"
        )
    write_atomically(graph, graph_bytes)
    return Exported([weights, described, graph], None, agreement)


def _images(shape: Sequence[int], count: int) -> Tensor:
    """Random ones [count, C, H, W], others for another count."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(count))


def _sentences(net: Net, shape: Sequence[int], count: int) -> Tensor:
    """Random token ids of random length [count, 2, 1, L], as `data.text` stores them, others for another count."""
    generator = torch.Generator().manual_seed(count)
    words = next(layer for layer in net.modules() if isinstance(layer, nn.Embedding)).num_embeddings
    x = torch.randint(words, (count, *shape), generator=generator)
    lengths = torch.randint(1, shape[2] + 1, (count, 1, 1), generator=generator)
    x[:, 1] = torch.arange(shape[2]) < lengths
    return x


def difference(graph: bytes, net: Net, x: Tensor) -> float | None:
    """Largest difference between the logits of ONNX Runtime and ours, relative to the largest; None without it."""
    if ONNX_RUNTIME.missing:
        return None
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        ours = net(x)
    theirs = torch.from_numpy(session.run(None, {input_name(x): x.numpy()})[0])
    return float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1e-12))
