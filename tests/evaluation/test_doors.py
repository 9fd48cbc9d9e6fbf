"""An attack, a certificate, a probe and a doubt of one's own: each is one file, and nothing else is edited.

The files are in tests/doors/, as a user would write them.
"""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from support import Run

from marginbench.benchmarks import load_plugin
from marginbench.benchmarks.attacks.scan import ATTACKS
from marginbench.benchmarks.certificates.scan import CERTIFICATES
from marginbench.benchmarks.evaluation.canaries import linear, planted
from marginbench.benchmarks.evaluation.doubts import DOUBTS
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.probes.scan import PROBES
from marginbench.benchmarks.records.metrics import summarise
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.methods import NORMS, MarginbenchError, Net, Norm, NotApplicable, names

FEW = "Fewer than 100 points were evaluated: a share of them is off by up to ten per cent."
NAMES = ("attack", "certificate", "probe", "doubt")
DOORS = Path(__file__).parents[1] / "doors"
SUITE = """
name = "own"
title = "with estimators of one's own"
seeds = 1
data = { name = "digits", validation = 200 }
network = { name = "linear" }
training = { epochs = 1, batch_size = 128, learning_rate = 1e-2 }

[evaluation]
points = 64
epsilon = { linf = 0.05, l2 = 0.25 }
attacks = { deepfool = {}, darken = { strength = 0.4 } }
certificates = { affine = {} }
mirror = { vertical = true }
"""


def opened(folder: Path = DOORS) -> None:
    for name in NAMES:
        load_plugin(folder / f"my_{name}.py")


def a_suite(folder: Path, text: str = SUITE) -> Suite:
    (folder / "own.toml").write_text(text)
    return load_suite(str(folder / "own.toml"))


def none(net: Net, x: object, norm: Norm) -> NotApplicable:
    return NotApplicable("none")


def test_each_is_one_file(tmp_path: Path) -> None:
    before = [set(registry) for registry in (ATTACKS, CERTIFICATES, PROBES, DOUBTS)]
    opened()
    added = [set(registry) - old for registry, old in zip((ATTACKS, CERTIFICATES, PROBES, DOUBTS), before, strict=True)]
    assert added == [{"darken"}, {"affine"}, {"mirror"}, {"few_points"}]
    settings, canary = a_suite(tmp_path).evaluation, linear()
    found = evaluate(canary.net, none, canary.data, settings, "test")
    for norm in NORMS:
        exact = canary.exact[norm].numpy()
        known = np.isfinite(exact)
        assert (found.arrays[f"upper_{norm}_darken"][known] >= exact[known] * (1 - 1e-5)).all()
        np.testing.assert_allclose(found.arrays[f"lower_{norm}_affine"][known], exact[known], rtol=1e-3)
        assert found.estimators[f"darken_{norm}"]["backward"] == 0
    (probe,) = settings.probes.values()
    metrics = summarise(found.arrays, settings.epsilon) | probe.metrics(found.arrays, settings.epsilon)
    assert [column.name for column in probe.columns if column.name in metrics] == ["mirror_agreement"]
    assert 0 < metrics["mirror_agreement"] < 1 and probe.note(settings.epsilon).startswith("mirrored =")
    assert found.doubts["few_points"] == "64 points"
    assert found.explanations["few_points"] == FEW and set(found.explanations) == set(found.doubts)
    planted_found = evaluate(planted().net, none, planted().data, settings, "test")
    assert planted_found.estimators["affine_l2"]["not_applicable"] == "the network is not affine"


def test_an_array_is_not_overwritten(tmp_path: Path) -> None:
    for name in NAMES:
        source = (DOORS / f"my_{name}.py").read_text().replace("mirrored_prediction", "prediction")
        (tmp_path / f"my_{name}.py").write_text(source)
    opened(tmp_path)
    canary = linear()
    with pytest.raises(MarginbenchError, match="probe 'mirror': the array name 'prediction' is taken"):
        evaluate(canary.net, none, canary.data, a_suite(tmp_path).evaluation, "test")


