"""Writes the file that a new method starts from."""

import keyword
import re
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from marginbench.benchmarks.machine.files import write_atomically
from marginbench.methods import MarginbenchError, rows
from marginbench.methods.errors import ParameterError
from marginbench.methods.facts import CLAIMS, NEEDS
from marginbench.methods.method import CONTRACT


def write_template(name: str, folder: Path) -> Path:
    """Write `<folder>/<name>.py`, a working method.

    Raises:
        MarginbenchError: not a lower-case identifier, the key is taken, or the file exists.
    """
    if keyword.iskeyword(name):
        raise MarginbenchError(f"method name {name!r}: is a word of Python's own")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise MarginbenchError(f"method name {name!r}: use lower-case letters, digits and _, as in my_margin")
    path = folder / f"{name}.py"
    if path.exists():
        raise MarginbenchError(f"{path}: exists already; choose another name or folder")
    if name in rows():
        raise MarginbenchError(f"method name {name!r} is taken: see `marginbench methods {name}`")
    template = resources.files("marginbench.benchmarks.contract").joinpath("template.txt").read_text(encoding="utf-8")
    words = name.split("_")
    text = template.format(
        name=name,
        title=" ".join(words).capitalize(),
        class_name="".join(word.capitalize() for word in words),
        year=datetime.now(UTC).year,
        contract=CONTRACT,
        claims=", ".join(CLAIMS),
        needs=", ".join(NEEDS),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError("folder", str(folder), f"cannot be made ({error.strerror})") from None
    write_atomically(path, text.encode())
    return path
