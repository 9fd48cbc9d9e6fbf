"""The set of sentences that is made by a rule."""

from pathlib import Path

import numpy as np
import pytest
import torch

from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.data.sentences import BAD, GOOD, WORDS, all_sentences, sentences
from marginbench.benchmarks.data.text import as_tensor
from marginbench.methods import MarginbenchError


def test_the_class_is_that_of_the_last_word_unless_it_is_negated() -> None:
    every = dict(all_sentences())
    assert every["the food was really wonderful"] == 1
    assert every["the food was not really wonderful"] == 0
    assert every["the food was not awful"] == 1
    assert every["the food was awful"] == 0


def test_no_word_alone_tells_the_class() -> None:
    every = all_sentences()
    for word in {word for text, _ in every for word in text.split()}:
        labels = [label for text, label in every if word in text.split()]
        assert np.mean(labels) == 0.5, word


def test_no_test_sentence_is_a_training_sentence_and_classes_are_about_even() -> None:
    found = sentences()
    train, test = ({row.tobytes() for row in x} for x in (found.x_train, found.x_test))
    assert len(train) == 2000
    assert len(test) == 500
    assert not train & test
    assert 0.45 < found.y_train.mean() < 0.55


def test_sentences_are_stored_in_their_words() -> None:
    found = sentences()
    assert found.x_train.shape == (2000, 2, 1, 8)
    words = [[WORDS[i] for i in row] for row in found.x_train[:, 0, 0]]
    segments = found.x_train[:, 1, 0]
    for row, kinds, label in zip(words, segments, found.y_train, strict=True):
        text = [word for word, kind in zip(row, kinds, strict=True) if kind]
        assert text[0] == "[CLS]"
        assert text[-1] == "[SEP]"
        assert set(row[len(text) :]) <= {"[PAD]"}
        assert text[-2] in GOOD + BAD
        assert (text[-2] in GOOD) != ("not" in text) or label == 0


def test_a_batch_is_whole_numbers_and_statistics_of_pixels_are_none(tmp_path: Path) -> None:
    data = load_data("sentences", 200, tmp_path)
    x = data.train.images(slice(3))
    assert x.dtype == torch.int64
    assert x.equal(data.train.x[:3].long())
    assert data.shape == (2, 1, 8)
    assert (len(data.train), len(data.validation), len(data.test)) == (1800, 200, 500)


def test_the_fingerprint_is_that_of_the_words_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_data("sentences", 200, tmp_path).fingerprint
    assert load_data("sentences", 200, tmp_path).fingerprint == before
    renamed = [word if word != "concert" else "opera" for word in WORDS]
    monkeypatch.setattr("marginbench.benchmarks.data.sentences.WORDS", renamed)
    monkeypatch.setattr("marginbench.benchmarks.data.sentences.SUBJECTS", renamed[5:17])
    assert load_data("sentences", 200, tmp_path).fingerprint != before


@pytest.mark.parametrize(("key", "value"), [("max_length", 5), ("checkpoint", "bert"), ("size", 8)])
def test_keys_of_other_sets_are_refused(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(MarginbenchError, match=key):
        load_data("sentences", 200, tmp_path, **{key: value})


def test_a_length_is_of_no_images(tmp_path: Path) -> None:
    with pytest.raises(MarginbenchError, match="max_length=9: for sentences only"):
        load_data("digits", 200, tmp_path, max_length=9)


def test_rows_are_padded_at_the_end() -> None:
    x = as_tensor([([5, 6, 7], [1, 1, 2]), ([8], [1])], length=4, pad=9)
    assert x.dtype == np.int32
    assert x[:, 0, 0].tolist() == [[5, 6, 7, 9], [8, 9, 9, 9]]
    assert x[:, 1, 0].tolist() == [[1, 1, 2, 0], [1, 0, 0, 0]]
