"""Networks from users' files: found, and checked when they are built."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from marginbench.benchmarks.nets.layers import Shape
from marginbench.benchmarks.nets.network import Architecture
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import one_line
from marginbench.methods.held import unaltered
from marginbench.methods.userfile import load_function, user_code

KIND = "network"  # what error messages call such a file


def from_file(spec: str, width: int | None = None) -> Architecture:
    """The network that `FILE.py:FUNCTION` names; the function is make(shape) or make(shape, width).

    Args:
        width: default: the function's, if it has one.

    Raises:
        MarginbenchError: no such file or function, other arguments, or a width that is missing or has no effect.
    """
    function, path, source = load_function(spec, KIND)
    label = f"{path.name}:{spec.rpartition(':')[2]}"
    signature = inspect.signature(function)
    scaled = "width" in signature.parameters
    try:
        signature.bind((1, 8, 8), **({"width": 1} if scaled else {}))
    except TypeError:
        raise MarginbenchError(
            f"network {label}{signature}: should be {label}(shape) or {label}(shape, width)"
        ) from None
    if not scaled:
        if width is not None:
            raise MarginbenchError(
                f"network {label}{signature}: width={width} has no effect: the function takes no width"
            )
        return Architecture(label, lambda shape, _: function(shape), None, file=path, source=source)
    if width is None:
        width = signature.parameters["width"].default
        if not isinstance(width, int):
            raise MarginbenchError(f"network {label}{signature}: the function has no default width: give one")
    return Architecture(label, lambda shape, width: function(shape, width=width), width, file=path, source=source)


def build_checked(architecture: Architecture, file: Path, shape: Shape, width: int | None) -> nn.Sequential:
    """The body that a user's function makes, checked on two images.

    Layers no longer work in place: methods and bounds look at the inputs of layers, which must not be overwritten.

    Raises:
        MarginbenchError: the function fails, or makes no such body as `architecture.Body` asks for; with file and line.
    """

    def wrong(problem: str) -> MarginbenchError:
        return MarginbenchError(f"network {architecture.name}: {problem}")

    with user_code(file, KIND):
        body = architecture.body(shape, width)
    if not isinstance(body, nn.Module):
        raise wrong(f"should return an nn.Module, not {type(body).__name__}")
    for layer in body.modules():
        if getattr(layer, "inplace", False):
            layer.inplace = False  # type: ignore[assignment]
    body.eval()
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = x.detach().clone()
    with user_code(file, KIND):
        features, again = body(x), body(x)
        alone = body(x[:1])
    if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != 2:
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise wrong(f"two images {list(shape)} gave {found}, flat features [2, d] are needed: end with nn.Flatten()")
    if features.dtype != torch.float32 or not bool(features.isfinite().all()):
        raise wrong(
            f"features should be finite float32 numbers, not {features.dtype}: {features.flatten()[:3].tolist()}"
        )
    if not torch.equal(x, before):
        raise wrong("changes the images that it is given; work on a copy")
    if not torch.equal(features, again):
        raise wrong("features of the same images differ from call to call in eval mode; randomness must stop there")
    if not torch.allclose(features[:1], alone, rtol=1e-3, atol=1e-4):
        raise wrong("the features of an image depend on the others of its batch in eval mode")
    _check_gradients(body, features, x, wrong)
    return nn.Sequential(*_layers(body))


def _check_gradients(body: nn.Module, features: Tensor, x: Tensor, wrong: Callable[[str], MarginbenchError]) -> None:
    weights = {name: p for name, p in body.named_parameters() if p.requires_grad}
    if not features.requires_grad:
        raise wrong("no gradient reaches the images: no detach, no torch.no_grad")
    try:
        found = torch.autograd.grad(features.sum(), [x, *weights.values()], allow_unused=True)
    except Exception as error:  # of torch, or of the body's own autograd functions
        reason = f"no gradient can be computed ({one_line(error)})"
        raise wrong(f"{reason}: take operations that have a derivative; methods need one") from error
    for name, gradient in zip(("the images", *weights), found, strict=True):
        if gradient is None:
            raise wrong(f"no gradient reaches {name}: methods need one for all that is trained")


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of an nn.Sequential and of those inside it; any other module is one layer."""
    if type(module) is nn.Sequential and unaltered(module):
        for child in module:
            yield from _layers(child)
    else:
        yield module
