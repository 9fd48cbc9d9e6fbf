"""The files of GLUE: the columns of each task, what is malformed, and what is fetched where there is a network."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from text_support import write_rte

from marginbench.benchmarks.data.checkpoint import find_checkpoint
from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.data.glue import TASKS, read_task
from marginbench.methods import MarginbenchError

FILES: Mapping[str, tuple[str, str, list[tuple[tuple[str, ...], int]]]] = {  # folder, lines of a file, what it says
    "cola": (
        "CoLA",
        "gj04\t1\t\tOur friends won't buy this.\ngj04\t0\t*\tThe \"box rolled.\n",
        [(("Our friends won't buy this.",), 1), (('The "box rolled.',), 0)],
    ),
    "sst2": (
        "SST-2",
        'sentence\tlabel\na "gem \t1\ndull\t0\n',
        [(('a "gem ',), 1), (("dull",), 0)],
    ),
    "mrpc": (
        "MRPC",
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe left.\tHe went.\n0\t9\t10\tYes.\t"No.\n',
        [(("He left.", "He went."), 1), (("Yes.", '"No.'), 0)],
    ),
    "qqp": (
        "QQP",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\tHow so?\t1\n4\t5\t6\tWho?\t.\t0\n",
        [(("Why?", "How so?"), 1), (("Who?", "."), 0)],
    ),
    "qnli": (
        "QNLI",
        "index\tquestion\tsentence\tlabel\n0\tWhen?\tIn May.\tentailment\n1\tWho?\tIn May.\tnot_entailment\n",
        [(("When?", "In May."), 0), (("Who?", "In May."), 1)],
    ),
    "rte": (
        "RTE",
        "index\tsentence1\tsentence2\tlabel\n0\tA b.\tC\u2028d.\tnot_entailment\n1\tE.\tF.\tentailment\n",
        [(("A b.", "C\u2028d."), 1), (("E.", "F."), 0)],
    ),
    "wnli": (
        "WNLI",
        "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t1\n1\tC.\tD.\t0\n",
        [(("A.", "B."), 1), (("C.", "D."), 0)],
    ),
    "mnli": (
        "MNLI",
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse"
        "\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\t1\t1c\tfiction\t(\t(\t(\t(\tA.\tB.\tneutral\tcontradiction\n"
        "1\t1\t1e\tfiction\t(\t(\t(\t(\tC.\tD.\tneutral\tentailment\n"
        "2\t1\t1n\tfiction\t(\t(\t(\t(\tE.\tF.\tneutral\tneutral\n",
        [(("A.", "B."), 2), (("C.", "D."), 0), (("E.", "F."), 1)],
    ),
}


def put(data_dir: Path, name: str, text: str, above: str = "") -> Path:
    task = TASKS[name]
    folder = data_dir / above / task.folder
    folder.mkdir(parents=True)
    for file in ("train.tsv", task.dev):
        (folder / file).write_bytes(text.encode())
    return folder


def test_every_task_is_tested() -> None:
    assert {*FILES, "mnli_mm"} == set(TASKS)


@pytest.mark.parametrize("name", FILES)
def test_columns_are_those_of_the_task(name: str, tmp_path: Path) -> None:
    folder, text, wanted = FILES[name]
    assert put(tmp_path, name, text).name == folder
    found = read_task(name, tmp_path)
    for rows, labels in ((found.train, found.train_labels), (found.test, found.test_labels)):
        assert list(zip(rows, labels, strict=True)) == wanted


def test_mismatched_mnli_has_a_test_split_of_its_own(tmp_path: Path) -> None:
    text = FILES["mnli"][1]
    folder = put(tmp_path, "mnli", text)
    (folder / "dev_mismatched.tsv").write_text(text.replace("E.\tF.", "G.\tH."))
    assert ("G.", "H.") in read_task("mnli_mm", tmp_path).test
    assert ("G.", "H.") not in read_task("mnli", tmp_path).test


@pytest.mark.parametrize("above", ["", "glue", "GLUE", "glue_data"])
def test_folders_may_stand_below_one_of_their_own(above: str, tmp_path: Path) -> None:
    put(tmp_path, "wnli", FILES["wnli"][1], above)
    assert len(read_task("wnli", tmp_path).train) == 2


def test_lines_of_windows_are_read(tmp_path: Path) -> None:
    put(tmp_path, "wnli", FILES["wnli"][1].replace("\n", "\r\n"))
    assert read_task("wnli", tmp_path).test_labels == [1, 0]


def test_few_broken_training_lines_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header, *lines = FILES["qqp"][1].splitlines(keepends=True)
    folder = put(tmp_path, "qqp", header + "".join(lines))
    faulty = ["7\t8\tWhat\n", "7\t8\t9\tWho?\t\t0\n"]  # cut short; without a second question: QQP has both
    (folder / "train.tsv").write_text(header + "".join([*lines * 1000, *faulty]))
    with caplog.at_level(logging.WARNING):
        found = read_task("qqp", tmp_path)
    assert len(found.train) == 2000
    assert "train.tsv, line 2002" in caplog.text
    assert "2 faulty lines of 2002 left out" in caplog.text


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            {"dev.tsv": ("0\tA.\tB.\t1\n", "0\tA.\t1\n")},
            r"dev\.tsv, line 2: 3 fields between tabs, and 4 are needed \(index, s.*\(1 faulty line of 2\): copy or",
        ),
        (
            {"dev.tsv": ("\t1\n", "\t7\n")},
            r"dev\.tsv, line 2: label='7' is no class; classes are 0, 1: .*: copy or download",
        ),
        ({"train.tsv": ("label", "lable")}, r"train\.tsv, line 1: no column 'label' among .*WNLI"),
        (
            {"train.tsv": ("1\tC.\tD.\t0\n", "")},
            r"train\.tsv: no line has the class '0': copy or download the file again",
        ),
        ({"dev.tsv": ("B.", " ")}, r"dev\.tsv, line 2: sentence2 is empty: .*: copy or download"),
        ({"train.tsv": ("B.", "")}, r"train\.tsv, line 2: sentence2 is empty"),
        ({"dev.tsv": ("0\tA.\tB.\t1\n1\tC.\tD.\t0\n", "")}, r"dev\.tsv: has no sentences below its header: copy or"),
        ({"train.tsv": ("index", "<html>")}, r"train\.tsv: it is a web page"),
    ],
)
def test_malformed_files_are_told_with_their_line(
    damage: Mapping[str, tuple[str, str]], told: str, tmp_path: Path
) -> None:
    folder = put(tmp_path, "wnli", FILES["wnli"][1])
    for name, (old, new) in damage.items():
        (folder / name).write_text((folder / name).read_text().replace(old, new, 1))
    with pytest.raises(MarginbenchError, match=told):
        read_task("wnli", tmp_path)


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    folder = put(tmp_path, "wnli", FILES["wnli"][1])
    (folder / "dev.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MarginbenchError, match=r"dev\.tsv: not UTF-8 text \(.*\): save it as UTF-8, or copy or"):
        read_task("wnli", tmp_path)


def test_a_regression_is_not_applicable_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(MarginbenchError, match="not applicable: STS-B grades pairs"):
        load_data("stsb", 10, tmp_path)


def test_a_task_needs_a_tokenizer(tmp_path: Path) -> None:
    write_rte(tmp_path)
    with pytest.raises(MarginbenchError, match="needs the tokenizer of a checkpoint"):
        load_data("rte", 10, tmp_path, tmp_path)


def test_all_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(MarginbenchError, match="2 problems") as told:
        load_data("rte", 10, tmp_path, tmp_path / "sets", checkpoint="bert-base-uncased")
    for part in ("no train.tsv and dev.tsv in", "copy GLUE's folder RTE", "hf download bert-base-uncased --local-dir"):
        assert part in str(told.value)


def test_where_there_is_a_network_files_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []

    def load_dataset(hub: str, config: str, split: str) -> list[dict[str, Any]]:
        asked.append((hub, config, split))
        return [
            {"premise": "A\tb\nc.", "hypothesis": "D.", "label": 2, "idx": 0},
            {"premise": "E.", "hypothesis": "F.", "label": 0, "idx": 1},
            {"premise": "G.", "hypothesis": "H.", "label": 1, "idx": 2},
        ]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    for _ in range(2):
        found = read_task("mnli_mm", tmp_path)
        assert list(found.test) == [("A b c.", "D."), ("E.", "F."), ("G.", "H.")]
        assert list(found.test_labels) == [2, 0, 1]
    assert asked == [("nyu-mll/glue", "mnli", "train"), ("nyu-mll/glue", "mnli", "validation_mismatched")]


def test_a_hub_that_fails_without_a_word_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(MarginbenchError, match=r"fetching it failed \(ConnectionError\)"):
        read_task("rte", tmp_path)
    with pytest.raises(MarginbenchError, match=r"the hub gave none \(ConnectionError\)"):
        find_checkpoint("bert-base-uncased", [tmp_path])
