"""What hooks are given is documented where an author looks: in the page and in `help()`."""

import dataclasses
import inspect
import pydoc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from torch import nn

from marginbench import methods
from marginbench.benchmarks.contract.new_method import write_template
from marginbench.methods import Batch, Claim, Context, Info, Loss, Method, Need, Net, Radii, Task, Underfit
from marginbench.methods.facts import CLAIMS, NEEDS

PAGE = (Path(__file__).parents[2] / "methods" / "README.md").read_text(encoding="utf-8")
INTERNAL = {"noting", "unnoticed", "tables"}  # of a context: for who trains


def public(cls: type) -> set[str]:
    """What an author may use of an object: its fields, and what the class itself defines."""
    fields = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    inherited = set(dir(nn.Module)) | set(dir(object))
    made = set(inspect.signature(cls).parameters)
    return {name for name in fields | made | set(vars(cls)) if not name.startswith("_")} - inherited - INTERNAL


@pytest.mark.parametrize(("cls", "name"), [(Batch, "batch"), (Context, "ctx"), (Task, "task"), (Net, "net")])
def test_the_page_lists_all_that_a_hook_is_given(cls: type, name: str) -> None:
    missing = {what for what in public(cls) - set(dir(nn.Module)) if f"`{name}.{what}" not in PAGE}
    assert not missing


@pytest.mark.parametrize("cls", [Batch, Context, Task, Net, Loss, Radii, Method, Info, Underfit])
def test_help_describes_every_attribute(cls: type) -> None:
    text = inspect.getdoc(cls) or ""
    for name in public(cls) - {"info", "model_config"}:
        member = vars(cls).get(name)
        described = inspect.getdoc(member) if inspect.isfunction(member) or isinstance(member, property) else None
        assert described or f"{name}:" in text, f"{cls.__name__}.{name}"


def test_every_hook_and_its_arguments_are_in_the_page() -> None:
    hooks = [name for name, hook in vars(Method).items() if inspect.isfunction(hook) and not name.startswith("_")]
    for hook in hooks:
        arguments = list(inspect.signature(getattr(Method, hook)).parameters)[1:]
        assert f"`{hook}({', '.join(arguments)})`" in PAGE
        for argument in arguments:
            assert f"| `{argument}`" in PAGE or f", `{argument}` |" in PAGE, argument


@pytest.mark.parametrize(("words", "literal"), [(NEEDS, Need), (CLAIMS, Claim)], ids=["needs", "claims"])
def test_every_need_and_claim_is_explained_in_the_page_and_by_help(words: Mapping[str, str], literal: Any) -> None:
    text = pydoc.render_doc(literal, renderer=pydoc.plaintext)
    assert tuple(words) == get_args(literal)
    for name, meaning in words.items():
        assert f"| `{name}` | {meaning} |" in PAGE and f"{name}: {meaning}." in text


def test_a_new_file_names_every_need_and_claim(tmp_path: Path) -> None:
    text = write_template("my_margin", tmp_path).read_text()
    assert f"# {', '.join(get_args(Need))}\n" in text and f"# {', '.join(get_args(Claim))}\n" in text


def test_the_page_explains_all_that_a_method_can_import() -> None:
    stub = (Path(__file__).parents[2] / "methods" / "__init__.pyi").read_text(encoding="utf-8")
    functions = {name for name in stub.split() if name.islower() and inspect.isfunction(getattr(methods, name, None))}
    others = {"create", "get", "names", "register", "rows", "spec_of"}  # for who uses methods
    assert {name for name in functions - others if f"`{name}" not in PAGE and f"{name}(" not in PAGE} == set()
