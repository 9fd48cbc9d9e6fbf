"""As many rows at once as fit into memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

ROWS = 1000  # images at once, unless there is a reason for another number
T = TypeVar("T")
_CPU = ("can't allocate memory", "not enough memory")  # torch raises a plain RuntimeError there


@dataclass
class Chunks:
    """Calls a function on slices of at most `size` rows; on fewer, from then on, once memory runs out."""

    size: int

    def map(self, function: Callable[[slice], T], total: int) -> list[T]:
        """`function` on consecutive slices that cover range(total).

        Raises:
            RuntimeError: not even one row fits into memory; or whatever else `function` raises.
        """
        results: list[T] = []
        start = 0
        while start < total:
            try:
                results.append(function(slice(start, min(start + self.size, total))))
            except RuntimeError as error:
                if self.size == 1 or not out_of_memory(error):
                    raise
            else:
                start += self.size
                continue
            self.size = -(-min(self.size, total - start) // 2)  # not in the handler: its traceback keeps tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return results

    def rows(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`function(x)` for x [N, ...] and a function that treats rows independently: [N, ...]."""
        return torch.cat(self.map(lambda part: function(x[part]), len(x)))


def out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _CPU)
