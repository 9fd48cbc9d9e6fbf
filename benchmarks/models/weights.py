"""State dicts in files of users, under whatever names they were saved."""

import importlib
import logging
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.machine.files import placeholder
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import one_line

log = logging.getLogger(__name__)

NESTED = ("state_dict", "model_state_dict", "model", "net", "network")  # where checkpoints keep the state dict
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module)\.")  # of torch.compile and DataParallel
SHOWN = 3  # keys in a message
DEPTH = 3

State = Mapping[str, Any]


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into the model; nothing but tensors is ever unpickled.

    It may lie inside a checkpoint, and its keys may have a prefix that those of the model lack, or the other way round.

    Raises:
        MarginbenchError: no such file, not a state dict, code in the pickle, or a state dict of another network.
    """
    path = Path(path).expanduser()
    state = _fitting(dict(_states(_read(path), path)), set(model.state_dict()), path)
    _check_floating(state, model.state_dict(), path)
    try:
        report = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # names shapes that differ, below a headline
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise MarginbenchError(f"weights {path}: do not fit the model: {lines[-1]}") from None
    kinds = (("no key", report.missing_keys), ("unexpected key", report.unexpected_keys))
    wrong = [f"{kind} {_few(keys)}" for kind, keys in kinds if keys]
    if wrong:
        raise MarginbenchError(
            f"weights {path}: do not fit the model: {', '.join(wrong)}{_hint(set(state), set(model.state_dict()))}"
        )


def _check_floating(state: State, wanted: State, path: Path) -> None:
    """Integers are no weights: of a quantised network the scales are missing, and without them it is another one.

    Raises:
        MarginbenchError: integers, or quantised values, for a tensor of the model that has floating ones.
    """
    for key, value in state.items():
        mine = wanted.get(key)
        if not isinstance(value, Tensor) or not isinstance(mine, Tensor) or not mine.is_floating_point():
            continue
        if value.is_quantized or not value.is_floating_point():
            kind, own = (str(tensor.dtype).removeprefix("torch.") for tensor in (value, mine))
            raise MarginbenchError(
                f"weights {path}: {key!r} holds {kind}, and the model has {own} there: a quantised network is another"
                " one without its scales. Save the floating weights, or dequantise these first"
            )


def _few(keys: list[str]) -> str:
    shown = ", ".join(repr(key) for key in keys[:SHOWN])
    return shown if len(keys) <= SHOWN else f"{shown}, ... ({len(keys)} in all)"


def _hint(keys: set[str], wanted: set[str]) -> str:
    """A prefix without which more of the keys fit, if there is one."""
    prefixes = {key[: dot.end()] for key in keys for dot in re.finditer(r"\.", key)}
    fits = {p: len({key.removeprefix(p) for key in keys if key.startswith(p)} & wanted) for p in sorted(prefixes)}
    best = max(fits, key=fits.__getitem__, default="")
    if not best or fits[best] <= len(keys & wanted):
        return ""
    return f"; without the prefix {best!r}, {fits[best]} of the model's {len(wanted)} keys are there"


def _fitting(states: Mapping[str, State], wanted: set[str], path: Path) -> State:
    """The state dict that has the keys of the model; if none has, the likeliest one, whose keys will be complained of.

    Raises:
        MarginbenchError: several have.
    """
    renamed = {place: found for place, state in states.items() if (found := _renamed(state, wanted)) is not None}
    known = [place for place in ("", *NESTED) if place in (renamed or states)]
    if len(renamed) > 1 and not known:
        places = " and ".join(map(repr, renamed))
        raise MarginbenchError(f"weights {path}: {places} fit the model: save the one that is meant with torch.save")
    if renamed:
        chosen = known[0] if known else next(iter(renamed))
        others = " and ".join(repr(place) for place in renamed if place != chosen)
        if others:
            log.warning("weights %s: took %r; %s would fit the model too", path, chosen, others)
        return renamed[chosen]
    best = max(states, key=lambda place: len(states[place].keys() & wanted))
    return states[known[0] if known and not states[best].keys() & wanted else best]


def _renamed(state: State, wanted: set[str]) -> State | None:
    """The state dict under the names of the model, if they differ by wrappers or by one prefix."""
    wrapped = {WRAPPERS.sub("", key): key for key in state}
    if len(wrapped) != len(state):
        return None
    bare = {WRAPPERS.sub("", key): key for key in wanted}
    ours, theirs = _prefix(bare), _prefix(wrapped)
    for old, new in (("", ""), (theirs, ours), (theirs, ""), ("", ours)):
        names = {bare.get(new + key.removeprefix(old)): value for key, value in wrapped.items()}
        if names.keys() == wanted:
            return {str(name): state[key] for name, key in names.items()}
    return None


def _prefix(keys: Mapping[str, str]) -> str:
    """The longest `a.b.` that all begin with."""
    parts = [key.split(".")[:-1] for key in keys]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return "".join(f"{part}." for part in shared)


def _states(content: Any, path: Path) -> Iterator[tuple[str, State]]:
    """All state dicts in the content of a file, by the keys that lead to them.

    Raises:
        MarginbenchError: there is none.
    """
    found = list(_search(content, "", DEPTH))
    if not found:
        several = isinstance(content, list | tuple) or (
            isinstance(content, Mapping) and any(isinstance(content.get(key), list | tuple) for key in NESTED)
        )
        problem = "holds a list, and no single state dict" if several else "holds no tensors by name"
        raise MarginbenchError(f"weights {path}: {problem}: save model.state_dict() with torch.save")
    yield from found


def _search(content: Any, place: str, depth: int) -> Iterator[tuple[str, State]]:
    if isinstance(content, list | tuple) and len(content) == 1:
        content = content[0]
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return
    if any(isinstance(value, Tensor) for value in content.values()):
        yield place, content
    for key, value in content.items() if depth else ():
        yield from _search(value, f"{place}.{key}" if place else key, depth - 1)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise MarginbenchError(f"weights {path}: no such file")
    if (problem := placeholder(path)) is not None:
        raise MarginbenchError(f"weights {path}: {problem}")
    if is_torchscript(path):
        raise MarginbenchError(f"weights {path}: is a whole TorchScript model: give it as the model, without weights")
    try:
        if path.suffix == ".safetensors":
            return importlib.import_module("safetensors.torch").load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise MarginbenchError(
            f"weights {path}: needs a package: pip install safetensors; or save the state dict with torch.save"
        ) from None
    except pickle.UnpicklingError as error:
        found = re.search(r"Unsupported (?!operand)\w+:? .*?(?= was not|\. | by default|$)", str(error), re.MULTILINE)
        if found is None:
            problem = "not a state dict saved with torch.save, nor named .safetensors"
            raise MarginbenchError(f"weights {path}: {problem}: save model.state_dict() with torch.save") from None
        raise MarginbenchError(
            f"weights {path}: refused, it is more than tensors ({found[0]}) and unpickling runs code:"
            " save model.state_dict() with torch.save"
        ) from None
    except Exception as error:  # damaged files fail in many ways
        raise MarginbenchError(
            f"weights {path}: not a readable file of weights ({one_line(error)}): copy or download it again"
        ) from None


def is_torchscript(path: Path) -> bool:
    """Whether it is what `torch.jit.save` writes: only that has code beside the weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
