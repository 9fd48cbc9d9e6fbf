"""What a hook does wrong is told with its class, file and line, what came and what is wanted."""

import pickle
import random
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from marginbench.benchmarks import run_all
from marginbench.benchmarks.contract.check import check, run_check
from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.plugins import load_plugin
from marginbench.benchmarks.training.run import Run
from marginbench.benchmarks.training.untouched import untouched
from marginbench.methods import Batch, Loss, MarginbenchError, Radii, create
from marginbench.methods.baselines.ce import CE
from marginbench.methods.blame import _beside
from marginbench.methods.hooks import HookError, in_words, place_of, returned

HEAD = """
import random
from dataclasses import replace
from typing import ClassVar
import numpy as np
import torch
from marginbench.methods import Batch, Info, Loss, Method, Radii, cross_entropy
def helper():
    return 1 / 0
"""
CLASS = """
class {owner}(Method):
    'L = CE(z, y), with a fault'
    info: ClassVar[Info] = Info(
        key="{key}", title="t", family="baselines", paper="p", section="s", year=2026, neutral="none: broken")
    def {hook}({arguments}):
        {fault}
"""
ARGUMENTS = {
    "build": "self, net, task",
    "param_groups": "self, net",
    "augment": "self, batch, ctx",
    "loss": "self, net, batch, ctx",
    "update": "self, net, batch, ctx, optimiser",
    "after_step": "self, net, ctx",
    "finish": "self, net, data, ctx",
    "certify": "self, net, x, norm",
}
GOOD = "return super().loss(net, batch, ctx)"
FAULTS = {  # key: hook, its code, the line, and what is said
    "vector": (
        "loss",
        "z = net(batch.x)\n        return Loss(-z.log_softmax(1).gather(1, batch.y[:, None])[:, 0])",
        "Loss.total is a tensor [128] float32: it must be a scalar tensor, as of .mean() ({}",
    ),
    "pair": (
        "loss",
        "return cross_entropy(net(batch.x), batch), {}",
        "{}: returned a tuple (a tensor [] float32, a dict), needed Loss: end it with `return Loss(total)`",
    ),
    "forgets": ("loss", "net(batch.x)", "{}: returned None, needed Loss: end it with `return Loss(total)`"),
    "detached": (
        "loss",
        "return Loss(cross_entropy(net(batch.x), batch).detach())",
        "{}: its total depends on no weight: no `detach`, `item` or `no_grad`",
    ),
    "no_net": ("build", "net.eval()", "{}: returned None, needed Net: end it with `return net`"),
    "no_groups": ("param_groups", "return net.parameters()", "{}: returned a generator, needed list: a list of dicts"),
    "bare_groups": ("param_groups", "return list(net.parameters())[:1]", "{}: returned a list of a tensor [16, 64]"),
    "raw_images": (
        "augment",
        "return batch.x",
        "{}: returned a tensor [128, 1, 8, 8] float32, needed Batch: as in replace(batch, x=x)",
    ),
    "no_loss": (
        "update",
        "self.loss(net, batch, ctx).total.backward(); optimiser.step()",
        "{}: returned None, needed Loss: end it with `return Loss(total)`",
    ),
    "no_end": ("finish", "net.train()", "{}: returned None, needed Net: end it with `return net`"),
    "raises": ("after_step", "raise ValueError('too\\nmuch')", "ValueError: too ({}"),
    "helped": ("after_step", "helper()", "ZeroDivisionError: division by zero ({}"),
    "stateful": (
        "loss",
        f"self.count = 3\n        {GOOD}",
        "FrozenInstanceError: self.count = an int: a method holds no state: keep it in a buffer of the net, or in ctx.",
    ),
    "thaws": (
        "loss",
        f"object.__setattr__(self, 'count', 3)\n        {GOOD}",
        "{}: set self.count to an int: a method holds no state: keep it in a buffer of the net, or in ctx.table",
    ),
    "thaws_groups": (
        "param_groups",
        "vars(self)['net'] = net\n        return super().param_groups(net)",
        "{}: set self.net to a Net: a method holds no state",
    ),
    "thaws_radii": (
        "certify",
        "object.__setattr__(self, 'seen', None)\n        return Radii(torch.zeros(len(x)))",
        "{}: set self.seen to None: a method holds no state",
    ),
    "vector_part": (
        "loss",
        "z = net(batch.x)\n        return Loss(cross_entropy(z, batch), {'top': z.amax(1)})",
        "Loss.parts['top'] is a tensor [128] float32: it must be a scalar tensor, as of .mean(); leave out what is",
    ),
    "number_part": (
        "loss",
        "return Loss(cross_entropy(net(batch.x), batch), {'weight': 0.1})",
        "Loss.parts['weight'] is a float: it must be a scalar tensor, as of .mean(); leave out what is none ({}",
    ),
    "one_radius": (
        "certify",
        "return Radii(torch.zeros(()))",
        "Radii.radius is a tensor [] float32: it must be a tensor [B] of floats ({}",
    ),
    "few_radii": ("certify", "return Radii(torch.zeros(1))", "{}: gave 1 radius for "),
    "bare_radii": ("certify", "return torch.zeros(len(x))", "{}: returned a tensor ["),
    "left_eval": ("loss", f"net.eval()\n        {GOOD}", "{}: left net.eval() on: put it back into the mode that"),
    "left_part": ("loss", f"net.body[-1].eval()\n        {GOOD}", "{}: left net.body."),
    "writes": ("loss", f"batch.x.clamp_(0.2, 0.8)\n        {GOOD}", "{}: wrote into batch.x: work on batch.x.clone()"),
    "writes_data": ("augment", "batch.y.data.fill_(0)\n        return batch", "{}: wrote into batch.y: work on"),
    "asks": ("loss", f"batch.x.requires_grad_()\n        {GOOD}", "{}: asked for gradients of batch.x itself: work on"),
    "draws": ("augment", "torch.randn(3)\n        return batch", "{}: drew from torch's global generator, or seeded"),
    "seeds": ("loss", f"torch.manual_seed(0)\n        {GOOD}", "{}: drew from torch's global generator, or seeded it"),
    "rolls": ("after_step", "random.random()", "{}: drew from the global generator of random: draw from ctx.generator"),
    "samples": ("finish", "np.random.rand()\n        return net", "{}: drew from the global generator of numpy.random"),
}


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A file with a class for each fault."""
    text = HEAD
    for key, (hook, code, _) in FAULTS.items():
        owner = key.title().replace("_", "")
        text += CLASS.format(owner=owner, key=key, hook=hook, arguments=ARGUMENTS[hook], fault=code)
    path = tmp_path / "faults.py"
    path.write_text(text)
    return path


def test_a_record_names_the_hook_that_is_at_fault(tiny: Path, tmp_path: Path, plugin: Path) -> None:
    outcome = run_all(str(tiny), [plugin, "ce"], 1, "cpu", tmp_path / "out")
    errors = {record.method: record.error for record in outcome.records}
    assert errors.pop("ce") is None and errors.keys() == FAULTS.keys()
    lines = plugin.read_text().splitlines()
    for key, (hook, _, words) in FAULTS.items():
        owner = key.title().replace("_", "")
        start = lines.index(f"class {owner}(Method):") + 5
        line = start if words.startswith("{}") else start + 1 + key.startswith("vector")  # the hook, or what raised it
        line = lines.index("    return 1 / 0") + 1 if key == "helped" else line
        place = f"faults.py, line {line}, hook {hook} of class {owner}"
        error = errors[key] or ""
        assert error.startswith(words.format(place)) and place in error and "\n" not in error, (key, error)


def test_a_check_tells_a_fault_once(plugin: Path) -> None:
    load_plugin(plugin)
    for key in ("forgets", "raises"):
        failed = [result for result in check(create(key)) if result.status == "failed"]
        told = [result for result in failed if "faults.py, line" in result.reason]
        assert len(told) == 1 and len(failed) > 5
        assert {result.reason for result in failed[1:]} == {f"as {told[0].name}, see above"}, failed


def test_two_faults_are_told_twice(plugin: Path) -> None:
    """Twin of the above: in another place it is another fault."""
    load_plugin(plugin)
    failed = [result for result in check(create("one_radius")) if result.status == "failed"]
    assert [result.name for result in failed] == ["certificate_sound"]
    assert "hook certify of class OneRadius" in failed[0].reason and "see above" not in failed[0].reason


class Later(CE):
    """L = CE(z, y), sound in the first epoch."""

    def loss(self, net: nn.Module, batch: Batch, ctx: object) -> Loss:  # type: ignore[override]
        if getattr(ctx, "epoch") == 1:  # noqa: B009
            net.eval()
        return Loss(nn.functional.cross_entropy(net(batch.x), batch.y))


def test_the_first_step_of_every_epoch_is_watched() -> None:
    run = Run(Later(), small_suite(epochs=4), small_data(), 0)
    run.step()
    run.step()
    with pytest.raises(HookError, match=r"hook loss of class Later: left net.eval\(\) on"):
        run.step()


class Noisy(nn.Module):
    """Draws from torch's global generator, as dropout does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * torch.randn_like(x)


