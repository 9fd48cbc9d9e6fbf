"""What counts as the content of a user's file: the file, what it imports from its folder, and data that it names."""

import ast
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def digest(path: Path, code: bytes, with_data: bool = True) -> str:
    """SHA-256 of the file, or of it and of what it imports from its folder or names: see `content`.

    Scripts name what they write, too: of them data do not count.
    """
    files, data = content(path, code)
    if len(files) == 1 and not (with_data and data):
        return hashlib.sha256(code).hexdigest()
    digests = [f"{f.relative_to(path.parent).as_posix()} {hashlib.sha256(files[f]).hexdigest()}" for f in sorted(files)]
    for place in data if with_data else ():
        with place.open("rb") as stream:
            sha = hashlib.file_digest(stream, "sha256").hexdigest()
        digests.append(f"{Path(os.path.relpath(place, path.parent)).as_posix()} {sha}")
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def content(path: Path, code: bytes) -> tuple[dict[Path, bytes], list[Path]]:
    """The Python files, with what they hold, and the data, as the code writes their paths, with `..` in them.

    Imports are read off the source, those inside functions too: what other files have imported before, which differs
    from process to process, makes no difference. So are the data that the code reads, whenever it does: files of which
    a text in it is the path from its folder. A path that is put together from several texts is not seen.

    Args:
        path: resolved.
        code: what that file holds.
    """
    files: dict[Path, bytes] = {path: code}
    todo = [path]
    while todo:
        file = todo.pop()
        for neighbour in _imported(files[file], file.relative_to(path.parent).parts[:-1], path.parent):
            if neighbour not in files:
                files[neighbour] = neighbour.read_bytes()
                todo.append(neighbour)
    texts = {(file.parent, text) for file, held in files.items() for text in _texts(held)}
    named = {folder / text for folder, text in texts if not Path(text).is_absolute()}
    return files, sorted(f for f in named - files.keys() if os.path.isfile(f))  # noqa: PTH113 - long texts are no error


def _imported(code: bytes, package: tuple[str, ...], folder: Path) -> Iterator[Path]:
    """The files below the folder that the imports in a module of a package there may name."""
    for node in _nodes(code):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            home = package[: len(package) - node.level + 1] if node.level else ()
            home += tuple((node.module or "").split(".")) if node.module else ()
            names = [(*home, alias.name) for alias in node.names]  # a module of the package, or what one holds
        for name in names:
            for length in range(1, len(name) + 1):
                place = folder.joinpath(*name[:length])
                yield from (f for f in (place.with_name(f"{place.name}.py"), place / "__init__.py") if f.is_file())


def _texts(code: bytes) -> Iterator[str]:
    for node in _nodes(code):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _nodes(code: bytes) -> Iterator[ast.AST]:
    try:
        yield from ast.walk(ast.parse(code))
    except (SyntaxError, ValueError):  # reported when it is executed
        return
