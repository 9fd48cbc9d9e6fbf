"""Specs, discovery and plug-ins: what is wrong is named, with what would be right."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.contract.new_method import write_template
from marginbench.benchmarks.plugins import forget_plugins, load_installed_plugins, load_plugin, loaded_files
from marginbench.benchmarks.registry import REGISTRIES, Registry
from marginbench.benchmarks.training.loop import train
from marginbench.methods import Loss, MarginbenchError, Method, create, get, names, rows, spec_of, validation
from marginbench.methods import registry as registry_module
from marginbench.methods.errors import one_line
from marginbench.methods.spec import split_specs


def test_all_methods_stand_in_the_folder_of_their_family() -> None:
    assert {"ce", "pmm", "arcface", "jacobian_reg", "mma", "lmt"} <= set(names())
    for key in names():
        if get(key).__module__.startswith("marginbench.methods"):
            assert get(key).__module__ == f"marginbench.methods.{get(key).info.family}.{key}"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("ce", "ce"),
        ("arcface( m = 0.4 )", "arcface(m=0.4)"),
        ("arcface(m=0.5)", "arcface"),
        ("arcface(m=4e-1)", "arcface(m=0.4)"),
        ("arcface(m=1)", "arcface(m=1)"),
        ("pmm(form=code,risk=hinge)", "pmm(risk=hinge,form=code)"),
        ("pmm(risk='hinge')", "pmm(risk=hinge)"),
        ("lmt(gate=true,variant=basic)", None),
        ("mma(d_max=none)", "mma"),
        ("pmm(alpha_end=1e-300)", "pmm(alpha_end=1e-300)"),
    ],
)
def test_spec_is_canonical_and_comes_back(text: str, canonical: str | None) -> None:
    method = create(text)
    if canonical is not None:
        assert spec_of(method) == canonical
    assert create(spec_of(method)) == method


def test_specs_split_at_outer_commas() -> None:
    assert split_specs("ce, arcface(s=16,m=0.4),pmm") == ["ce", "arcface(s=16,m=0.4)", "pmm"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("arcfac", ["unknown method 'arcfac'", "did you mean 'arcface'"]),
        ("arcface(mm=1)", ["no field 'mm'", "did you mean 'm'"]),
        ("arcface(m=-1)", ["arcface.m=-1", "greater than or equal to 0"]),
        ("arcface(m=abc)", ["arcface.m='abc'", "number"]),
        ("arcface(m='0.4')", ["arcface.m='0.4'", "number"]),
        ("arcface(m)", ["FIELD=VALUE"]),
        ("arcface(m=0.1,m=0.2)", ["given twice"]),
        ("arcface(m=0.1", ["KEY(FIELD=VALUE"]),
        ("arcface(m=nan)", ["arcface.m"]),
        ("pmm(risk=square)", ["pmm.risk='square'", "'ce' or 'hinge'"]),
        ("jacobian_reg(projections=1.5)", ["jacobian_reg.projections=1.5", "integer"]),
        ("arcface(m=inf)", ["arcface.m"]),
    ],
)
def test_wrong_spec_names_key_and_remedy(spec: str, words: list[str]) -> None:
    with pytest.raises(MarginbenchError) as error:
        create(spec)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_template_is_a_working_plugin(tmp_path: Path) -> None:
    path = write_template("my_margin", tmp_path)
    (cls,) = load_plugin(path)
    assert cls.info.key == "my_margin"
    assert spec_of(create("my_margin(weight=0.2)")) == "my_margin(weight=0.2)"
    load_plugin(path)  # twice is fine
    with pytest.raises(MarginbenchError, match="exists already"):
        write_template("my_margin", tmp_path)


def test_a_preset_is_a_named_spec(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    field = "    w: float = param(1.0, 'd', unit='1', source='s', search=(1.0,), ge=0)\n"
    text = HEAD.replace("KEY", "mine").replace("neutral={}", 'neutral={}, presets={"heavy": {"w": 5.0}}')
    path.write_text(text + field)
    load_plugin(path)
    assert {"mine", "heavy"} <= set(rows()) and "heavy" not in names()
    assert create("heavy") == create("mine(w=5)") and spec_of(create("mine(w=5)")) == "heavy"
    assert spec_of(create("heavy(w=2)")) == "mine(w=2)"
    path.write_text(text.replace("5.0", "-5.0") + field)
    with pytest.raises(MarginbenchError, match=r"mine\.w=-5"):
        load_plugin(path)
    (tmp_path / "other.py").write_text(HEAD.replace("KEY", "heavy"))
    with pytest.raises(MarginbenchError, match="'heavy' is already taken"):
        load_plugin(tmp_path / "other.py")


FIELD = "    w: {} = param({}, 'd', unit='1', source='s', search=(0.5,), le=1)\n"
BROKEN = {
    "syntax error": ("def f(:\n", "line 1"),
    "no method": (
        "x = 1\n",
        "no subclass of marginbench.methods.Method, and adds by decorator neither an attack",
    ),
    "import error": ("import no_such_module\n", "no_such_module"),
    "error of two lines": ("raise ValueError('no\\nluck')\n", "ValueError: no"),
    "no info": (
        "from marginbench.methods import Method\nclass A(Method):\n    'L = 0'\n",
        "set `info",
    ),
    "misspelt hook": ("    def los(self, net, batch, ctx):\n        pass\n", "did you mean 'loss'"),
    "wrong arguments": ("    def loss(self, net, batch):\n        pass\n", "should be loss(self, net, batch, ctx)"),
    "bare field": ("    weight: float = 1.0\n", "declare 'weight' with param"),
    "default out of range": (FIELD.format("float", "5.0"), "class A: the default 5.0 of w: input should be less than"),
    "default of another type": (FIELD.format("float", "'a'"), "class A: the default 'a' of w: input should be a valid"),
    "limit of another type": (FIELD.format("str", "'a'"), "class A: the default 'a' of w: unable to apply"),
}
HEAD = """
from typing import ClassVar
from marginbench.methods import Info, Method, param
class A(Method):
    'L = CE'
    info: ClassVar[Info] = Info(key="KEY", title="t", family="baselines", paper="p", section="s", year=1, neutral={})