@pytest.mark.parametrize("place", ["{", "("])
def test_a_metric_is_not_overwritten(tmp_path: Path, run: Run, place: str) -> None:
    """A column is refused at the start, a metric without one when it is there."""
    for name in NAMES:
        source = (DOORS / f"my_{name}.py").read_text()
        source = source.replace(f'{place}"mirror_agreement"', f'{place}"clean_accuracy"')
        (tmp_path / f"my_{name}.py").write_text(source)
    (tmp_path / "own.toml").write_text(SUITE)
    plugins = [word for name in NAMES for word in ("--plugin", tmp_path / f"my_{name}.py")]
    words = ("--suite", tmp_path / "own.toml", "--methods", "ce", "--out", tmp_path / "out", *plugins)
    code, _, complaint = run("run-all", *words)
    if place == "(":
        assert code == 2 and "evaluation.mirror: tables have a column 'clean_accuracy' already" in complaint
        return
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").rglob("runs/*.json"))
    assert (
        record["status"] == "failed" and "probe 'mirror': the metric name 'clean_accuracy' is taken" in record["error"]
    )


def test_answers_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    for name in NAMES:
        source = (DOORS / f"my_{name}.py").read_text().replace(".clamp(min=0)", ".clamp(min=0)[:, None]")
        (tmp_path / f"my_{name}.py").write_text(source)
    opened(tmp_path)
    canary = linear()
    with pytest.raises(MarginbenchError, match=r"certificate 'affine' returned \(64, 1\), shape \(64,\) needed"):
        evaluate(canary.net, none, canary.data, a_suite(tmp_path).evaluation, "test")


def test_the_command_line_takes_them_as_plug_ins(tmp_path: Path, run: Run) -> None:
    (tmp_path / "own.toml").write_text(SUITE)
    plugins = [word for name in NAMES for word in ("--plugin", DOORS / f"my_{name}.py")]
    out = tmp_path / "out"
    code, _, errors = run("run-all", "--suite", tmp_path / "own.toml", "--methods", "ce", "--out", out, *plugins)
    assert code == 0, errors
    (record,) = (json.loads(path.read_text()) for path in out.rglob("runs/*.json"))
    assert 0 <= record["metrics"]["mirror_agreement"] <= 1 and "few_points" in record["doubts"]
    assert {"darken_l2", "affine_linf", "mirror"} <= set(record["estimators"])


def test_sections_read_like_those_that_are_built_in(tmp_path: Path) -> None:
    opened()
    suite = a_suite(tmp_path)
    assert suite.model_dump(mode="json")["evaluation"]["mirror"] == {"vertical": True}
    assert suite.model_dump(mode="json")["evaluation"]["smoothing"] is None
    assert Evaluation.model_validate(suite.evaluation.model_dump()) == suite.evaluation
    assert suite.evaluation.model_copy(update={"points": 5}).probes == suite.evaluation.probes
    for line, words in (
        ("mirror = { vertical = 1 }", r"evaluation\.mirror\.vertical=1: input should be a valid boolean"),
        ("mirror = { vertica = true }", r"unknown key 'evaluation\.mirror\.vertica': did you mean 'vertical'"),
        ("mirrors = {}", r"unknown key 'evaluation\.mirrors': did you mean 'mirror'.*smoothing"),
    ):
        with pytest.raises(MarginbenchError, match=words):
            a_suite(tmp_path, SUITE.replace("mirror = { vertical = true }", line))
    with pytest.raises(ValidationError, match=r"rejection\.tpr"):
        Evaluation.model_validate(suite.evaluation.model_dump() | {"rejection": {"tpr": 2.0, "steps": 1}})


def test_records_depend_on_the_files_that_the_suite_names(tmp_path: Path) -> None:
    """Built-in estimators add nothing; an edited file makes the records stale, its folder and its doubts do not."""
    for file in DOORS.glob("my_*.py"):
        (tmp_path / file.name).write_text(file.read_text())
    opened(tmp_path)
    prints = [a_suite(tmp_path).fingerprint]
    assert len(a_suite(tmp_path).evaluation.sources()) == 3 and load_suite("digits").evaluation.sources() == {}
    for name in NAMES:
        file = tmp_path / f"my_{name}.py"
        file.write_text(file.read_text() + "# changed\n")
        opened(tmp_path)
        prints.append(a_suite(tmp_path).fingerprint)
    assert len(set(prints[:4])) == 4 and prints[4] == prints[3]


def test_another_process_reads_the_suite_before_it_loads_the_plug_ins(tmp_path: Path) -> None:
    opened()
    (tmp_path / "suite").write_bytes(pickle.dumps(a_suite(tmp_path)))
    code = f"""
import pickle
from pathlib import Path
from marginbench.benchmarks import load_plugin
suite = pickle.loads(Path({str(tmp_path / "suite")!r}).read_bytes())
for name in ("attack", "certificate", "probe", "doubt"):
    load_plugin(f"{DOORS}/my_{{name}}.py")
print(suite.fingerprint, suite.evaluation.probes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    suite = a_suite(tmp_path)
    assert done.stdout.strip() == f"{suite.fingerprint} {suite.evaluation.probes}"


@pytest.mark.parametrize(
    ("old", "new"), [("attack", "darken>noise"), ("certificate", "affine>crown"), ("doubt", "few_points>collapse")]
)
def test_a_name_that_is_taken_is_refused(tmp_path: Path, old: str, new: str) -> None:
    before, after = new.split(">")
    file = tmp_path / f"my_{old}.py"
    file.write_text((DOORS / file.name).read_text().replace(f"def {before}(", f"def {after}("))
    with pytest.raises(MarginbenchError, match=f"{old}.py.*the name '{after}' is already taken by .*/benchmarks/"):
        load_plugin(file)


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("certificate", "def affine(", "def own("),
        *(("probe", 'key = "mirror"', f'key = "{key}"') for key in (*Evaluation.model_fields, "doubts")),
    ],
)
def test_a_name_that_means_something_else_is_refused(tmp_path: Path, kind: str, old: str, new: str) -> None:
    source = (DOORS / f"my_{kind}.py").read_text()
    assert old in source
    (tmp_path / "mine.py").write_text(source.replace(old, new))
    with pytest.raises(MarginbenchError, match=r"mine\.py.*the name '\w+' is reserved"):
        load_plugin(tmp_path / "mine.py")


