"""Where in a hook of a method an error arose."""

import inspect
import traceback
from pathlib import Path
from types import CodeType

from marginbench.methods.errors import MarginbenchError, one_line
from marginbench.methods.hooks import HookError, Place
from marginbench.methods.method import Method


def blamed(error: BaseException) -> Place | str | None:
    """The line of a hook that raised the error, or that called what raised it; None where no hook is at fault.

    `Method`'s own hooks never are: what goes wrong in them was given to them.
    """
    if isinstance(error, HookError):
        return error.place
    found, file = None, ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        owner = _owner(frame.f_locals.get("self"), code)
        if owner is not None:
            found, file = Place(Path(code.co_filename).name, line, code.co_name, owner.__name__), code.co_filename
        elif found is not None and code.co_filename == file:  # a helper of the hook
            found = found._replace(line=line)
    return found


def fault(error: BaseException) -> str:
    """One line: what was raised, and the line of the hook that is at fault, if one is."""
    if isinstance(error, HookError):
        return str(error)
    place = blamed(error)
    text = str(error) if isinstance(error, MarginbenchError) else one_line(error)
    return text if place is None else f"{text} ({place})"


def _owner(method: object, code: CodeType) -> type[Method] | None:
    """The class in which this code is a hook of the method."""
    if not isinstance(method, Method) or not inspect.isfunction(getattr(Method, code.co_name, None)):
        return None
    for cls in type(method).__mro__:
        hook = vars(cls).get(code.co_name)
        if cls is not Method and inspect.isfunction(hook) and inspect.unwrap(hook).__code__ is code:
            return cls
    return None