def hook() -> None:
    """Stands for one."""


def test_what_the_network_draws_is_not_the_hooks() -> None:
    net, x = nn.Sequential(Noisy(), nn.Linear(3, 3), nn.Dropout(0.5)), torch.ones(2, 3)
    with untouched(hook, net):
        net(x)
        net[0](x)
    with pytest.raises(HookError, match="torch's global generator"), untouched(hook, net):
        net(x)
        torch.rand(1)
        net(x)
    with untouched(hook):  # where weights are made
        torch.rand(1)
    for draw in (random.random, np.random.rand):
        with pytest.raises(HookError, match="global generator of"), untouched(hook):
            draw()
    with untouched(hook, net):
        torch.rand(1, generator=torch.Generator().manual_seed(0))


class Frozen(CE):
    """L = CE(z, y), with a field that its loss may change from the third step on."""

    weight: float = 0.1
    writes: bool = True

    @cached_property
    def _double(self) -> float:
        return 2 * self.weight

    def loss(self, net: nn.Module, batch: Batch, ctx: object) -> Loss:  # type: ignore[override]
        if self.writes and getattr(ctx, "step") == 3:  # noqa: B009
            object.__setattr__(self, "weight", 0.2)
        return Loss(self._double * nn.functional.cross_entropy(net(batch.x), batch.y))


