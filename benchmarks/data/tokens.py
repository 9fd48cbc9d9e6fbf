"""Sentences to token ids, once for each checkpoint and length: the result is kept beside the data."""

import json
import logging
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from marginbench.benchmarks.data.arrays import Arrays
from marginbench.benchmarks.data.checkpoint import WORDS, checkpoint_digest
from marginbench.benchmarks.data.glue import Sentences
from marginbench.benchmarks.data.text import Text, as_tensor
from marginbench.benchmarks.extras import TEXT
from marginbench.benchmarks.machine.files import UnwritableError, digest, write_atomically
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import all_lines

log = logging.getLogger(__name__)

BLOCK = 10_000  # rows that are tokenised at once
PARTS = ("train", "test")


def tokenised(found: Sentences, checkpoint: Path, max_length: int, data_dir: Path) -> Arrays:
    """The arrays of a task in the tokens of a checkpoint.

    [CLS] sentence [SEP], or [CLS] first [SEP] second [SEP]. What is longer than `max_length` loses its end, token by
    token of the longer sentence of a pair. All rows are padded to the longest, at most `max_length`.

    Raises:
        MarginbenchError: transformers is not installed, or the folder holds no tokenizer that it can read.
    """
    meaning = checkpoint_digest(checkpoint)
    cache = data_dir / "tokens" / f"{found.name}-{digest([found.sha256, meaning, max_length])[:16]}.npz"
    if (kept := _read(cache)) is None:
        tokenizer = _tokenizer(checkpoint)
        rows = {part: _rows(tokenizer, getattr(found, part), max_length) for part in PARTS}
        length = max(len(ids) for part in rows.values() for ids, _ in part)
        pad = tokenizer.pad_token_id or 0
        kept = {part: as_tensor(rows[part], length, pad) for part in PARTS}
        _keep(cache, kept)
    labels = [np.array(labels, np.int64) for labels in (found.train_labels, found.test_labels)]
    _check_words(checkpoint, max(int(kept[part][:, 0].max()) for part in PARTS))
    text = Text(meaning, found.task.metrics, checkpoint)
    return Arrays(kept["train"], labels[0], kept["test"], labels[1], levels=1, text=text)


def _tokenizer(checkpoint: Path) -> Any:
    TEXT.check(f"the tokenizer of checkpoint {checkpoint}")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except Exception as error:  # damaged files fail in many ways
        read = f"no tokenizer can be read from {WORDS} ({all_lines(error)})"
        raise MarginbenchError(f"checkpoint {checkpoint}: {read}") from None


def _check_words(checkpoint: Path, largest: int) -> None:
    """Complain of ids for which the network has no embedding."""
    try:
        words = int(json.loads((checkpoint / "config.json").read_text())["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MarginbenchError(f"{checkpoint / 'config.json'}: no vocab_size can be read ({error})") from None
    if largest >= words:
        raise MarginbenchError(
            f"checkpoint {checkpoint}: its tokenizer gives the id {largest}, and its network has {words} words: are"
            " all its files of one model?"
        )


def _rows(tokenizer: Any, sentences: Sequence[tuple[str, ...]], max_length: int) -> list[tuple[list[int], list[int]]]:
    """Token ids, and segments from 1 on."""
    rows = []
    for start in range(0, len(sentences), BLOCK):
        columns = [list(column) for column in zip(*sentences[start : start + BLOCK], strict=True)]
        out = tokenizer(*columns, truncation="longest_first", max_length=max_length, return_token_type_ids=True)
        rows += [
            (ids, [1 + kind for kind in kinds])
            for ids, kinds in zip(out["input_ids"], out["token_type_ids"], strict=True)
        ]
    return rows


def _read(cache: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(cache, allow_pickle=False) as file:
            return {key: file[key] for key in PARTS}
    except FileNotFoundError:
        return None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        log.warning("%s: cannot be read (%s): made again", cache, error)
        return None


def _keep(cache: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, buffer.getvalue())
    except (OSError, UnwritableError) as error:  # the next process tokenises again
        log.info("token ids are not kept: %s", error)
