"""Attacks from elsewhere: whatever turns images and labels into adversarial images can join."""

import hashlib
import inspect
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.attacks._wrap import LIBRARY_NORM, Logits, isolated
from marginbench.benchmarks.attacks.ray import inside_box, is_adversarial, select
from marginbench.methods import MarginbenchError, Norm
from marginbench.methods.errors import one_line, suggest

Factory = Callable[..., Any]
"""make(model, norm, epsilon, **settings): an attack that is called with images [B, C, H, W] and labels [B].

`model` maps images in [0, 1] to logits that are standardised (see `Logits`; `model.net` gives them as they are),
`norm` is "L2" or "Linf", `epsilon` a radius in pixels. The attack returns images of the same shape; attacks with
`forward(images, labels)` and no `__call__` are called by that. The attacks of torchattacks are of this kind:

    def make(model, norm, epsilon, steps=20):
        return torchattacks.PGDL2(model, eps=epsilon, steps=steps)
"""


def foreign(make: Factory) -> Callable[..., Tensor]:
    """An attack of the common signature from a factory; its further settings go to the factory.

    It runs with frozen parameters, which get no gradients, in a forked random state that is seeded from
    `generator`, and cannot change modes. What is not a number is taken from x, the rest clamped to the box; a point
    that is not adversarial becomes x.
    """

    def attack(
        net: nn.Module,
        x: Tensor,
        y: Tensor,
        norm: Norm,
        *,
        epsilon: float,
        reference: Tensor,
        generator: torch.Generator,
        **settings: Any,
    ) -> Tensor:
        if len(x) == 0:
            return x.clone()
        with isolated(net, generator), torch.enable_grad():
            theirs = make(Logits(net, x.device), LIBRARY_NORM[norm], epsilon, **settings)
            run = theirs if callable(theirs) else theirs.forward
            found = run(x.clone(), y.clone())
        if not isinstance(found, Tensor) or found.shape != x.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise MarginbenchError(
                f"attack {make.__name__!r} returned {shape}, images of shape {tuple(x.shape)} needed"
            )
        point = inside_box(found.detach().to(x), x)
        return select(is_adversarial(net, point, y), point, x)

    return attack


def from_file(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    *,
    epsilon: float,
    reference: Tensor,
    generator: torch.Generator,
    file: str = "",
    **settings: Any,
) -> Tensor:
    """The attack of the factory that `file` names, as in `my_attack.py:make`; settings go to the factory."""
    attack = foreign(load_factory(file))
    return attack(net, x, y, norm, epsilon=epsilon, reference=reference, generator=generator, **settings)


def load_factory(file: str) -> Factory:
    """The function that `FILE.py:FUNCTION` names.

    Raises:
        MarginbenchError: no such file or function, or the file does not import.
    """
    path_text, _, name = file.rpartition(":")
    path = Path(path_text)
    if path.suffix != ".py" or not name:
        raise MarginbenchError(f"attack file {file!r}: should be like 'my_attack.py:make'")
    if not path.is_file():
        raise MarginbenchError(f"attack file {path}: no such file")
    module = _load(path, path.read_bytes())
    factory: Factory | None = getattr(module, name, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise MarginbenchError(f"attack file {path}: no function {name!r}: {suggest(name, known)}")
    return factory


@lru_cache
def _load(path: Path, source: bytes) -> ModuleType:
    """The module of a file with this content: one that was edited in the meantime is another one."""
    module = ModuleType(f"marginbench_attack_{path.stem}")
    module.__file__ = str(path)
    try:
        exec(compile(source, path, "exec"), vars(module))
    except Exception as error:
        raise MarginbenchError(f"attack file {path}: {one_line(error)}") from error
    return module


def check_factory(file: str, settings: dict[str, Any]) -> None:
    """Can the factory be called with these settings?

    Raises:
        MarginbenchError: no, or there is none.
    """
    try:
        inspect.signature(load_factory(file)).bind(None, "L2", 1.0, **settings)
    except TypeError as error:
        raise MarginbenchError(f"attack file {file}: make(model, norm, epsilon, **settings): {error}") from None


def versioned(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they enter records and hashes: a file by its name and the SHA-256 of its content, without folder."""
    if "file" not in settings:
        return settings
    path_text, _, name = str(settings["file"]).rpartition(":")
    path = Path(path_text)
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    return {**settings, "file": f"{path.name}:{name}", "sha256": digest}
