"""As many rows at once as fit into memory."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from marginbench.benchmarks.machine.allocations import Allocations, OverBudgetError
from marginbench.benchmarks.machine.budget import available, gigabytes

ROWS = 1000  # images at once, unless there is a reason for another number
APPETITE = 2**32  # bytes that a pass takes on a CPU at most: the same number of images wherever there is more
IMAGES = 32  # copies of an image that an attack keeps
T = TypeVar("T")
_CPU = ("can't allocate memory", "not enough memory", "bad_alloc", "could not create a memory")  # of a RuntimeError


@dataclass
class Chunks:
    """Calls a function on slices of at most `size` rows; on fewer, from then on, once memory runs out."""

    size: int

    def map(self, function: Callable[[slice], T], total: int) -> list[T]:
        """`function` on consecutive slices that cover range(total).

        Raises:
            RuntimeError, MemoryError: not even one row fits into memory; or whatever else `function` raises.
        """
        results: list[T] = []
        start = 0
        while start < total:
            try:
                results.append(function(slice(start, min(start + self.size, total))))
            except (RuntimeError, MemoryError) as error:
                if self.size == 1 or not out_of_memory(error):
                    raise
            else:
                start += self.size
                continue
            self.size = -(-min(self.size, total - start) // 2)  # not in the handler: its traceback keeps tensors
            gc.collect()  # and so do cycles of its frames
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return results

    def rows(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`function(x)` for x [N, ...] and a function that treats rows independently: [N, ...]."""
        return torch.cat(self.map(lambda part: function(x[part]), len(x)))


def out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host ran out of memory, or would have done."""
    if isinstance(error, torch.OutOfMemoryError | OverBudgetError | MemoryError):
        return True
    return any(text in str(error) for text in _CPU)


def does_not_fit(error: BaseException, device: torch.device) -> str:
    """Why there is no answer although one image was tried alone, in the words of the tables."""
    if isinstance(error, OverBudgetError):
        needed, free = gigabytes(error.needed), gigabytes(error.limit)
        least = "at least" if needed != free else "more than"
        return f"needs {least} {needed} for one image; {free} are available (--memory)"
    return f"needs more than the {gigabytes(available(device))} that are available for one image (--memory)"


def rows_at_once(net: nn.Module, x: Tensor, *, most: int = ROWS, gradients: bool = True) -> int:
    """How many of the images x [N, C, H, W] may go through a network at once, and their gradients back.

    One image does so first, and its tensors are counted. `most` where that many take no more than 4 GiB, and half of
    what is available; otherwise fewer, a power of two, so that a little more or less memory changes nothing.
    """
    if len(x) == 0:
        return most
    free = available(x.device)
    whole = free // 2 if x.is_cuda else min(free // 2, APPETITE)
    image = x[:1].detach().clone().requires_grad_(gradients)
    try:
        with Allocations(whole) as made, torch.set_grad_enabled(gradients):
            logits = net(image)
            if gradients and logits.requires_grad:
                torch.autograd.grad(logits.sum(), image, allow_unused=True)
    except OverBudgetError:
        return 1
    except Exception:  # whatever a network does not like: whoever asks next is told
        return most
    fitting = int(whole // (made.peak + (IMAGES if gradients else 1) * image.nbytes))
    return most if fitting >= most else 1 << max(fitting.bit_length() - 1, 0)
