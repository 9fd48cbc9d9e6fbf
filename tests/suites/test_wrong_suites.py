"""Suite files as editors write them, and what is wrong in one: all of it at once, each with the remedy."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from data_support import arrays, save
from support import Run

from marginbench.benchmarks.runs.choice import choose_methods
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import MarginbenchError, rows, spec_of
from marginbench.methods.errors import SHOWN, Problems, SeveralError


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_file_of_any_editor_is_the_same_suite(tiny: Path, mark: str, newline: str) -> None:
    wanted = load_suite(str(tiny)).fingerprint
    path = tiny.with_name("other.toml")
    path.write_bytes((mark + tiny.read_text().replace("\n", newline)).encode())
    assert load_suite(str(path)).fingerprint == wanted


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('name = "é"'.encode("utf-16"), "not UTF-8 text"),
        ('name = "é"'.encode("latin-1"), "not UTF-8 text"),
        (b"a = " + b"[" * 10**6, "not valid TOML"),
        (b"\x00", "not valid TOML"),
        (b"", "key 'name' is missing"),
    ],
)
def test_what_is_no_suite_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(MarginbenchError, match=words):
        load_suite(str(path))


def refusal(tiny: Path, *changes: tuple[str, str]) -> str:
    text = tiny.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    tiny.write_text(text)
    with pytest.raises(MarginbenchError) as caught:
        load_suite(str(tiny)).load_data()
    return str(caught.value)


RADII = "{ linf = 0.05, l2 = 0.25 }"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (RADII, "8", ["evaluation.epsilon=8", "pixels of [0, 1]", "linf = 0.1"]),
        (RADII, "inf", ["evaluation.epsilon=inf", "pixels of [0, 1]"]),
        ("linf = 0.05", "linf = 8", ["linf=8 reaches every image", "for 8/255 write 0.03137"]),
        ("linf = 0.05", "linf = 1.0", ["linf=1 reaches every image"]),
        ("linf = 0.05", "linf = inf", ["evaluation.epsilon.linf=inf", "finite"]),
        ("linf = 0.05", "linf = nan", ["evaluation.epsilon.linf=nan", "finite"]),
        ("linf = 0.05", "linf = 0", ["evaluation.epsilon.linf=0", "greater than 0"]),
        ("l2 = 0.25", "l2 = 128", ["l2=128 reaches every image", "8 apart", "for 128/255 write 0.502"]),
        ("l2 = 0.25", "l2 = -1", ["evaluation.epsilon.l2=-1"]),
        ("learning_rate = 1e-2", "learning_rate = inf", ["training.learning_rate=inf", "finite"]),
        ("learning_rate = 1e-2", "learning_rate = nan", ["training.learning_rate=nan", "finite"]),
        ("steps = 5", "steps = nan", ["evaluation.attacks.deepfool", "steps=nan", "finite"]),
        ("blend = {}", "blend = { a = { b = [inf] } }", ["evaluation.attacks.blend", "finite"]),
        ("epochs = 2", f"epochs = {10**20}", ["training.epochs=", "less than"]),
        ('["ce", "arcface(m=0.1,s=16)"]', "[]", ["methods", "at least 1"]),
        ("seeds = 1", f"seeds = {10**6}", ["seeds=1000000", "10000"]),
        ("points = 30", f"points = {10**20}", ["evaluation.points=", "less than"]),
        ("width = 16", f"width = {10**20}", ["network.width=", "less than"]),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused(tiny: Path, old: str, new: str, words: list[str]) -> None:
    text = refusal(tiny, (old, new))
    assert all(word in text for word in words), text


def test_all_that_is_wrong_is_told_at_once(tiny: Path) -> None:
    text = refusal(
        tiny,
        ("epochs = 2", "epoch = 2"),
        ("seeds = 1", "seeds = 0"),
        ("l2 = 0.25", "l2 = nan"),
        ("steps = 5", "step = 5"),
        ("blend = {}", "blent = {}"),
        ("crown = {}", "crowm = {}"),
    )
    head, *lines = text.splitlines()
    assert head == f"suite {tiny}: 6 problems:" and all(line.startswith("- ") for line in lines)
    for words in ("training.epoch': did you mean 'epochs'", "seeds=0", "l2=nan", "deepfool.step", "blent", "crowm"):
        assert sum(words in line for line in lines) == 1, words


def test_rows_that_are_left_out(tiny: Path) -> None:
    """A suite of all methods may leave some out, so that a new one is in it; a list says itself what it holds."""
    whole = tiny.read_text()
    text = whole.replace('methods = ["ce", "arcface(m=0.1,s=16)"]', 'without = ["mmr", "roll"]')
    tiny.write_text(text)
    suite = load_suite(str(tiny))
    assert set(rows()) - set(suite.rows) == {"mmr", "roll"} and len(suite.rows) == len(rows()) - 2
    assert [spec_of(method) for method in choose_methods(None, suite)] == list(suite.rows)
    assert [spec_of(method) for method in choose_methods(["mmr"], suite)] == ["mmr"], "who names it gets it"
    tiny.write_text(whole)
    assert load_suite(str(tiny)).fingerprint == suite.fingerprint, "which runs there are is no part of what they are"
    tiny.write_text(text.replace("roll", "rol"))
    with pytest.raises(MarginbenchError, match="without: no row 'rol': did you mean 'roll'"):
        choose_methods(None, load_suite(str(tiny)))
    tiny.write_text(text.replace("without", 'methods = ["ce"]\nwithout'))
    with pytest.raises(MarginbenchError, match="leave them out there"):
        load_suite(str(tiny))


def test_a_wrong_table_of_attacks_hides_no_wrong_certificate(tiny: Path) -> None:
    text = refusal(tiny, ("blend = {}", "blend = 3"), ("crown = {}", "crowm = {}"))
    assert "attacks.blend=3" in text and "certificates.crowm" in text


def test_changes_of_a_suite_are_told_at_once_too(tiny: Path) -> None:
    with pytest.raises(MarginbenchError, match=r"(?s)2 problems:\n- .*epochs=0.*\n- .*attacks\.nothing"):
        derive(load_suite(str(tiny)), {"training.epochs": 0, "evaluation.attacks.nothing": {}})


def test_more_problems_than_anyone_reads_are_counted() -> None:
    problems = Problems("input")
    for number in range(SHOWN + 3):
        problems.add(f"problem {number}.")
    with pytest.raises(MarginbenchError) as caught:
        problems.report()
    head, *lines = str(caught.value).splitlines()
    assert head == f"input: {SHOWN + 3} problems:" and len(lines) == SHOWN + 1 and lines[-1] == "- and 3 more"


def test_problems_inside_problems_are_told_in_one_list() -> None:
    inner, outer = Problems("files"), Problems("input")
    with outer.collected():
        inner.add("no a.")
        inner.report()
    inner.add("no b,\n\n   nor c.")
    with pytest.raises(SeveralError, match=r"^files: 2 problems:\n- no a\.\n- no b, nor c\.$") as alone:
        inner.report()
    assert pickle.loads(pickle.dumps(alone.value)).problems == alone.value.problems  # workers send it
    with outer.collected():
        inner.report()
    with pytest.raises(SeveralError, match=r"^input: 3 problems:\n- files: no a\.\n- no a\.\n- no b, nor c\.$"):
        outer.report()


def test_the_command_line_says_one_thing_in_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MarginbenchError("a.json: a library says:\n\n  line 3 is wrong\n")

    monkeypatch.setattr("marginbench.benchmarks.runs.status.status", refuse)
    assert run("status", tmp_path)[2] == "error: a.json: a library says: line 3 is wrong\n"


def test_a_radius_is_held_against_the_images(tmp_path: Path, tiny: Path) -> None:
    """An L2 radius of 7.9 means something for 8x8 images, and nothing for those of 4x4."""
    text = tiny.read_text().replace("l2 = 0.25", "l2 = 7.9").replace("validation = 200", "validation = 10")
    tiny.write_text(text)
    assert load_suite(str(tiny)).load_data().shape == (1, 8, 8)
    small = {name: array[:, :4, :4] if array.ndim > 1 else array for name, array in arrays().items()}
    assert np.asarray(small["x_test"]).shape[1:] == (4, 4)
    save(tmp_path / "small.npz", small)
    tiny.write_text(text.replace('name = "digits"', 'name = "small.npz"'))
    with pytest.raises(MarginbenchError, match=re.escape("than 4 apart")):
        load_suite(str(tiny)).load_data()
