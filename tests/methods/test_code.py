"""What is defined without a file is known by its code: an edited cell of a notebook is another method."""

import os
import subprocess
import sys
from types import ModuleType

import pytest

from marginbench.methods import Method
from marginbench.methods.code import source_of
from marginbench.methods.registry import get

CELL = """
from dataclasses import dataclass
import numpy as np
import torch
from marginbench.methods import Loss, Method

{before}

def scaled(z):
    return inner(z)

def inner(z):
    return {factor} * z

class Base(Method):
    def loss(self, net, batch, ctx):
        return Loss(scaled(net(batch.x)).sum())

class Mine(Base):
    weight: float = 1.0

    @property
    def twice(self):
        return {property} * self.weight

    def build(self, net, task):
        return [(lambda x: {inside} * x) for name in {{"a", "b", "c"}}]
"""
SAME = {"before": "", "factor": "1", "property": "2", "inside": "3"}


def cell(name: str = "a_cell", **parts: str) -> str | None:
    """The source of the class when this cell is executed."""
    module = ModuleType(name)
    exec(CELL.format(**{**SAME, **parts}), vars(module))
    return source_of(vars(module)["Mine"])


OTHER: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "function": ({}, {"factor": "2"}),
    "property": ({}, {"property": "3"}),
    "lambda": ({}, {"inside": "4"}),
    "number": ({"before": "K = 1", "factor": "K"}, {"before": "K = 2", "factor": "K"}),
    "items": ({"before": "K = {'a': [1, 2]}", "factor": "K"}, {"before": "K = {'a': [1, 3]}", "factor": "K"}),
    "tensor": (
        {"before": "K = [torch.ones(2), torch.ones(2)]", "factor": "K"},
        {"before": "K = [torch.ones(2), torch.zeros(2)]", "factor": "K"},
    ),
    "array": ({"before": "K = np.ones(2)", "factor": "K"}, {"before": "K = np.ones(3)", "factor": "K"}),
    "network": (
        {"before": "torch.manual_seed(0)\nK = torch.nn.Linear(1, 1)", "factor": "K(1)"},
        {"before": "torch.manual_seed(1)\nK = torch.nn.Linear(1, 1)", "factor": "K(1)"},
    ),
    "settings": (
        {"before": "@dataclass\nclass S:\n    k: int = 1\nK = S()", "factor": "K.k"},
        {"before": "@dataclass\nclass S:\n    k: int = 1\nK = S(2)", "factor": "K.k"},
    ),
    "static method": (
        {"before": "class H:\n    @staticmethod\n    def f(): return 1", "factor": "H.f()"},
        {"before": "class H:\n    @staticmethod\n    def f(): return 2", "factor": "H.f()"},
    ),
    "private": (
        {"before": "class H:\n    _k = 1", "factor": "H._k"},
        {"before": "class H:\n    _k = 2", "factor": "H._k"},
    ),
    "private method": (
        {"before": "class H:\n    def _f(self): return 1", "factor": "H()._f()"},
        {"before": "class H:\n    def _f(self): return 2", "factor": "H()._f()"},
    ),
    "setting of a library's layer": (
        {"before": "K = torch.nn.CrossEntropyLoss(label_smoothing=0.1)", "factor": "K"},
        {"before": "K = torch.nn.CrossEntropyLoss(label_smoothing=0.2)", "factor": "K"},
    ),
    "partial": (
        {"before": "from functools import partial\nf = partial(max, 1)", "factor": "f(2)"},
        {"before": "from functools import partial\nf = partial(max, 3)", "factor": "f(2)"},
    ),
    "cache": (
        {"before": "from functools import cache\n@cache\ndef f(): return 1", "factor": "f()"},
        {"before": "from functools import cache\n@cache\ndef f(): return 2", "factor": "f()"},
    ),
    "without gradients": (
        {"before": "@torch.no_grad()\ndef f(): return 1", "factor": "f()"},
        {"before": "@torch.no_grad()\ndef f(): return 2", "factor": "f()"},
    ),
    "operation": (
        {"before": "f = torch.relu", "factor": "f"},
        {"before": "f = torch.tanh", "factor": "f"},
    ),
    "order": (
        {"before": "def g(): return 1\ndef h(): return 2\nK = [g, h]", "factor": "g() + h() + K"},
        {"before": "def g(): return 1\ndef h(): return 2\nK = [h, g]", "factor": "g() + h() + K"},
    ),
    "bfloat16": (
        {"before": "K = torch.ones(2).bfloat16()", "factor": "K"},
        {"before": "K = torch.zeros(2).bfloat16()", "factor": "K"},
    ),
    "default": (
        {"before": "def f(x=1): return x", "factor": "f()"},
        {"before": "def f(x=2): return x", "factor": "f()"},
    ),
    "closure": (
        {"before": "def of(k): return lambda: k\nf = of(1)", "factor": "f()"},
        {"before": "def of(k): return lambda: k\nf = of(2)", "factor": "f()"},
    ),
}


@pytest.mark.parametrize("kind", OTHER)
def test_an_edited_cell_is_another_method(kind: str) -> None:
    before, after = (cell(**parts) for parts in OTHER[kind])
    assert before == cell(**OTHER[kind][0]) != after
    assert before is not None and len(before) == 16


def test_what_the_class_does_not_use_makes_no_difference() -> None:
    assert cell(before="# a comment\nUNUSED = 1\n\n") == cell(before="UNUSED = 2")
    assert cell(before="x = torch.ones(2)") == cell(before="x = torch.zeros(2)"), "batch.x is another"
    kinds = "torch.ones(2).to_sparse()", "torch.ones(2, device='meta')", "torch.nn.LazyLinear(2)"
    assert all(cell(before=f"K = {kind}", factor="K") is not None for kind in kinds)


def test_it_is_the_same_in_every_process() -> None:
    code = f"""
from types import ModuleType
from marginbench.methods.code import source_of
exec({CELL.format(**SAME)!r}, vars(module := ModuleType("a_cell")))
print(source_of(module.Mine))
"""
    found = set()
    for seed in ("1", "2"):
        settings = {**os.environ, "PYTHONHASHSEED": seed}
        answer = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True)
        found.add(answer.stdout.strip())
    assert found == {cell()}


def test_what_is_built_in_has_none() -> None:
    assert source_of(get("ce")) is None and source_of(Method) is None
