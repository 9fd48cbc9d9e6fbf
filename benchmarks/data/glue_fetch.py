"""GLUE from the Hugging Face hub, once, by `datasets`: written as the files that GLUE itself gives."""

import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from marginbench.benchmarks.machine.files import write_atomically
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import one_line

log = logging.getLogger(__name__)

HUB = "nyu-mll/glue"
PATIENCE = 10.0  # seconds in which the hub must answer


def fetch(
    folder: Path,
    config: str,
    files: Mapping[str, str],
    lines: Callable[[Iterable[Mapping[str, Any]]], Iterator[str]],
) -> None:
    """Write the files of a task.

    Args:
        config: the task, as the hub calls it.
        files: name to split.
        lines: of a file from the rows of a split.

    Raises:
        MarginbenchError: `datasets` is not installed, or the hub gives nothing.
    """
    if importlib.util.find_spec("datasets") is None:
        raise MarginbenchError("it is not fetched, since `datasets` is not installed")
    try:
        from huggingface_hub import HfApi

        HfApi().dataset_info(HUB, timeout=PATIENCE)  # `datasets` tries for half a minute
        import datasets

        log.info("fetching %s of %s into %s", config, HUB, folder)
        content = {name: datasets.load_dataset(HUB, config, split=split) for name, split in files.items()}
        folder.mkdir(parents=True, exist_ok=True)
    except Exception as error:  # of the hub, of the network, of the disk
        raise MarginbenchError(f"fetching it failed ({one_line(error)})") from None
    for name, rows in content.items():
        write_atomically(folder / name, "".join(f"{line}\n" for line in lines(rows)).encode())
