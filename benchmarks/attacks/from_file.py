"""Attacks from a user's file: whatever turns images and labels into adversarial images can join.

    [evaluation.attacks]
    mine = { file = "my_attack.py:make", steps = 20 }
    theirs = { file = "my_attack.py:blind", gradient = false }

The function is a `Factory`, or an attack decorated with `@attack`. `gradient`, `minimum_norm` and `control` say what is
true of the attack, see `attack.Attack`: in the table, or as an attribute of the function or of the file.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marginbench.benchmarks.attacks._wrap import LIBRARY_NORM, Logits, isolated
from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.attacks.ray import inside_box, is_adversarial, or_inside, select
from marginbench.benchmarks.estimator import Query
from marginbench.methods import MarginbenchError
from marginbench.methods.userfile import load_function, load_user_file

Factory = Callable[..., Any]
"""make(model, norm, epsilon, **settings): an attack that is called with images [B, C, H, W] and labels [B].

`model` maps images in [0, 1] to logits that are standardised (see `Logits`; `model.net` gives them as they are),
`norm` is "L2" or "Linf", `epsilon` a radius in pixels. The attack returns images of the same shape; attacks with
`forward(images, labels)` and no `__call__` are called by that. The attacks of torchattacks are of this kind:

    def make(model, norm, epsilon, steps=20):
        return torchattacks.PGDL2(model, eps=epsilon, steps=steps)
"""

TRAITS = ("gradient", "minimum_norm", "control")


def foreign(make: Factory) -> Attack:
    """An attack from a factory, to which settings go.

    It runs with frozen parameters, which get no gradients, in a forked random state that is seeded from the query's
    generator, and cannot change modes. Pixels are clamped to the box, and a point that is not adversarial becomes x.
    What is not a number stays: it counts as the pixel of x.
    """

    def propose(q: Query, **settings: Any) -> Tensor:
        if len(q.x) == 0:
            return q.x.clone()
        with isolated(q.net, q.generator), torch.enable_grad():
            theirs = make(Logits(q.net, q.x.device), LIBRARY_NORM[q.norm], q.epsilon, **settings)
            run = theirs if callable(theirs) else theirs.forward
            found = run(q.x.clone(), q.y.clone())
        if not isinstance(found, Tensor) or found.shape != q.x.shape:
            return found  # type: ignore[no-any-return]  # refused by `Attack.propose`
        found = found.detach().to(q.x)
        point = or_inside(q.net, inside_box(found, q.x), q.y)
        return torch.where(found.isnan(), found, select(is_adversarial(q.net, point, q.y), point, q.x))

    return Attack(getattr(make, "__name__", "foreign"), propose)


def load_attack(name: str, settings: Mapping[str, Any]) -> Attack:
    """The attack that `settings["file"]` names, as in `my_attack.py:make`, with the other settings.

    Args:
        name: the suite's for the attack.

    Raises:
        MarginbenchError: no such file or function, it does not take the settings, a trait is neither true nor false, or
            the file has changed since the suite was read: records would name the other version.
    """
    thing, path, source = load_function(str(settings["file"]), "attack")
    if settings.get("sha256", source) != source:
        raise MarginbenchError(f"attack {path}: the file has changed since the suite was read; start again")
    rest = {key: value for key, value in settings.items() if key not in ("file", "sha256", *TRAITS)}
    if isinstance(thing, Attack):
        found = thing.configured(rest)
    else:
        try:
            inspect.signature(thing).bind(None, "L2", 1.0, **rest)
        except TypeError as error:
            raise MarginbenchError(f"attack {path}: make(model, norm, epsilon, **settings): {error}") from None
        found = foreign(partial(thing, **rest))
    in_file = vars(load_user_file(path, "attack"))

    def trait(key: str) -> bool:
        value = settings.get(key, getattr(thing, key, in_file.get(key, getattr(found, key))))
        if not isinstance(value, bool):
            raise MarginbenchError(f"attack {path}: {key}={value!r}: should be true or false")
        return value

    gradient, minimum_norm, control = map(trait, TRAITS)
    return replace(found, name=name, gradient=gradient, minimum_norm=minimum_norm, control=control)


def versioned(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with the SHA-256 of the file that they name, as it is executed; as they are where it cannot be."""
    if "file" not in settings or "sha256" in settings:
        return settings
    try:
        return {**settings, "sha256": load_function(str(settings["file"]), "attack").source}
    except MarginbenchError:  # reported when the attack is configured
        return settings


def without_folder(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they enter records and hashes: a file by its name."""
    if "file" not in settings:
        return settings
    path, _, name = str(settings["file"]).rpartition(":")
    return {**settings, "file": f"{Path(path).name}:{name}"}
