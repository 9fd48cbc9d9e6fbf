"""Which process does which run: a file beside the records, so that processes with one output folder share the work.

A run in progress has a file `<id>.lock`, created whole by the process that holds it and touched every few seconds. The
lock of a dead process is void: at once where its number can be looked up, elsewhere (on another machine, or in another
container, whatever its host name) once it has not been touched for a while. Nothing breaks if two processes do get the
same run: they write the same record.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from marginbench.methods import MarginbenchError

BEAT = 15.0  # seconds between two touches
BOOT, SPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
STALE = 8 * BEAT  # without a touch, and the process is believed gone: clusters' file systems tell times late


@dataclass(frozen=True)
class Holder:
    """The process that does a run."""

    host: str
    pid: int
    method: str
    repetition: int
    since: float  # seconds since the epoch; this time and the next are those of the file system
    touched: float = 0.0  # the last sign of life
    together: int = 1  # trainings that are done at once, with this one
    born: int = 0  # when the process began, in ticks of the kernel: its number may be another's by now; 0: not known
    numbers: str = ""  # whose numbers of processes: of which kernel, since which start, in which container


@contextlib.contextmanager
def lock(runs: Path, run_id: str, method: str, repetition: int, together: int = 1) -> Iterator[bool]:
    """A block that does a run. Yields whether this process got it; if so, it holds it until the end of the block.

    Args:
        together: trainings that are done at once, with this one.

    Raises:
        MarginbenchError: the folder cannot be written.
    """
    path = runs / f"{run_id}.lock"
    pid = os.getpid()
    mine = Holder(socket.gethostname(), pid, method, repetition, 0.0, 0.0, together, _process(pid)[1], _numbers())
    got = _create(path, mine) or (holder(path, _now(runs)) is None and _take_over(path) and _create(path, mine))
    if not got:
        yield False
        return
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, done), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        done.set()
        beating.join()
        path.unlink(missing_ok=True)


def holder(path: Path, now: float | None = None) -> Holder | None:
    """Who holds a lock; None if it is void or gone.

    Args:
        now: seconds since the epoch by the clock of the file system. Default: by that of this machine, which may
            differ, but is read without writing.
    """
    try:
        touched = path.stat().st_mtime
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    if (time.time() if now is None else now) - touched >= STALE:
        return None
    try:
        found = Holder(**{**json.loads(text), "touched": touched})
    except (ValueError, TypeError):  # half written, on a file system without links
        return Holder("?", 0, "?", 0, touched, touched)
    ours = (found.host, found.numbers) == (socket.gethostname(), _numbers())
    return None if ours and not _alive(found.pid, found.born) else found


def holders(runs: Path) -> dict[str, Holder]:
    """The runs in progress in a folder, by id. Writes nothing: whoever asks may not be allowed to."""
    found = {path.stem: holder(path) for path in sorted(runs.glob("*.lock"))}
    return {run_id: who for run_id, who in found.items() if who is not None}


def _create(path: Path, mine: Holder) -> bool:
    """Write a lock unless there is one. It appears whole: who is killed meanwhile leaves nothing that looks held."""
    whole = _beside(path.parent, path.name)
    try:
        with whole.open("w", encoding="utf-8") as file:
            text = json.dumps(asdict(replace(mine, since=os.fstat(file.fileno()).st_mtime)))
            file.write(text)
        _link(whole, path, text)
    except FileExistsError:
        return False
    except OSError as error:
        raise MarginbenchError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with contextlib.suppress(OSError):
            whole.unlink()
    return True


def _link(whole: Path, path: Path, text: str) -> None:
    try:
        os.link(whole, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, such as exFAT
        with path.open("x", encoding="utf-8") as file:
            file.write(text)


def _take_over(path: Path) -> bool:
    """Remove a void lock. Of several processes one succeeds in renaming it."""
    aside = _beside(path.parent, path.name)
    try:
        path.rename(aside)
    except OSError:
        return False
    aside.unlink(missing_ok=True)
    return True


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def _now(folder: Path) -> float:
    """The time of the file system, which need not be this machine's."""
    probe = _beside(folder, "clock")
    try:
        probe.touch()
    except OSError as error:
        raise MarginbenchError(f"{folder}: cannot be written ({error.strerror})") from None
    now = probe.stat().st_mtime
    probe.unlink(missing_ok=True)
    return now


def _beside(folder: Path, name: str) -> Path:
    """A hidden file that nobody else uses."""
    return folder / f".{name}.{secrets.token_hex(8)}"


def _numbers() -> str:
    """Processes that agree in this see each other's numbers. "" where that cannot be read: not on Linux."""
    try:
        return f"{BOOT.read_text(encoding='ascii').strip()} {SPACE.readlink()}"
    except OSError:
        return ""


def _alive(pid: int, born: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # not ours, but there
        return True
    state, began = _process(pid)
    return state not in ("Z", "X") and (not born or began == born)  # Z: killed, and its parent has not yet asked


def _process(pid: int) -> tuple[str, int]:
    """Its state, and when it began in ticks of the kernel; "" and 0 where that cannot be read: not on Linux."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])
