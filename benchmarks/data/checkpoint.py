"""Pretrained networks of sentences, in the file layout of the Hugging Face hub."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from marginbench.benchmarks.extras import TEXT
from marginbench.benchmarks.machine.files import placeholder
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import one_line

NEEDED = ("config.json", "model.safetensors")
WORDS = ("vocab.txt", "tokenizer.json")  # either tells the words of token ids
FILES = (*NEEDED, *WORDS, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def find_checkpoint(name: str, places: Iterable[Path]) -> Path:
    """The folder of a checkpoint.

    Args:
        name: of a folder in one of the places, or of a model of the hub, as in google-bert/bert-base-uncased: what was
            downloaded before is taken, and the hub asked only where there is none.

    Raises:
        MarginbenchError: there is none, or a file is missing; it says what was looked for where, and how to get it.
    """
    looked = [place / name for place in places]
    found = next((folder for folder in looked if folder.is_dir()), None) or _from_hub(name, looked)
    missing = [file for file in NEEDED if not (found / file).is_file()]
    if not any((found / file).is_file() for file in WORDS):
        missing.append(" or ".join(WORDS))
    if missing:
        pickled = " (pickled weights are not read: save the model again, as safetensors)" * ("model" in missing[0])
        raise MarginbenchError(f"checkpoint {found}: no {', '.join(missing)}{pickled}")
    for file in FILES:
        if (found / file).is_file() and (problem := placeholder(found / file)) is not None:
            raise MarginbenchError(f"checkpoint {found / file}: it {problem}")
    return found


def _from_hub(name: str, looked: Iterable[Path]) -> Path:
    remedy = f"no {', no '.join(map(str, looked))}: where there is a network, hf download {name} --local-dir {{}}"
    remedy = remedy.format(list(looked)[-1])
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MarginbenchError(f"checkpoint {name!r}: {remedy}, after {TEXT.advice}") from None
    try:
        try:
            return Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=True))
        except OSError:
            return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # of the hub, of the network, of the disk
        gave = f"the hub gave none ({one_line(error)})"
        raise MarginbenchError(f"checkpoint {name!r}: {remedy}, and copy it; {gave}") from None


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 of all files of a checkpoint that training depends on."""
    found = hashlib.sha256()
    for name in FILES:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                found.update(f"{name}:{hashlib.file_digest(file, 'sha256').hexdigest()};".encode())
    return found.hexdigest()
