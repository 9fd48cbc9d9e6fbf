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
    given = {cls: cls.forward for cls in _subclasses(Function) if cls.setup_context is Function.setup_context}
    with ExitStack() as stack:
        for cls, forward in given.items():  # those whose forward takes the context too
            stack.enter_context(patch.object(cls, "forward", staticmethod(_with_context(forward))))
            stack.enter_context(patch.object(cls, "setup_context", staticmethod(_nothing)))
        stack.enter_context(patch.object(type(custom_function_call), "__call__", _call))
        yield


def _subclasses(cls: type[Function]) -> Iterator[type[Function]]:
    for one in cls.__subclasses__():
        yield one
        yield from _subclasses(one)


def _with_context(forward: Forward) -> Forward:
    def alone(*args: Any, **kwargs: Any) -> Any:
        context: Any = FunctionCtx()
        context.needs_input_grad = (False,) * len(args)
        return forward(context, *args, **kwargs)

    return alone


def _nothing(ctx: Any, inputs: Any, output: Any) -> None:
    """There is nothing to keep for a gradient."""


def _call(self: Any, cls: type[Function], *args: Any, **kwargs: Any) -> Any:
    return cls.forward(*args, **kwargs)
