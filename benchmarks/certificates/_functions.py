"""`autograd.Function`s while operations are recorded: of each its forward alone, which torch has no rule to record."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch._functorch.autograd_function import custom_function_call
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

Forward = Callable[..., Any]


@contextmanager
def forward_alone() -> Iterator[None]:
    """A block in which a Function, however it was bound to a name, does what its forward does, without gradient."""
    without = [cls for cls in _subclasses(Function) if cls.setup_context is Function.setup_context]
    given = {cls: cls.forward for cls in without}  # first: some inherit it
    with ExitStack() as stack:
        for cls, forward in given.items():  # torch looks whether its arguments fit: there the context is missing
            stack.enter_context(patch.object(cls, "forward", staticmethod(_of_any_arguments(forward))))
            stack.enter_context(patch.object(cls, "setup_context", staticmethod(_nothing)))
        stack.enter_context(patch.object(type(custom_function_call), "__call__", _call))
        yield


def _subclasses(cls: type[Function]) -> Iterator[type[Function]]:
    for one in cls.__subclasses__():
        yield one
        yield from _subclasses(one)


def _of_any_arguments(forward: Forward) -> Forward:
    def forwarded(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    return forwarded


def _nothing(ctx: Any, inputs: Any, output: Any) -> None:
    """There is nothing to keep for a gradient."""


def _call(self: Any, cls: type[Function], *args: Any, **kwargs: Any) -> Any:
    if cls.setup_context is not _nothing:
        return cls.forward(*args, **kwargs)
    context: Any = FunctionCtx()
    context.needs_input_grad = (False,) * len(args)
    return cls.forward(context, *args, **kwargs)
