"""The check that a training does not depend on what ran before it in the same process."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch

from marginbench.benchmarks.contract.fixtures import NotTestedError, require, small_data, small_suite
from marginbench.benchmarks.training.loop import train
from marginbench.methods import Method, get, names, register
from marginbench.methods.spec import configure
from marginbench.methods.userfile import user_code


def nothing_kept(method: Method) -> None:
    """After another training the weights are those that a freshly executed copy of the method's file comes to.

    What is computed once and does not depend on the run, as a table by shape, may be kept.
    """
    cls = type(method)
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    if module is None or file is None or cls.__module__ == "__main__" or vars(module).get(cls.__name__) is not cls:
        raise NotTestedError("the method stands in no file that can be executed anew")
    suite, data = small_suite(epochs=2), small_data()
    train(method, suite, data, repetition=1)
    net = train(method, suite, data, repetition=0).net.state_dict()
    with _anew(module, Path(file)) as copy:
        fresh = configure(getattr(copy, cls.__name__), dict(method))
        wanted = train(fresh, suite, data, repetition=0).net.state_dict()
    if cls.info.key in names() and get(cls.info.key) is type(fresh):  # the file registers its classes itself
        register(cls)
    changed = [name for name, tensor in wanted.items() if not torch.equal(net[name], tensor)]
    require(
        not changed,
        f"{', '.join(changed[:1])} depends on what ran before in this process: state belongs into buffers or ctx.table,"
        " not into variables of the file or attributes of a class",
    )


@contextmanager
def _anew(module: ModuleType, file: Path) -> Iterator[ModuleType]:
    """A block in which the module is a copy, whose code was just executed."""
    copy = ModuleType(module.__name__)
    vars(copy).update({name: vars(module).get(name) for name in ("__file__", "__package__", "__spec__")})
    sys.modules[module.__name__] = copy
    try:
        with user_code(file, "plug-in"):
            exec(compile(file.read_bytes(), file, "exec", dont_inherit=True), vars(copy))
        yield copy
    finally:
        sys.modules[module.__name__] = module
