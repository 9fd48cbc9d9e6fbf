"""Trained networks as files: what is written, and how the same network comes back."""

from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from marginbench.benchmarks.records.training import Training
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.training.blueprint import Blueprint, task_of
from marginbench.methods import MarginbenchError, Method, Net, spec_of
from marginbench.methods.hooks import holding


def blueprint_of(training: Training, method: Method, network: Network, checkpoint: Path | None = None) -> Blueprint:
    """What the network of a training was built from.

    Args:
        method: with the hyper-parameters of the training.
        network: the section of its suite.
        checkpoint: the folder that a pretrained network started from: its config.json says what there is to build.
    """
    channels, height, width = training.input_shape
    task = task_of(method, (channels, height, width), tuple(training.class_counts), training.identity.epsilon)
    return Blueprint(method, network, task, training.identity.recipe["stream"], training.repetition, checkpoint)


def pack(net: Net) -> bytes:
    """Weights and buffers as the content of a .safetensors file.

    Raises:
        MarginbenchError: the network has state that is no tensor.
    """
    state = net.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise MarginbenchError(
                f"{name} of the network is no tensor: keep state in buffers, so that it can be saved"
            )
    return safetensors.torch.save({name: value.detach().cpu().clone().contiguous() for name, value in state.items()})


def unpack(content: bytes, blueprint: Blueprint, device: torch.device) -> Net:
    """The network of a file in eval mode: the one that its blueprint builds, with the weights of the file.

    Raises:
        MarginbenchError: the file is none, or its tensors do not fit.
    """
    try:
        state = safetensors.torch.load(content)
    except SafetensorError as error:
        raise MarginbenchError(f"not a .safetensors file ({error})") from None
    method = blueprint.method
    mean, std = (state.get(f"normalise.{name}", torch.ones(blueprint.task.input_shape[0])) for name in ("mean", "std"))
    net = blueprint.build(mean.flatten(), std.flatten(), device)
    with holding(method.rebuild):
        net = method.rebuild(net, blueprint.task)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise MarginbenchError(
            f"the weights do not fit what {spec_of(method)} builds: if its `finish` changes layers, it needs `rebuild`"
            f" ({problem})"
        ) from None
    return net.to(device).eval()
