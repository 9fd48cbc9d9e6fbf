"""What records the steps of one or several trainings and replays them: a CUDA graph; on a CPU, the tape of the tests.

A graph holds the operations and the memory they work on. The steps of several trainings are parallel branches of one
graph, each on a stream of its own: small kernels of one fill the gaps that those of another leave on the device.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch

from marginbench.benchmarks.machine.seeds import Draws
from marginbench.methods import Loss
from marginbench.methods.errors import one_line

Side = Callable[[int], AbstractContextManager[None]]  # a block on the stream of that branch


class CannotRecordError(RuntimeError):
    """The work cannot be recorded; none of it was done."""

    def __init__(self, why: str, branch: int | None = None) -> None:
        super().__init__(why)
        self.branch = branch  # whose work it was, if that is known


@dataclass(frozen=True)
class Branch:
    """The step of one training, as it is recorded."""

    do: Callable[[], Loss]
    again: Callable[[], Loss]  # the same, where nothing is noted
    generator: torch.Generator  # of the method's random numbers
    draws: Draws  # of dropout


class Recorder(Protocol):
    """Holds one recording."""

    def watch(self, work: Callable[[], Loss]) -> tuple[Loss, str]:
        """Do the work; return its result, and why it cannot be recorded, or an empty text."""

    def record(self, branches: Sequence[Branch]) -> list[Loss]:
        """Record the branches without doing them, replacing an older recording; return where results will be.

        Raises:
            CannotRecordError: the device refuses, or a branch raises.
        """

    def replay(self) -> None:
        """Do the recorded work."""

    def sides(self) -> AbstractContextManager[Side]:
        """A block whose parts may be done at the same time, each in a block of its own."""


class CudaGraph:
    """Records a CUDA graph.

    Switches to a side stream: the default stream cannot be captured.
    """

    def __init__(self, device: torch.device) -> None:
        torch.cuda.synchronize(device)
        torch.cuda.set_stream(_stream(device, 0))
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None

    def watch(self, work: Callable[[], Loss]) -> tuple[Loss, str]:
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = work()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        waits = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
        return result, f"waits for the device ({waits[0].filename}, line {waits[0].lineno})" if waits else ""

    def record(self, branches: Sequence[Branch]) -> list[Loss]:
        self._graph = None  # frees its memory for the new one
        graph = torch.cuda.CUDAGraph()
        for branch in branches:
            for generator in (branch.generator, branch.draws.generator):
                if generator is not None:
                    graph.register_generator_state(generator)
        stream = torch.cuda.current_stream()
        results: list[Loss] = []
        refused: Exception | None = None
        capture = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")  # others may use the device
        try:
            with capture, self.sides() if len(branches) > 1 else nullcontext(here) as side:
                for number, branch in enumerate(branches):
                    with side(number):
                        try:
                            results.append(branch.do())
                        except Exception as error:  # the sides must be joined before the recording can end
                            refused = error
                            break
        except RuntimeError as error:  # ending a failed recording fails, too: the context holds the cause
            if refused is None:
                raise CannotRecordError(one_line(error.__context__ or error)) from error
        if refused is not None:
            raise CannotRecordError(one_line(refused), len(results)) from refused
        self._graph = graph
        return results

    def replay(self) -> None:
        assert self._graph is not None
        self._graph.replay()

    @contextmanager
    def sides(self) -> Iterator[Side]:
        main, used = torch.cuda.current_stream(), set[torch.cuda.Stream]()
        fork = main.record_event()

        @contextmanager
        def side(number: int) -> Iterator[None]:
            stream = _stream(self._device, 1 + number)
            stream.wait_event(fork)
            used.add(stream)
            with torch.cuda.stream(stream):
                yield

        yield side
        for stream in used:
            main.wait_stream(stream)


def here(_: int) -> AbstractContextManager[None]:
    """A `Side` where nothing is done at the same time."""
    return nullcontext()


@cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    """The same for all trainings, since each stream has a memory cache of its own."""
    return torch.cuda.Stream(device)
