"""Where the numbers of a training go while it lasts, besides its record: to TensorBoard, for one."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from marginbench.benchmarks.machine.files import UnwritableError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Sink(Protocol):
    """Takes numbers by name; those of one name make a curve over optimiser steps."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Note the numbers after `step` optimiser steps. A training that is resumed logs some steps again."""


class TensorBoard:
    """Event files in one folder for each training; what was logged is on disk after every call.

    A resumed training writes another file, whose first step makes void what the interrupted one had logged from there
    on. As a context manager it closes the file.

    Raises, when it logs or closes:
        UnwritableError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> "TensorBoard":
        return self

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with self._told():
            if self._writer is None:
                self._writer = SummaryWriter(self._folder, purge_step=step)
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()  # a process may be killed, and resumes from a checkpoint after this step

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            with self._told():
                self._writer.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnwritableError(f"{self._folder}: cannot be written ({error.strerror})") from None
