"""What a model does, so that the record of one model is not taken for that of another.

Weights and source do not say it: an edited `forward` in a notebook, a changed attribute or a changed module that the
model imports leave both as they are. So a record keeps what its model answered, and is reused only for a model that
answers the same. Records are looked up by comparison and not by a hash of rounded numbers: two machines that round
differently would get two hashes wherever a number lies near the edge of its rounding.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.device import no_tf32
from marginbench.methods import Net

NOISE = 0.1  # pixels: how far the moved images are
DIRECTIONS = 4
BLOCK = 32  # images at once, always: the noise must not depend on the memory
LOGITS = 1e-3  # of their spread: below this, margins are the same
SLOPES = 1e-2  # of their root mean square
KINKS = 0.05  # share of slopes that may differ: where a ReLU is at 0, rounding chooses one of two gradients


@dataclass(frozen=True)
class Answers:
    """Arrays of a record, float32, for N images and K classes."""

    logits: np.ndarray  # [N, K]
    moved_logits: np.ndarray  # [N, K], of the images plus noise: what a step function or a filter in front changes
    random_logits: np.ndarray  # [N, K], of noise of any brightness: what is decided by pixels that no image has
    slopes: np.ndarray  # [N, 4], derivatives in random directions at the moved images: what `detach` changes

    def arrays(self) -> dict[str, np.ndarray]:
        """By their names in a record."""
        return {f"answers_{name}": array for name, array in vars(self).items()}

    def digest(self) -> str:
        """SHA-256 of the bytes: of one machine, the same model has one."""
        sha = hashlib.sha256()
        for name, array in self.arrays().items():
            sha.update(f"{name} {array.shape} ".encode())
            sha.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return sha.hexdigest()

    def match(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether these are the answers in a record, up to what another machine or number of threads may change."""
        own = self.arrays()
        if any(name not in arrays or arrays[name].shape != new.shape for name, new in own.items()):
            return False
        logits, moved, random, slopes = (arrays[name] for name in own)
        return bool(
            not _differing(self.logits, logits, LOGITS).any()
            and not _differing(self.moved_logits, moved, LOGITS).any()
            and not _differing(self.random_logits, random, LOGITS).any()
            and _differing(self.slopes, slopes, SLOPES).mean() <= KINKS
        )


def ask(net: Net, split: Split) -> Answers:
    """What the network answers on all images of the split.

    The slopes are u . grad_x sum_k c_k z_k(x), with random signs u and normal c, the same in every call. Torch's
    global generators are seeded meanwhile, so that the answers of a model that draws from them are the same twice.

    Raises:
        Exception: whatever the network raises.
    """
    device = split.device
    stream = seeds.generator("cpu", "answers")

    def block(start: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = split.images(slice(start, start + BLOCK))
        level, contrast = torch.rand((2, len(x), *(1 for _ in x.shape[1:])), generator=stream)
        other = (level + contrast * (2 * torch.rand(x.shape, generator=stream) - 1)).clamp(0, 1)
        noise = (2 * torch.rand(x.shape, generator=stream) - 1) * NOISE
        moved = (x + noise.to(device)).clamp(0, 1).requires_grad_()
        with torch.no_grad():
            logits, elsewhere = net(x), net(other.to(x))
        with torch.enable_grad():
            z = net(moved)
            weights = torch.randn(z.shape, generator=stream).to(device)
            total = torch.where(z.isfinite(), weights * z, 0).sum()  # a class may be masked by -inf
            gradient = torch.autograd.grad(total, moved)[0]
        signs = 2.0 * torch.randint(2, (DIRECTIONS, len(x), x[0].numel()), generator=stream) - 1
        return logits, z.detach(), elsewhere, torch.einsum("nd,knd->nk", gradient.flatten(1), signs.to(device))

    with no_tf32(), seeds.seeded(device, "answers"):
        blocks = [block(start) for start in range(0, len(split), BLOCK)]
    return Answers(*(torch.cat(column).float().cpu().numpy() for column in zip(*blocks, strict=True)))


def _differing(new: np.ndarray, old: np.ndarray, tolerance: float) -> np.ndarray:
    """Where two arrays [N, K] differ by more than a share of the new one's spread; NaN equals NaN, as inf does inf."""
    known = np.isfinite(new)
    values = np.where(known, new, 0).astype(np.float64)
    means = values.sum(0) / known.sum(0).clip(1)
    spread = np.sqrt((np.where(known, values - means, 0) ** 2).sum() / max(known.sum(), 1))
    allowed = tolerance * spread + 1e-6 * np.abs(values).max(0)  # by column: one may be a mask of -1e9
    differing: np.ndarray = ~np.isclose(new, old, rtol=0, atol=allowed, equal_nan=True)
    return differing
