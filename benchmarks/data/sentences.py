"""A set of sentences by a rule, for tests and a first look: no download, no tokenizer.

"the food was not really awful": 12 subjects, 4 verbs, with or without `not`, 6 adverbs or none, 8 good and 8 bad words.
The class is 1 where the last word is good, and the other where it is negated: no word alone tells it. Of the 10,752
sentences the first 2,500 by hashing are the set, 500 of them for the test.
"""

import hashlib
import itertools

import numpy as np

from marginbench.benchmarks.data.arrays import Arrays, hashed_order
from marginbench.benchmarks.data.text import Text, as_tensor

SUBJECTS = [
    "food",
    "film",
    "hotel",
    "service",
    "music",
    "book",
    "garden",
    "room",
    "journey",
    "lesson",
    "concert",
    "museum",
]
VERBS = ["was", "seemed", "looked", "felt"]
ADVERBS = ["", *["really", "very", "rather", "quite", "truly", "so"]]
GOOD = ["wonderful", "great", "lovely", "good", "excellent", "charming", "superb", "fine"]
BAD = ["awful", "terrible", "horrid", "bad", "dreadful", "dull", "poor", "boring"]
PAD, START, END = "[PAD]", "[CLS]", "[SEP]"
WORDS = [PAD, START, END, "the", "not", *SUBJECTS, *VERBS, *ADVERBS[1:], *GOOD, *BAD]
TRAIN, TEST = 2000, 500


def all_sentences() -> list[tuple[str, int]]:
    """Each sentence with its class."""
    return [
        (" ".join(filter(None, ("the", subject, verb, negation, adverb, last))), int((last in GOOD) != bool(negation)))
        for subject, verb, negation, adverb, last in itertools.product(
            SUBJECTS, VERBS, ("", "not"), ADVERBS, GOOD + BAD
        )
    ]


def sentences() -> Arrays:
    """The set, in its own vocabulary `WORDS`, which hashing puts in the same order everywhere."""
    every = all_sentences()
    number = {word: i for i, word in enumerate(WORDS)}
    chosen = [every[i] for i in hashed_order("sentences", len(every))[: TRAIN + TEST]]
    ids = [[number[word] for word in (START, *text.split(), END)] for text, _ in chosen]
    x = as_tensor([(row, [1] * len(row)) for row in ids], max(map(len, ids)), number[PAD])
    y = np.array([label for _, label in chosen], np.int64)
    meaning = hashlib.sha256(" ".join(WORDS).encode()).hexdigest()
    return Arrays(x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:], levels=1, text=Text(meaning))
