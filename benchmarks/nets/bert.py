"""BERT: token ids to the pooled output, in two layers, so that the space between them can be asked about.

`Embedding` looks word embeddings up, and `Encoder` is all that follows; see `data.text` for how sentences are stored.
Devlin, Chang, Lee, Toutanova: BERT, NAACL 2019, arXiv 1810.04805. transformers is imported on use: it takes seconds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from marginbench.benchmarks.extras import TEXT
from marginbench.benchmarks.nets.layers import Shape
from marginbench.benchmarks.nets.network import network
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import all_lines

TINY_VOCABULARY = 64  # of `bert_tiny`


class Embedding(nn.Module):
    """Token ids and segments [B, 2, 1, L], whole numbers, to word embeddings and segments [B, 1, L, D + 1] float.

    Positions and segments are embedded after it. The last channel carries half the segment, of which only the rounded
    value counts: no gradient flows there.
    """

    def __init__(self, words: nn.Embedding) -> None:
        super().__init__()
        self.words = words

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.words(x[:, 0].long())
        return torch.cat([embedded, x[:, 1, :, :, None].to(embedded) / 2], 3)


class Encoder(nn.Module):
    """What `Embedding` gives to the pooled output [B, d], with the checkpoint's dropout before the head."""

    def __init__(self, model: nn.Module, dropout: float) -> None:
        super().__init__()
        self.model = model
        self.dropout = nn.Dropout(dropout)

    def forward(self, embedded: Tensor) -> Tensor:
        segments = (2 * embedded[:, 0, :, -1].detach()).round().long()
        shown = (segments > 0)[:, None, None, :]  # four axes: taken as it is, without a look at its values
        out = self.model(
            inputs_embeds=embedded[:, 0, :, :-1], attention_mask=shown, token_type_ids=(segments - 1).clamp(min=0)
        )
        pooled: Tensor = self.dropout(out.pooler_output)
        return pooled


@network("bert_tiny", width=32, text=True, needs=TEXT)
def bert_tiny(shape: Shape, width: int) -> nn.Sequential:
    """Two layers of two heads, `width` wide, with random weights: for `sentences`, and for tests."""
    import transformers

    return _body(
        transformers.BertModel(
            transformers.BertConfig(
                vocab_size=TINY_VOCABULARY,
                hidden_size=width,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=4 * width,
                max_position_embeddings=shape[2],
            )
        )
    )


@network("bert", width=None, text=True, pretrained=True, needs=TEXT)
def bert(shape: Shape, checkpoint: Path) -> nn.Sequential:
    """The network of a checkpoint in the hub's file layout: config.json and model.safetensors.

    Raises:
        MarginbenchError: the folder holds no BERT, or sentences are longer than it reads.
    """
    import transformers

    try:
        config = transformers.BertConfig.from_pretrained(checkpoint)
        if config.model_type != "bert" or config.max_position_embeddings < shape[2]:
            reads = f"a {config.model_type} that reads {config.max_position_embeddings} tokens"
            raise MarginbenchError(f"{checkpoint}: {reads}: a bert is needed, and data.max_length up to that")
        with _quiet(transformers):
            model, report = transformers.BertModel.from_pretrained(
                checkpoint, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except MarginbenchError:
        raise
    except Exception as error:  # damaged files fail in many ways
        raise MarginbenchError(f"{checkpoint}: not a checkpoint of BERT: {all_lines(error)}") from None
    if missing := [name for name in report["missing_keys"] if not name.startswith("pooler.")]:
        raise MarginbenchError(
            f"{checkpoint}: model.safetensors lacks {len(missing)} weights of BERT: {missing[0]} ..."
        )
    return _body(model.float())


def _body(model: Any) -> nn.Sequential:
    words = model.embeddings.word_embeddings
    config = model.config
    dropout = getattr(config, "classifier_dropout", None)
    body = nn.Sequential(Embedding(words), Encoder(model, config.hidden_dropout_prob if dropout is None else dropout))
    model.embeddings.word_embeddings = nn.Identity()  # its weights are in the first layer, once
    return body.train()


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """A block without bars, and without a report of the weights of other heads, which a checkpoint has too."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
