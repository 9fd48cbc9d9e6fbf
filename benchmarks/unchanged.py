"""Is a network still what it was before somebody was asked about it? And does it stay so when it is called?"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from marginbench.methods import MarginbenchError
from marginbench.methods.held import Place, duplicate, held
from marginbench.methods.maths.rounding import in_reach

FEW = 8  # images on which a network is asked whether it still answers the same
ROUNDING = 4  # units in the last place of the largest entry: steps of an iteration that has arrived
MOST = 32  # values of which each is looked at alone


class NetworkState:
    """What those who are asked about a network must leave as it was.

    Buffers, and what else it keeps, may differ where answers do not: some networks count calls. That a network is put
    into eval mode is no change: as a whole it is asked in that.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = duplicate(net)

    def differs_from(self, net: nn.Module, x: Tensor) -> str | None:
        """What is not as it was, in a word, or None; images x [B, C, H, W] are asked about, a few of them.

        Raises:
            MarginbenchError: the network changes itself, whoever calls it.
        """
        modes, before = _in_training(net), _in_training(self.net)
        if any(training and not before.get(name, True) for name, training in modes.items()):
            return "modes"
        weights, known = dict(net.named_parameters()), dict(self.net.named_parameters())
        if weights.keys() != known.keys() or not all(equal(p, known[name]) for name, p in weights.items()):
            return "weights"
        x = x[:FEW]
        if not (names := _deciding(self.net, net, x)):
            return None
        if own := changes_itself(self.net, x, batches(x)):
            raise MarginbenchError(self_changing(own))
        return "buffers" if names[0] in dict(net.named_buffers()) else "attributes"


def _in_training(net: nn.Module) -> dict[str, bool]:
    """By name; a frozen ScriptModule has no mode."""
    return {name: m.training for name, m in net.named_modules() if hasattr(m, "training")}


def changes_itself(net: nn.Module, x: Tensor, calls: Sequence[Tensor]) -> list[str]:
    """Names of what the network changes when it is called, if its answers on x depend on that.

    A step that rounding would hide is seen too: what has changed is changed further, and the network asked again.

    Args:
        net: in eval mode; copies of it are called.
        x: [B, C, H, W] images in [0, 1].
        calls: what it is called with; after each it is asked about x again.
    """
    was, called = duplicate(net), duplicate(net)
    for batch in calls:
        answers(called, batch, gradients=batch is calls[0])
        if names := _deciding(was, called, x):  # after some more, a mean may be back where it was
            return names
    return []


def self_changing(names: Sequence[str]) -> str:
    """What is said of such a network."""
    shown = list(dict.fromkeys(name.partition("[")[0] for name in names))
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return (
        f"the model changes itself when it is called ({', '.join(shown[:3])}{more}): what it answers depends on the"
        " images before; keep that constant in eval mode"
    )


def _noise(x: Tensor) -> Tensor:
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)


def disturbed(x: Tensor) -> Tensor:
    """[2 B, ...], noise and the images with some of it: what rounds or limits pixels does nothing to many images."""
    noise = _noise(x)
    return torch.cat([noise, (x + 0.1 * noise).clamp(0, 1)])


def batches(x: Tensor) -> list[Tensor]:
    """Other images in [0, 1] of the shape of x [B, ...], then other numbers of images, then x."""
    noise = _noise(x)
    other = 1 - x
    return [other, noise, x.new_zeros(x.shape), x.new_ones(x.shape), other[:1], torch.cat([noise, other]), x]


