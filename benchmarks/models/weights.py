"""State dicts in files of users, under whatever names they were saved."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from marginbench.benchmarks.models.weights_file import SAVE, read_weights
from marginbench.methods import MarginbenchError
from marginbench.methods.held import duplicate

log = logging.getLogger(__name__)

NESTED = ("state_dict", "model_state_dict", "model", "net", "network")  # where checkpoints keep the state dict
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module)\.")  # of torch.compile and DataParallel
COUNTS = {"n_averaged"}  # of AveragedModel, beside the weights
SHOWN = 3  # keys in a message
DEPTH = 3

State = Mapping[str, Any]


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into the model, of which what is on the device meta gets values on the CPU.

    It may lie inside a checkpoint, and its keys may have a prefix that those of the model lack, or the other way round.

    Raises:
        MarginbenchError: see `read_weights`; or not a state dict, or one of another network.
    """
    path = Path(path).expanduser()
    states = dict(_states(read_weights(path), path))
    for tensor in model.state_dict(keep_vars=True).values():
        if isinstance(tensor, Tensor) and tensor.is_meta:
            torch.utils.swap_tensors(tensor, _on_cpu(tensor))  # also where it is tied
    state = _fitting(states, model, path)
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


def _on_cpu(tensor: Tensor) -> Tensor:
    """What takes the place of a parameter or buffer on the device meta."""
    if is_lazy(tensor):
        return type(tensor)(device="cpu", dtype=tensor.dtype)  # type: ignore[call-arg]
    zeros = torch.zeros_like(tensor, device="cpu")
    return nn.Parameter(zeros, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else zeros


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


def _fitting(states: Mapping[str, State], model: nn.Module, path: Path) -> State:
    """The state dict that has the keys of the model; if none has, the likeliest one, whose keys will be complained of.

    Raises:
        MarginbenchError: several have.
    """
    wanted = set(model.state_dict())
    renamed = _all_renamed(states, wanted, lambda state: state.keys() == wanted)
    renamed = renamed or _all_renamed(states, wanted, lambda state: _loads(state, model))
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


def _all_renamed(states: Mapping[str, State], wanted: set[str], fits: Callable[[State], bool]) -> dict[str, State]:
    """Of each state dict the first renaming that fits, if one does."""
    found = {place: next(filter(fits, _renamings(state, wanted)), None) for place, state in states.items()}
    return {place: state for place, state in found.items() if state is not None}


def _loads(state: State, model: nn.Module) -> bool:
    """Whether torch takes it as it is: of older forms, as without counts of batches, it knows how to read them."""
    if not state.keys() & model.state_dict().keys():
        return False
    try:
        report = duplicate(model).load_state_dict(state, strict=False)
    except RuntimeError:  # other shapes
        return False
    return not report.missing_keys and not report.unexpected_keys


def _renamings(state: State, wanted: set[str]) -> Iterator[State]:
    """The state dict under the names of the model, if they differ by wrappers or by one prefix."""
    wrapped = {WRAPPERS.sub("", key): key for key in state if key not in COUNTS - wanted}
    if len(wrapped) != len(state.keys() - (COUNTS - wanted)):
        return
    bare = {WRAPPERS.sub("", key): key for key in wanted}
    ours, theirs = _prefix(bare), _prefix(wrapped)
    for old, new in (("", ""), (theirs, ours), (theirs, ""), ("", ours)):
        names = {name: new + name.removeprefix(old) for name in wrapped}
        yield {bare.get(names[name], names[name]): state[key] for name, key in wrapped.items()}


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
        raise MarginbenchError(f"weights {path}: {problem}: {SAVE}")
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
