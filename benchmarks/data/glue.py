"""The tasks of GLUE (Wang et al., ICLR 2019, arXiv 1804.07461) from TSV files in its own layout.

The labels of GLUE's test files are hidden: `dev.tsv` is the test split here, as in papers. Fields are split at tabs and
nothing else: quotation marks mean themselves. `train.tsv` of QQP has broken lines, which everybody leaves out, and two
pairs with an empty question (huggingface/datasets, issue 277), which go with them: there is nothing in them to read.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from marginbench.benchmarks.data.glue_fetch import fetch
from marginbench.benchmarks.extras import TEXT
from marginbench.benchmarks.machine.files import placeholder
from marginbench.methods import MarginbenchError
from marginbench.methods.words import counted

log = logging.getLogger(__name__)

AGAIN = "copy or download the file again"
BROKEN = 1e-3  # share of the training lines that may be left out
ABOVE = ("", "glue", "GLUE", "glue_data")  # folders of the data folder that may hold those of the tasks


@dataclass(frozen=True)
class Task:
    """How the files of a task are laid out."""

    folder: str
    columns: tuple[str, ...]  # of the sentence, or of both, by the header
    label: str  # its column
    classes: tuple[str, ...]  # class k is written so; the order is that of the hub's `nyu-mll/glue`
    metrics: tuple[str, ...] = ()  # by which GLUE judges it beside accuracy: names in `records.scores`
    dev: str = "dev.tsv"
    header: tuple[str, ...] = ()  # of files that have none
    hub: tuple[str, str] = ("", "validation")  # configuration and split there


BINARY = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")
THREE = ("entailment", "neutral", "contradiction")
PAIR = ("sentence1", "sentence2")
TASKS: Mapping[str, Task] = {
    "cola": Task("CoLA", ("sentence",), "label", BINARY, ("matthews",), header=("source", "label", "mark", "sentence")),
    "sst2": Task("SST-2", ("sentence",), "label", BINARY),
    "mrpc": Task("MRPC", ("#1 String", "#2 String"), "Quality", BINARY, ("f1",)),
    "qqp": Task("QQP", ("question1", "question2"), "is_duplicate", BINARY, ("f1",)),
    "qnli": Task("QNLI", ("question", "sentence"), "label", ENTAILMENT),
    "rte": Task("RTE", PAIR, "label", ENTAILMENT),
    "wnli": Task("WNLI", PAIR, "label", BINARY),
    "mnli": Task("MNLI", PAIR, "gold_label", THREE, dev="dev_matched.tsv", hub=("mnli", "validation_matched")),
    "mnli_mm": Task("MNLI", PAIR, "gold_label", THREE, dev="dev_mismatched.tsv", hub=("mnli", "validation_mismatched")),
}
NOT_APPLICABLE: Mapping[str, str] = {
    "stsb": "STS-B grades pairs of sentences from 0 to 5. That is a regression: there are no classes for a margin to"
    " lie between, and its Pearson and Spearman correlations are of no classifier"
}


@dataclass(frozen=True)
class Sentences:
    """A task as text: rows (sentence,) or (sentence, sentence) and their classes."""

    name: str
    task: Task
    train: Sequence[tuple[str, ...]]
    train_labels: Sequence[int]
    test: Sequence[tuple[str, ...]]
    test_labels: Sequence[int]
    sha256: str  # of both files


def read_task(name: str, data_dir: Path) -> Sentences:
    """Read a task. Where its files are missing, they are fetched from the hub if `datasets` is there.

    Raises:
        MarginbenchError: a file is missing or malformed, with its line.
    """
    task = TASKS[name]
    folder = _folder(name, task, data_dir)
    parts, content = [], hashlib.sha256()
    for file, broken in (("train.tsv", BROKEN), (task.dev, 0.0)):
        path = folder / file
        try:
            if (problem := placeholder(path)) is not None:
                raise MarginbenchError(f"{path}: it {problem}")
            raw = path.read_bytes()
            text = raw.decode("utf-8-sig")
        except OSError as error:
            raise MarginbenchError(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise MarginbenchError(f"{path}: not UTF-8 text ({error}): save it as UTF-8, or {AGAIN}") from None
        content.update(hashlib.sha256(raw).digest())
        parts.append(_rows(path, text, task, broken))
    (train, train_labels), (test, test_labels) = parts
    return Sentences(name, task, train, train_labels, test, test_labels, content.hexdigest())


def _folder(name: str, task: Task, data_dir: Path) -> Path:
    """Where both files are."""
    wanted = ("train.tsv", task.dev)
    looked = [data_dir / above / task.folder for above in ABOVE]
    for folder in looked:
        if all((folder / file).is_file() for file in wanted):
            return folder
    missing = " and ".join(file for file in wanted if not (looked[0] / file).is_file())
    config, split = task.hub
    try:
        fetch(looked[0], config or name, {"train.tsv": "train", task.dev: split}, partial(_lines, task))
    except MarginbenchError as error:
        raise MarginbenchError(
            f"data {name!r}: no {missing} in {looked[0]}: copy GLUE's folder {task.folder} there (from"
            " gluebenchmark.com/tasks; or where there is a network run the command once, after"
            f" {TEXT.advice}), or set data_dir or MARGINBENCH_DATA to the folder that has it; {error}"
        ) from None
    return looked[0]


def _rows(path: Path, text: str, task: Task, broken: float) -> tuple[list[tuple[str, ...]], list[int]]:
    """The sentences and classes of a file."""
    lines = text.removesuffix("\n").split("\n")  # not splitlines: sentences hold other separators of lines
    header = task.header or tuple(lines.pop(0).rstrip("\r").split("\t"))
    first = 1 if task.header else 2
    needed = (*task.columns, task.label)
    if missing := [column for column in needed if column not in header]:
        raise MarginbenchError(
            f"{path}, line 1: no column {missing[0]!r} among {', '.join(header)}: is it GLUE's {task.folder}?"
        )
    places = [header.index(column) for column in needed]
    number = {label: k for k, label in enumerate(task.classes)}
    if not any(lines):
        raise MarginbenchError(f"{path}: has no sentences{'' if task.header else ' below its header'}: {AGAIN}")
    rows, labels, wrong = [], [], []
    for at, line in enumerate(lines, first):
        fields = line.rstrip("\r").split("\t")
        if fault := _fault(fields, header, places, number):
            wrong.append(f"line {at}: {fault}: {line[:60]!r}")
            continue
        rows.append(tuple(fields[i] for i in places[:-1]))
        labels.append(number[fields[places[-1]]])
    if wrong:
        seen, lost = f"{path}, {wrong[0]}", counted(len(wrong), "faulty line")
        if len(wrong) > broken * len(lines):
            raise MarginbenchError(f"{seen} ({lost} of {len(lines)}): {AGAIN}")
        log.warning("%s; %s of %d left out", seen, lost, len(lines))
    if absent := [name for name, k in number.items() if k not in labels]:
        raise MarginbenchError(f"{path}: no line has the class {absent[0]!r}: {AGAIN}, whole")
    return rows, labels


def _fault(
    fields: Sequence[str], header: Sequence[str], places: Sequence[int], classes: Mapping[str, int]
) -> str | None:
    """What is wrong with a line, if anything.

    Args:
        places: of the sentences, and last of the label.
    """
    if len(fields) != len(header):
        return f"{counted(len(fields), 'field')} between tabs, and {len(header)} are needed ({', '.join(header)})"
    if (label := fields[places[-1]]) not in classes:
        return f"{header[places[-1]]}={label!r} is no class; classes are {', '.join(classes)}"
    empty = [header[place] for place in places[:-1] if not fields[place].strip()]
    return f"{empty[0]} is empty" if empty else None


def _lines(task: Task, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of a task's file from rows of the hub: both name sentences otherwise, and have them in one order."""
    header = task.header or (*task.columns, task.label)
    if not task.header:
        yield "\t".join(header)
    for row in rows:
        sentences = [" ".join(str(value).split()) for key, value in row.items() if key not in ("label", "idx")]
        known = dict(zip(task.columns, sentences, strict=True))
        known[task.label] = task.classes[row["label"]]
        yield "\t".join(known.get(name, "-") for name in header)