@torch.no_grad()
def _deciding(was: nn.Module, now: nn.Module, x: Tensor) -> list[str]:
    """Names of what two states of a network hold otherwise, if the logits of x depend on it.

    A network that answers itself otherwise in the same state has no say.
    """
    before, after = held(was), held(now)
    names = [n for n, place in after.items() if n not in before or not _alike(place.value, before[n].value)]
    if not names or not len(x):
        return []
    wanted = answers(duplicate(now), x)
    if wanted is None:
        return [] if answers(duplicate(was), x) is None else names
    if not agree(wanted, answers(duplicate(now), x)):
        return []

    def decide(some: Sequence[str], change: Callable[[Place, Place | None], None]) -> bool | None:
        """None where the network does not work so."""
        changed = duplicate(now)
        places = held(changed)
        try:
            for name in reversed(some):  # the last item of a list goes first
                change(places[name], before.get(name))
        except Exception:  # a number that is too large, a list that is shorter now
            return None
        found = answers(changed, x)
        return None if found is None else not agree(wanted, found)

    for change in (_back, _further):
        if (together := decide(names, change)) is not False:
            alone = [name for name in names[:MOST] if decide([name], change)]
            if alone or together:
                return alone or names
    return []


def _back(place: Place, before: Place | None) -> None:
    if before is None:
        place.remove()
    else:
        place.put(before.value)


def _further(place: Place, before: Place | None) -> None:
    """Numbers in the same direction, as far as they are large, or 1; counts by a thousand times as many."""
    if before is None or type(place.value) is not type(before.value) or isinstance(place.value, bool):
        return
    now, was = place.value, before.value
    if isinstance(now, int | float):
        kind = torch.int64 if isinstance(now, int) else torch.float64
        place.put(_beyond(torch.tensor(now, dtype=kind), torch.tensor(was, dtype=kind)).item())
    elif isinstance(now, Tensor) and (now.shape, now.dtype) == (was.shape, was.dtype) and now.dtype != torch.bool:
        place.put(_beyond(now, was))


def _beyond(now: Tensor, was: Tensor) -> Tensor:
    if not now.is_floating_point():
        return now + 1000 * (now - was)
    step = (now - was).nan_to_num(0, 0, 0)
    size = now.abs().nan_to_num(0, 0, 0).amax().clamp_min(1)
    return now + step / step.abs().amax().clamp_min(torch.finfo(now.dtype).tiny) * size


def answers(net: nn.Module, x: Tensor, gradients: bool = False) -> Tensor | None:
    """Logits, with the same draws from torch's generators each time; None where it fails, which others will say."""
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.set_grad_enabled(gradients):
        torch.manual_seed(0)
        try:
            out = net(x.clone().requires_grad_(gradients))
        except Exception:  # whatever its code raises
            return None
    return out.detach() if isinstance(out, Tensor) else None


def agree(wanted: Tensor, found: Tensor | None, relative: float = 1e-5, of_largest: float = 1e-6) -> bool:
    """Whether logits [B, K] are those wanted, up to a share of each, or of the largest that is no mask of -1e9."""
    if found is None or wanted.shape != found.shape:
        return False
    if not wanted.is_floating_point() or not wanted.ndim or not wanted.numel():  # no logits, which others will say
        return torch.equal(found, wanted)
    rows = wanted.flatten(1) if wanted.ndim > 1 else wanted[:, None]
    largest = float(rows.where(in_reach(rows), 0).abs().max())
    return torch.allclose(found.double(), wanted.double(), relative, of_largest * largest, equal_nan=True)


def _alike(now: Any, was: Any) -> bool:
    """The same up to rounding; of objects that hold no numbers, nothing is asked."""
    if type(now) is not type(was):
        return False
    if isinstance(now, tuple):
        return len(now) == len(was) and all(map(_alike, now, was))
    if isinstance(now, np.ndarray):
        return np.array_equal(now, was)
    if isinstance(now, Tensor):
        return _near(now, was)
    return not isinstance(now, int | float | complex | str) or now == was


def _near(now: Tensor, was: Tensor) -> bool:
    if now.shape != was.shape or now.dtype != was.dtype:
        return False
    if equal(now, was) or not now.is_floating_point():
        return equal(now, was)
    unit = torch.finfo(now.dtype).eps * float(was.abs().nan_to_num(0, 0, 0).max())
    return torch.allclose(now, was, rtol=0, atol=ROUNDING * unit, equal_nan=True)


def equal(a: Tensor, b: Tensor) -> bool:
    """The same type and values; NaN equals NaN."""
    return a.dtype == b.dtype and (torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num()))