def test_a_field_that_is_set_is_named_with_its_hook_in_any_step() -> None:
    run = Run(Frozen(), small_suite(), small_data(), repetition=0)
    for _ in range(3):
        run.step()
    wanted = (
        r"test_hooks\.py, line \d+, hook loss of class Frozen: set self\.weight to 0\.2 where it was 0\.1: a method"
    )
    with pytest.raises(HookError, match=wanted):
        run.step()


def test_what_is_computed_from_fields_may_be_kept() -> None:
    method = Frozen(writes=False)
    run = Run(method, small_suite(), small_data(), repetition=0)
    for _ in range(5):
        run.step()
    assert "_double" in vars(method)


def test_an_error_in_a_file_that_a_plugin_imports_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "aid.py").write_text("def aid(x):\n    return deeper(x)\n\n\ndef deeper(x):\n    return x.reshape(7)\n")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "inner.py").write_text("def back(f):\n    return f()\n")
    (tmp_path / "lib" / "__init__.py").write_text("")
    path = tmp_path / "aided.py"
    path.write_text(
        f"{HEAD}from aid import aid\nfrom lib.inner import back\n"
        + CLASS.format(owner="Aided", key="aided", hook="loss", arguments=ARGUMENTS["loss"], fault="aid(batch.x)")
        + CLASS.format(owner="Back", key="back", hook="loss", arguments=ARGUMENTS["loss"], fault="back(helper)")
        + CLASS.format(owner="Inner", key="inner", hook="loss", arguments=ARGUMENTS["loss"], fault="back(3)")
    )
    load_plugin(path)
    for key, place in (
        ("aided", "(aid.py, line 6, called by aided.py, line 18, hook loss of class Aided)"),
        ("back", "(aided.py, line 9, hook loss of class Back)"),
        ("inner", "(inner.py, line 2, called by aided.py, line 32, hook loss of class Inner)"),
    ):
        reason = run_check("finite_loss", create(key)).reason
        assert reason.endswith(place), reason


def test_an_error_in_an_environment_below_the_file_is_not_its_authors() -> None:
    file = Path("/x/my.py")
    assert _beside(Path("/x/lib/a.py"), file) and not _beside(Path("/y/a.py"), file)
    assert not _beside(Path("/x/.venv/lib/python3.11/site-packages/torch/nn/functional.py"), file)


def test_an_error_in_the_hook_is_not_replaced() -> None:
    with pytest.raises(ZeroDivisionError), untouched(hook):
        random.random()
        raise ZeroDivisionError


def test_values_are_checked_where_they_are_made() -> None:
    scalar = torch.zeros(())
    for wrong in (None, 0.5, torch.zeros(1)):
        with pytest.raises(MarginbenchError, match=r"Loss\.total is "):
            Loss(wrong)  # type: ignore[arg-type]
    with pytest.raises(MarginbenchError, match=r"Loss\.parts is a list"):
        Loss(scalar, [scalar])  # type: ignore[arg-type]
    for wrong in (0.5, scalar, torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(MarginbenchError, match=r"Radii\.radius is "):
            Radii(wrong)  # type: ignore[arg-type]
    assert Loss(scalar, {"risk": scalar}).total is scalar and len(Radii(torch.zeros(2)).radius) == 2


def test_an_error_of_a_hook_travels_between_processes() -> None:
    error = HookError(place_of(CE().loss), "no")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.place == error.place
    assert str(error).startswith("method.py, line ") and "hook loss of class Method: no" in str(error)


def test_a_function_without_a_class_is_named() -> None:
    with pytest.raises(HookError, match=r"^hook: returned None, needed Radii: right"):
        returned(hook, None, Radii, "right")
    assert in_words((None, "x", torch.zeros(2, 3))) == "a tuple (None, a str, a tensor [2, 3] float32)"


def test_the_contract_says_what_a_hook_changed() -> None:
    result = run_check("finite_loss", Later())
    assert result.status == "failed" and result.reason.startswith("test_hooks.py, line ")
