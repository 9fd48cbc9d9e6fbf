"""Token ids: the layout of single sentences and pairs, what is cut, and what is kept."""

import logging
from pathlib import Path

import pytest
import torch
from text_support import make_checkpoint, write_rte

from marginbench.benchmarks.data.checkpoint import find_checkpoint
from marginbench.benchmarks.data.dataset import Dataset, load_data
from marginbench.benchmarks.data.glue import TASKS, Sentences
from marginbench.benchmarks.data.tokens import tokenised
from marginbench.methods import MarginbenchError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("hub") / "bert")


def load(folder: Path, checkpoint: Path, max_length: int | None = None) -> Dataset:
    return load_data("rte", 20, folder, folder, checkpoint=str(checkpoint), max_length=max_length)


def ids_of(checkpoint: Path, text: str) -> list[int]:
    words = (checkpoint / "vocab.txt").read_text().split("\n")
    return [words.index(word) for word in text.split()]


def test_a_pair_is_laid_out_as_bert_reads_it(checkpoint: Path, tmp_path: Path) -> None:
    found = Sentences("rte", TASKS["rte"], [("the food", "Not food.")], [0], [("the", "a ab")], [1], "0")
    arrays = tokenised(found, checkpoint, 64, tmp_path)
    wanted = ids_of(checkpoint, "[CLS] the food [SEP] not food . [SEP]")
    assert arrays.x_train[0, 0, 0].tolist() == wanted
    assert arrays.x_train[0, 1, 0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    test = ids_of(checkpoint, "[CLS] the [SEP] a a ##b [SEP] [PAD]")
    assert arrays.x_test[0, 0, 0].tolist() == test
    assert arrays.x_test[0, 1, 0].tolist() == [1, 1, 1, 2, 2, 2, 2, 0]


def test_a_sentence_has_one_segment_and_quotation_marks_are_words(checkpoint: Path, tmp_path: Path) -> None:
    found = Sentences("sst2", TASKS["sst2"], [('the "food',)], [1], [("the",)], [0], "0")
    arrays = tokenised(found, checkpoint, 64, tmp_path)
    assert arrays.x_train[0, 0, 0].tolist() == ids_of(checkpoint, '[CLS] the " food [SEP]')
    assert arrays.x_train[0, 1, 0].tolist() == [1] * 5


def test_what_is_too_long_loses_the_end_of_its_longer_sentence(checkpoint: Path, tmp_path: Path) -> None:
    found = Sentences("rte", TASKS["rte"], [("a b c d e f", "not the")], [0], [("a", "a")], [1], "0")
    arrays = tokenised(found, checkpoint, 8, tmp_path)
    assert arrays.x_train[0, 0, 0].tolist() == ids_of(checkpoint, "[CLS] a b c [SEP] not the [SEP]")


def test_the_splits_are_of_train_and_dev(checkpoint: Path, tmp_path: Path) -> None:
    write_rte(tmp_path)
    data = load(tmp_path, checkpoint)
    assert (len(data.train), len(data.validation), len(data.test)) == (100, 20, 40)
    assert data.num_classes == 2
    assert data.text is not None
    assert data.text.metrics == ()
    assert data.checkpoint == checkpoint
    rows = torch.cat([data.train.x, data.validation.x])
    assert len(torch.unique(rows.flatten(1), dim=0)) == 120


def test_ids_are_kept_and_read_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_rte(tmp_path)
    first = load(tmp_path, checkpoint)
    (kept,) = (tmp_path / "tokens").iterdir()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patch:
        patch.setattr("marginbench.benchmarks.data.tokens._tokenizer", never)
        assert load(tmp_path, checkpoint).fingerprint == first.fingerprint
    kept.write_bytes(b"PK")
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path, checkpoint).fingerprint == first.fingerprint
    assert "made again" in caplog.text


def test_another_length_or_checkpoint_is_another_set(checkpoint: Path, tmp_path: Path) -> None:
    folder = write_rte(tmp_path)
    first = load(tmp_path, checkpoint)
    assert load(tmp_path, checkpoint, 8).fingerprint != first.fingerprint
    other = tmp_path / "other"
    make_checkpoint(other)
    assert load(tmp_path, other).fingerprint == first.fingerprint
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert load(tmp_path, other).fingerprint != first.fingerprint
    (folder / "dev.tsv").write_text((folder / "dev.tsv").read_text().replace("\tthe ", "\ta ", 1))
    assert load(tmp_path, checkpoint).fingerprint != first.fingerprint


def test_a_folder_that_cannot_be_written_is_no_obstacle(checkpoint: Path, tmp_path: Path) -> None:
    write_rte(tmp_path)
    (tmp_path / "tokens").write_text("a file in its place")
    assert len(load(tmp_path, checkpoint).test) == 40


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (("config.json",), "no config.json"),
        (("model.safetensors",), "no model.safetensors.*pickled weights are not read"),
        (("vocab.txt", "tokenizer.json"), "no vocab.txt or tokenizer.json"),
    ],
)
def test_a_checkpoint_that_lacks_files_is_told(lost: tuple[str, ...], told: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "bert")
    for name in lost:
        (folder / name).unlink()
    with pytest.raises(MarginbenchError, match=told):
        find_checkpoint("bert", [tmp_path])


def test_a_pointer_is_no_checkpoint(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "bert")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(MarginbenchError, match=r"model\.safetensors: it is a Git LFS pointer"):
        find_checkpoint("bert", [tmp_path])


def test_the_first_place_with_the_folder_counts_and_else_the_hub(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "nothing", checkpoint.parent]
    assert find_checkpoint(checkpoint.name, places) == checkpoint
    asked: list[str] = []

    def hub(name: str, **_: object) -> str:
        asked.append(name)
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    assert find_checkpoint("google-bert/bert-base-uncased", places) == checkpoint
    assert asked == ["google-bert/bert-base-uncased"]


def test_words_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "bert")
    write_rte(tmp_path)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(MarginbenchError, match="no tokenizer can be read"):
        load(tmp_path, folder)
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize(
    ("config", "told"),
    [('{"vocab_size": 5}', "its network has 5 words: are all its files of one model"), ("{}", "no vocab_size can be")],
)
def test_a_network_of_fewer_words_is_told(config: str, told: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "bert")
    write_rte(tmp_path)
    (folder / "config.json").write_text(config)
    with pytest.raises(MarginbenchError, match=told):
        load(tmp_path, folder)
