"""What tests of sentences share: a checkpoint of BERT in the hub's file layout, and files in the layout of GLUE."""

from pathlib import Path

from marginbench.benchmarks.data.sentences import all_sentences

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_checkpoint(folder: Path, longest: int = 64) -> Path:
    """A BERT with random weights, two layers of width 16, and a vocabulary of the words of `sentences` and letters."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = sorted({word for text, _ in all_sentences() for word in text.split()})
    vocabulary = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *words, "'", '"', "."]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in dict.fromkeys(vocabulary)))
    config = BertConfig(
        vocab_size=len(dict.fromkeys(vocabulary)),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=longest,
        hidden_dropout_prob=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def write_rte(data_dir: Path, train: int = 120, test: int = 40) -> Path:
    """RTE by a rule: a pair of sentences of one class entails."""
    every = all_sentences()[:: len(all_sentences()) // (2 * (train + test))]
    lines = []
    for index in range(train + test):
        (first, one), (second, other) = every[2 * index], every[(3 * index + 1) % len(every)]
        label = "entailment" if one == other else "not_entailment"
        lines.append(f"{index}\t{first}\t{second}\t{label}\n")
    folder = data_dir / "RTE"
    folder.mkdir(parents=True)
    header = "index\tsentence1\tsentence2\tlabel\n"
    (folder / "train.tsv").write_text(header + "".join(lines[:train]))
    (folder / "dev.tsv").write_text(header + "".join(lines[train:]))
    return folder
