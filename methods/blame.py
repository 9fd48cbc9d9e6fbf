"""Where in a hook of a method an error arose, or where a hook stands."""

import inspect
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType

from marginbench.methods.errors import MarginbenchError, one_line
from marginbench.methods.hooks import HookError, Place
from marginbench.methods.method import Method

INSTALLED = ("site-packages", "dist-packages")


def blamed(error: BaseException) -> Place | str | None:
    """The line of a hook that raised the error, or that called what raised it; None where no hook is at fault.

    `Method`'s own hooks never are: what goes wrong in them was given to them.
    """
    if isinstance(error, HookError):
        return error.place
    return _innermost(traceback.walk_tb(error.__traceback__))


def standing() -> Place | None:
    """The line at which a hook stands that is running now; None where none is."""
    return _innermost(reversed(list(traceback.walk_stack(None))))


def fault(error: BaseException) -> str:
    """One line: what was raised, and the line of the hook that is at fault, if one is."""
    if isinstance(error, HookError):
        return str(error)
    place = blamed(error)
    text = str(error) if isinstance(error, MarginbenchError) else one_line(error)
    return text if place is None else f"{text} ({place})"


def _innermost(frames: Iterable[tuple[FrameType, int]]) -> Place | None:
    """The latest line of a hook, or of a helper in its file or beside it, in the order of the calls."""
    found, file = None, ""
    for frame, line in frames:
        code = frame.f_code
        owner = _owner(frame.f_locals.get("self"), code)
        if owner is not None:
            found, file = Place(Path(code.co_filename).name, line, code.co_name, owner.__name__), code.co_filename
        elif found is not None and code.co_filename == file:
            found = found._replace(line=line, helper="")
        elif found is not None and _beside(Path(code.co_filename), Path(file)):
            found = found._replace(helper=f"{Path(code.co_filename).name}, line {line}")
    return found


def _beside(helper: Path, file: Path) -> bool:
    """Whether a file lies in the folder of another, or below it; not in an environment that lies there."""
    if not helper.is_relative_to(file.parent):
        return False
    return not any(part in INSTALLED for part in helper.relative_to(file.parent).parts)


def _owner(method: object, code: CodeType) -> type[Method] | None:
    """The class in which this code is a hook of the method."""
    if not isinstance(method, Method) or not inspect.isfunction(getattr(Method, code.co_name, None)):
        return None
    for cls in type(method).__mro__:
        hook = vars(cls).get(code.co_name)
        if cls is not Method and inspect.isfunction(hook) and inspect.unwrap(hook).__code__ is code:
            return cls
    return None