"""


@pytest.mark.parametrize("case", BROKEN)
def test_broken_plugin_is_named_with_its_fault(tmp_path: Path, case: str) -> None:
    text, words = BROKEN[case]
    path = tmp_path / "broken.py"
    path.write_text(HEAD.replace("KEY", "broken") + text if text.startswith("    ") else text)
    with pytest.raises(MarginbenchError) as error:
        load_plugin(path)
    assert str(path) in str(error.value)
    assert words in str(error.value) and "\n" not in str(error.value)


FACTS = {
    'year="2026"': "Info.year='2026': input should be a valid integer",
    "year=True": "Info.year=True: input should be a valid integer",
    "key=7": "Info.key=7: input should be a valid string",
    'key="Uses 2"': "Info.key is 'Uses 2': use letters, digits and _, as in my_margin",
    'key=""': "Info.key is '': use letters, digits and _, as in my_margin",
    'presets={"very heavy": {}}': "the key of a preset is 'very heavy': use letters, digits and _",
    'family="baseline"': "unknown family 'baseline': did you mean 'baselines'? known: augmentation, baselines, cert",
    'claims=("acuracy",)': "unknown claim 'acuracy': did you mean 'accuracy'?",
    'claims="accuracy"': "Info.claims='accuracy': input should be a valid tuple",
    'needs=frozenset({"indx"})': "unknown need 'indx': did you mean 'index'?",
    'deviations="none"': "Info.deviations='none': input should be a valid tuple",
    'neutral={"w": 1.0}': "Info.neutral: method 'facts' has no field 'w'",
    'presets={"heavy": {"w": 1.0}}': "preset 'heavy': method 'facts' has no field 'w'",
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_wrong_fact_is_named_with_class_and_file(tmp_path: Path, fact: str) -> None:
    path = tmp_path / "facts.py"
    name = fact.partition("=")[0]
    head = re.sub(rf", {name}=[^,)]+|(?<=Info\(){name}=[^,)]+, ", "", HEAD.replace("KEY", "facts"))
    path.write_text(head.replace("Info(", f"Info({fact}, ", 1))
    with pytest.raises(MarginbenchError) as error:
        load_plugin(path)
    assert str(error.value).startswith(f"{path}, class A") and FACTS[fact] in str(error.value)


def test_a_plugin_may_bring_a_family_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD.replace("KEY", "mine").replace('"baselines"', '"ensembles", own_family=True'))
    load_plugin(path)
    assert create("mine").info.family == "ensembles"


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("no\nluck"), "ValueError: no"), (ValueError("\n  no"), "ValueError: no"), (OSError(), "OSError")],
)
def test_an_error_is_told_in_one_line(error: Exception, text: str) -> None:
    assert one_line(error) == text


def test_plugins_of_one_file_name_keep_their_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_methods", dict(registry_module._methods))
    found = []
    for key in ("first_folder", "second_folder"):
        path = tmp_path / key / "margin.py"
        path.parent.mkdir()
        path.write_text(HEAD.replace("KEY", key))
        found += load_plugin(path)
    assert [Path(inspect.getfile(cls)).parent.name for cls in found] == ["first_folder", "second_folder"]
    (tmp_path / "third_folder").mkdir()
    third = tmp_path / "third_folder" / "margin.py"
    third.write_text(HEAD.replace("KEY", "first_folder"))
    with pytest.raises(MarginbenchError, match=r"already taken by .*first_folder.margin\.py"):
        load_plugin(third)


def test_plugin_must_not_take_a_key(tmp_path: Path) -> None:
    path = tmp_path / "other.py"
    path.write_text(HEAD.replace("KEY", "arcface"))
    with pytest.raises(MarginbenchError, match=r"'arcface' is already taken by .*arcface\.py"):
        load_plugin(path)
    with pytest.raises(MarginbenchError, match="no such file"):
        load_plugin(tmp_path / "none.py")


def test_a_file_dropped_into_a_family_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import marginbench.methods.output_margin as family

    (tmp_path / "dropped.py").write_text(HEAD.replace("KEY", "dropped").replace('"baselines"', '"output_margin"'))
    monkeypatch.setattr(registry_module, "_methods", {})
    monkeypatch.setattr(family, "__path__", [*family.__path__, str(tmp_path)])
    registry_module._scan.cache_clear()
    try:
        assert "dropped" in names()
    finally:
        registry_module._scan.cache_clear()
        sys.modules.pop("marginbench.methods.output_margin.dropped", None)


def test_entry_points_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "third_party.py").write_text(HEAD.replace("KEY", "third_party"))
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[marginbench.methods]\nthird_party = third_party\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry_module, "_methods", {})
    registry_module._scan.cache_clear()
    try:
        assert "third_party" in names()
    finally:
        registry_module._scan.cache_clear()
        sys.modules.pop("third_party", None)


def test_the_folders_cannot_be_imported_a_second_time() -> None:
    root = Path(__file__).parents[2]
    for folder in ("methods", "benchmarks"):
        code = f"import sys; sys.path.insert(0, {str(root)!r}); import {folder}"
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"import marginbench.{folder}" in answer.stderr


def installed(monkeypatch: pytest.MonkeyPatch, folder: Path, package: str, group: str, text: str) -> None:
    """A package with one module, of the same name, that an entry point of the group names."""
    (folder / f"{package}.py").write_text(text)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{package} = {package}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, package, raising=False)


@pytest.fixture
def scanned_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry_module, "_methods", {})
    caches = registry_module._scan, load_installed_plugins
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("scanned_again")
@pytest.mark.parametrize("group", ["marginbench.methods", "marginbench.plugins"])
def test_a_broken_entry_point_is_a_warning_and_disables_itself_alone(
    group: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    second = HEAD.replace("class A", "class B").replace("KEY", "arcface")
    installed(monkeypatch, tmp_path, "good_package", group, HEAD.replace("KEY", "good_package"))
    installed(monkeypatch, tmp_path, "broken_package", group, "import no_such_module\n")
    installed(monkeypatch, tmp_path, "greedy_package", group, HEAD.replace("KEY", "half") + second)
    installed(monkeypatch, tmp_path, "empty_package", group, "x = 1\n")
    adding = "import marginbench.benchmarks.registry as r\ndef f(): pass\nr.REGISTRIES[-1].add('half', f)\n"
    installed(monkeypatch, tmp_path, "halfway_package", group, adding + "1 / 0\n")
    things: Registry[Any] = Registry()
    try:
        load_installed_plugins()
        assert not things or group == "marginbench.methods"  # registries belong to the other group
    finally:
        REGISTRIES.remove(things)
    assert {"good_package", "arcface"} <= set(names()) and "half" not in names()
    assert get("arcface").__module__ == "marginbench.methods.output_margin.arcface"
    warnings = sorted(record.getMessage() for record in caplog.records)
    assert len(warnings) == 4
    for text, package, word in zip(
        warnings,
        ("broken", "empty", "greedy", "halfway"),
        (
            "no_such_module' (" + str(tmp_path / "broken_package.py") + ", line 1)",
            "no subclass",
            "'arcface' is already",
            "division by zero (" + str(tmp_path / "halfway_package.py") + ", line 4)",
        ),
        strict=True,
    ):
        assert f"of package {package}_package is disabled" in text and word in text


def test_a_plugin_file_may_hold_other_things_than_methods(tmp_path: Path) -> None:
    things: Registry[Any] = Registry()
    path = tmp_path / "door.py"
    path.write_text(
        "from marginbench.benchmarks.registry import REGISTRIES\ndef f(): pass\nREGISTRIES[-1].add('mine', f)\n"
    )
    try:
        assert load_plugin(str(path)) == [] and things.added_by(things["mine"].__module__) == ["mine"]
        assert loaded_files() == [path]
        forget_plugins()
        assert not things and loaded_files() == []
        load_plugin(path)  # the file is executed again
        assert list(things) == ["mine"]
    finally:
        REGISTRIES.remove(things)


@pytest.fixture
def second_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version, in which `loss` is given one more argument."""

    def loss(self: Method, net: Any, batch: Any, ctx: Any, stage: str = "none") -> Loss:
        return old(self, net, batch, ctx)

    def update(self: Method, net: Any, batch: Any, ctx: Any, optimiser: Any) -> Loss:
        optimiser.zero_grad()
        loss = self.loss(net, batch, ctx, stage="late")  # type: ignore[call-arg]
        loss.total.backward()
        optimiser.step()
        return loss

    old = Method.loss
    monkeypatch.setattr(Method, "loss", loss)
    monkeypatch.setattr(Method, "update", update)
    monkeypatch.setattr(validation, "CONTRACT", 2)
    monkeypatch.setattr(validation, "ADDED", {("loss", "stage"): 2})


