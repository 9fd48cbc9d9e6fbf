"""BERT: that it is transformers' own, from random weights and from a checkpoint in the hub's file layout."""

from pathlib import Path

import pytest
import torch
from text_support import make_checkpoint
from torch import Tensor, nn

from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.nets.bert import Embedding
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.suites.network import Network
from marginbench.methods import MarginbenchError, Net

SHAPE = (2, 1, 9)
NOTHING = torch.zeros(2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("hub") / "bert")


def sentences(count: int = 6, words: int = 40) -> Tensor:
    """Random ones of several lengths, most of them in two segments."""
    g = torch.Generator().manual_seed(0)
    x = torch.zeros(count, *SHAPE, dtype=torch.int64)
    for row in range(count):
        length = 3 + row % 7
        x[row, 0, 0, :length] = torch.randint(5, words, (length,), generator=g)
        x[row, 1, 0, :length] = torch.tensor([1] * (length // 2) + [2] * (length - length // 2))
    return x


def pretrained(checkpoint: Path) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make_net("bert", None, SHAPE, 3, NOTHING, NOTHING, checkpoint)


def test_features_are_the_pooled_output_of_the_checkpoint(checkpoint: Path) -> None:
    from transformers import BertModel

    net, model, x = pretrained(checkpoint).eval(), BertModel.from_pretrained(checkpoint).eval(), sentences()
    segments = x[:, 1, 0]
    with torch.no_grad():
        wanted = model(x[:, 0, 0], attention_mask=(segments > 0).long(), token_type_ids=(segments - 1).clamp(min=0))
        torch.testing.assert_close(net.features(x), wanted.pooler_output, rtol=1e-5, atol=1e-6)


def test_the_head_is_linear_with_small_weights_of_its_own(checkpoint: Path) -> None:
    head = pretrained(checkpoint).head
    assert type(head) is nn.Linear
    assert head.weight.shape == (3, 16)
    assert 0.01 < float(head.weight.detach().std()) < 0.03
    assert not bool(head.bias.detach().any())


def test_all_weights_of_the_checkpoint_are_trained_and_none_twice(checkpoint: Path) -> None:
    from transformers import BertModel

    net, model = pretrained(checkpoint), BertModel.from_pretrained(checkpoint)
    assert sum(p.numel() for p in net.body.parameters()) == sum(p.numel() for p in model.parameters())
    assert all(p.requires_grad for p in net.parameters())


def test_dropout_is_that_of_the_checkpoint_and_stops_in_eval_mode(checkpoint: Path) -> None:
    net, x = pretrained(checkpoint), sentences()
    rates = {module.p for module in net.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.1}
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


@pytest.mark.parametrize("name", ["bert", "bert_tiny"])
def test_a_sentence_stands_alone_and_padding_says_nothing(name: str, checkpoint: Path) -> None:
    net = pretrained(checkpoint) if name == "bert" else make_net(name, 32, SHAPE, 3, NOTHING, NOTHING)
    net, x = net.eval(), sentences()
    with torch.no_grad():
        together, alone = net(x), torch.cat([net(row[None]) for row in x])
        torch.testing.assert_close(together, alone)
        other = torch.where(x[:, 1:] == 0, torch.tensor(17), x[:, :1])
        torch.testing.assert_close(net(torch.cat([other, x[:, 1:]], 1)), together)


def test_segments_matter(checkpoint: Path) -> None:
    net, x = pretrained(checkpoint).eval(), sentences()
    one = torch.cat([x[:, :1], x[:, 1:].clamp(max=1)], 1)
    with torch.no_grad():
        assert not torch.allclose(net(x), net(one), atol=1e-5)


def test_words_and_segments_go_through_one_layer_unchanged(checkpoint: Path) -> None:
    net, x = pretrained(checkpoint).eval(), sentences()
    embed = net.body[0]
    assert isinstance(embed, Embedding)
    out = embed(x)
    assert out.shape == (6, 1, 9, 17)
    assert torch.equal(out[..., :-1], embed.words(x[:, 0]))
    assert torch.equal(2 * out[:, 0, :, -1], x[:, 1, 0].float())


def test_passes_are_counted_of_sentences(checkpoint: Path) -> None:
    net = pretrained(checkpoint)
    with PassCounter(net) as passes:
        net(sentences()).sum().backward()
    assert (passes.forward, passes.backward) == (6, 6)


def test_a_net_is_the_same_after_it_was_saved(checkpoint: Path) -> None:
    one, other = pretrained(checkpoint).eval(), pretrained(checkpoint).eval()
    with torch.no_grad():
        for weight in one.parameters():
            weight.add_(0.01)
        other.load_state_dict(one.state_dict())
        assert torch.equal(one(sentences()), other(sentences()))


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"name": "bert"}, "network.checkpoint: bert needs one"),
        ({"name": "bert_tiny", "checkpoint": "x"}, "of bert alone; bert_tiny starts from random weights"),
        ({"name": "cnn", "checkpoint": "x"}, "of bert alone; cnn starts from random weights"),
        ({"name": "bert", "checkpoint": "x", "width": 8}, "network.width: has no effect on bert"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(section: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Network(**section)


def test_records_name_a_checkpoint_without_its_folders() -> None:
    section = Network(name="bert", checkpoint="/home/me/models/bert-base-uncased")
    assert section.model_dump() == {"name": "bert", "checkpoint": "bert-base-uncased"}


def test_sentences_longer_than_the_network_reads_are_told(checkpoint: Path) -> None:
    with pytest.raises(MarginbenchError, match="a bert that reads 64 tokens"):
        make_net("bert", None, (2, 1, 65), 2, NOTHING, NOTHING, checkpoint)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("config.json", "{", "not a checkpoint of BERT"),
        ("config.json", '{"model_type": "gpt2"}', "a gpt2 .*a bert is needed"),
        ("model.safetensors", "nonsense", "not a checkpoint of BERT"),
    ],
)
def test_files_of_something_else_are_told(file: str, content: str, told: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "bert")
    (folder / file).write_text(content)
    with pytest.raises(MarginbenchError, match=told):
        make_net("bert", None, SHAPE, 2, NOTHING, NOTHING, folder)


def test_weights_that_are_missing_are_told(tmp_path: Path) -> None:
    import safetensors.torch

    folder = make_checkpoint(tmp_path / "bert")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    left = {name: value for name, value in weights.items() if "layer.1" not in name}
    safetensors.torch.save_file(left, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(MarginbenchError, match="lacks 16 weights of BERT"):
        make_net("bert", None, SHAPE, 2, NOTHING, NOTHING, folder)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MarginbenchError, match=r"needs transformers: pip install 'marginbench\[text\]'"):
        make_net("bert_tiny", 32, SHAPE, 2, NOTHING, NOTHING)