def test_an_attack_and_a_certificate_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened()
    monkeypatch.setitem(CERTIFICATES, "noise", CERTIFICATES["crown"])
    with pytest.raises(MarginbenchError, match=r"evaluation\.attacks\.noise: a certificate has this name"):
        a_suite(tmp_path, SUITE.replace("affine = {}", "noise = {}").replace("deepfool = {}", "noise = {}"))


def test_an_edited_file_replaces_all_that_it_defined(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    one = (DOORS / "my_attack.py").read_text()
    other = one.replace("def darken(", "def lighten(")
    for source, new, old in ((one, "darken", "lighten"), (other, "lighten", "darken"), (one, "darken", "lighten")):
        file.write_text(source)
        load_plugin(file)
        assert new in ATTACKS and old not in ATTACKS
    load_plugin(DOORS / "my_probe.py")
    file.write_text((DOORS / "my_doubt.py").read_text())
    load_plugin(file)
    assert "darken" not in ATTACKS and "few_points" in DOUBTS and "mirror" in PROBES


def test_an_edited_file_replaces_its_methods_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    for key, other in (("one", "two"), ("two", "one"), ("one", "two")):
        file.write_text(f"""
from dataclasses import replace
from marginbench.methods.registry import get

class Mine(get("ce")):
    "That of ce, for logits [B, K]."
    info = replace(get("ce").info, key="{key}")
""")
        assert [method.info.key for method in load_plugin(file)] == [key]
        assert key in names() and other not in names()


@pytest.mark.parametrize(
    ("name", "cut", "words"),
    [
        ("probe", 'key = "mirror"', "Mirror: a probe has key"),
        (
            "doubt",
            '"""Fewer than 100 points were evaluated: a share of them is off by up to ten per cent."""',
            "docstring",
        ),
        ("attack", "*, strength: float = 0.5", r"darken: write \(q: Query, \*, setting=default"),
    ],
)
def test_what_is_not_complete_is_refused(tmp_path: Path, name: str, cut: str, words: str) -> None:
    source = (DOORS / f"my_{name}.py").read_text()
    assert cut in source
    (tmp_path / "mine.py").write_text(source.replace(cut, "strength: float" if name == "attack" else ""))
    with pytest.raises(MarginbenchError, match=words):
        load_plugin(tmp_path / "mine.py")