OLD = """    def loss(self, net, batch, ctx):
        loss = super().loss(net, batch, ctx)
        return type(loss)(2 * loss.total)
"""
NEW = OLD.replace("ctx):", "ctx, stage):").replace("2 *", "{'late': 2}[stage] *")


def test_a_plugin_outlives_a_hook_that_gains_an_argument(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    def trained(name: str, text: str) -> list[Tensor]:
        (tmp_path / f"{name}.py").write_text(text.replace("KEY", name))
        load_plugin(tmp_path / f"{name}.py")
        (cls,) = load_plugin(tmp_path / f"{name}.py")  # twice: adapted once
        return list(train(cls(), small_suite(epochs=2), small_data(), 0).net.parameters())

    before = trained("today", HEAD + OLD)
    request.getfixturevalue("second_contract")
    new = HEAD.replace("neutral={}", "neutral={}, contract=2")
    for found in (trained("old", HEAD + OLD), trained("new", new + NEW)):
        assert all(torch.equal(a, b) for a, b in zip(before, found, strict=True))
    for text, words in (
        (HEAD + NEW, r"loss\(self, net, batch, ctx, stage\) should be loss\(self, net, batch, ctx\)"),
        (new + OLD, r"should be loss\(self, net, batch, ctx, stage\)"),
        (new.replace("contract=2", "contract=3"), "written for contract 3, this version of marginbench has 2"),
        (new.replace("contract=2", "contract=0"), "written for contract 0"),
    ):
        with pytest.raises(MarginbenchError, match=words):
            trained("wrong", text)
