"""Which test images are measured: a sample in which every class has its share, the same for every network."""

import hashlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from net_support import build

from marginbench.benchmarks.data.arrays import chosen
from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.evaluation import sandwich
from marginbench.benchmarks.evaluation.sandwich import evaluate
from marginbench.benchmarks.machine.memory import Chunks
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.methods import NotApplicable


def one_by_one(labels: list[int], points: int) -> list[int]:
    """The rule, image by image, in exact numbers."""
    order = sorted(range(len(labels)), key=lambda i: hashlib.sha256(f"points:{i}".encode()).digest())
    ranks: dict[int, Fraction] = {}
    for c in set(labels):
        own = [i for i in order if labels[i] == c]
        ranks |= {i: (Fraction(r) + Fraction(1, 2)) / len(own) for r, i in enumerate(own)}
    return sorted(order, key=lambda i: ranks[i])[:points]


UNEVEN = [0] * 50 + [1] * 30 + [2] * 19 + [3]


@pytest.mark.parametrize("points", [1, 4, 7, 20, 50, 99])
@pytest.mark.parametrize("labels", [UNEVEN, UNEVEN[::-1], [i % 7 for i in range(100)]])
def test_the_rule_image_by_image(labels: list[int], points: int) -> None:
    found = chosen(np.array(labels), points)
    assert found.dtype == np.int64 and found.tolist() == one_by_one(labels, points)
    assert len(set(found.tolist())) == points


def test_classes_of_equal_size_have_equal_shares_of_a_sorted_file() -> None:
    labels = np.repeat(np.arange(10), 100)
    for points in (10, 150, 500, 999):
        counts = np.bincount(labels[chosen(labels, points)], minlength=10)
        assert counts.sum() == points and counts.max() - counts.min() <= (points % 10 > 0)
    assert len(set(labels[:100])) == 1, "the first ones are of one class"


def test_uneven_classes_have_their_shares_and_part_of_a_sample_is_a_sample() -> None:
    labels = np.array(UNEVEN)
    assert np.bincount(labels[chosen(labels, 20)], minlength=4).tolist() == [10, 6, 4, 0]
    assert np.bincount(labels[chosen(labels, 50)], minlength=4).tolist() == [25, 15, 9, 1]
    assert chosen(labels, 99)[:20].tolist() == chosen(labels, 20).tolist()


@pytest.mark.parametrize("points", [100, 101, 10**6])
def test_all_stay_in_their_order(points: int) -> None:
    assert np.array_equal(chosen(np.array(UNEVEN), points), np.arange(100))


def test_rows_of_a_split_that_are_all_of_it_are_not_copied() -> None:
    split = Split(torch.arange(12, dtype=torch.uint8).view(6, 1, 1, 2), torch.arange(6), 255)
    assert split.rows(split.sample(6)) is split
    part = split.rows(torch.tensor([4, 1]))
    assert part.y.tolist() == [4, 1] and part.x.flatten().tolist() == [8, 9, 2, 3]


def sorted_by_class() -> Dataset:
    """120 test images of three classes, one after the other."""
    g = torch.Generator().manual_seed(3)
    y = torch.arange(3).repeat_interleave(40)
    x = torch.randint(256, (120, 1, 2, 2), generator=g, dtype=torch.uint8)
    split = Split(x, y, 255)
    return Dataset(split, split, split, 3, "made")


def measured(points: int) -> dict[str, np.ndarray]:
    settings = Evaluation(epsilon={"l2": 0.1, "linf": 0.1}, points=points, attacks={"deepfool": {}}, certificates={})
    return evaluate(build("mlp", (1, 2, 2)), lambda *_: NotApplicable("none"), sorted_by_class(), settings, "a").arrays


def test_the_record_says_which_images_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    data, arrays = sorted_by_class(), measured(30)
    assert arrays["index"].tolist() == chosen(data.test.y.numpy(), 30).tolist()
    assert np.bincount(arrays["label"]).tolist() == [10, 10, 10]
    assert arrays["label"].tolist() == data.test.y[arrays["index"]].tolist()
    with torch.no_grad():
        logits = build("mlp", (1, 2, 2)).eval()(data.test.images(torch.from_numpy(arrays["index"])))
    assert arrays["prediction"].tolist() == logits.argmax(1).tolist()

    monkeypatch.setattr(sandwich, "Chunks", lambda _: Chunks(7))
    assert measured(30)["index"].tolist() == arrays["index"].tolist(), "however the images are chunked"
    assert measured(120)["index"].tolist() == list(range(120)) == measured(500)["index"].tolist()
