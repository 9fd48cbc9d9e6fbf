"""The margin in the space of word embeddings: known answers of linear networks, and what it must not depend on."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.nets.bert import Embedding
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.probes.embedding_l2 import EmbeddingL2
from marginbench.benchmarks.probes.probe import Subject
from marginbench.methods import MarginbenchError, Net

LENGTH, WIDTH, CLASSES = 5, 4, 3


class Shown(nn.Module):
    """The embeddings [B, L D] of the tokens that are no padding."""

    def forward(self, embedded: Tensor) -> Tensor:
        return (embedded[..., :-1] * ((2 * embedded[..., -1:]).round() > 0)).flatten(1)


def linear_net(seed: int = 0, scale: float = 1.0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words, head = nn.Embedding(20, WIDTH), nn.Linear(LENGTH * WIDTH, CLASSES)
    with torch.no_grad():
        words.weight.mul_(scale)
        head.weight.div_(scale)
    return Net(nn.Identity(), nn.Sequential(Embedding(words), Shown()), head).eval().requires_grad_(False)


def split(count: int = 30, words: int = 20, length: int = LENGTH) -> Split:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(words, (count, 2, 1, length), generator=g, dtype=torch.int32)
    shown = torch.arange(length) < torch.randint(2, length + 1, (count, 1), generator=g)
    x[:, 1, 0] = shown.int()
    return Split(x, torch.randint(CLASSES, (count,), generator=g), 1)


def measured(net: Net, test: Split, probe: EmbeddingL2) -> dict[str, Tensor]:
    return probe.measure(Subject(net, test, test, test, {}, seed=1))


def exact(net: Net, test: Split) -> Tensor:
    """min_j (z_y - z_j) / ||w_y - w_j|| over the weights of the tokens that are shown; 0 for a wrong class."""
    x, y = test.images(slice(None)), test.y
    logits = net(x)
    shown = (x[:, 1, 0] > 0)[:, :, None].expand(-1, -1, WIDTH).flatten(1)
    weight = net.head.weight
    assert isinstance(weight, Tensor)
    apart = ((weight[y][:, None] - weight[None]) * shown[:, None]).norm(dim=2)
    gaps = (logits.gather(1, y[:, None]) - logits) / apart
    gaps = gaps.scatter(1, y[:, None], torch.inf)
    return gaps.amin(1).clamp(min=0)


@pytest.mark.parametrize("attack", ["pdpgd", "fmn", "ddn"])
def test_of_a_linear_network_it_is_the_margin_by_the_norm_of_the_weights(
    attack: Literal["pdpgd", "fmn", "ddn"],
) -> None:
    net, test = linear_net(), split()
    found = measured(net, test, EmbeddingL2(attack=attack))["embedding_l2"]
    wanted = exact(net, test)
    assert 5 < int((wanted > 0).sum()) < 25  # some are right and some are wrong
    assert torch.equal(found == 0, wanted == 0)
    assert bool((found >= wanted * (1 - 1e-4)).all())
    torch.testing.assert_close(found, wanted, rtol=5e-3, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_it_has_the_unit_of_the_embeddings_and_the_relative_one_has_none(scale: float) -> None:
    test = split()
    one, other = measured(linear_net(), test, EmbeddingL2()), measured(linear_net(scale=scale), test, EmbeddingL2())
    torch.testing.assert_close(other["embedding_l2"], scale * one["embedding_l2"], rtol=1e-2, atol=1e-6 * scale)
    torch.testing.assert_close(other["embedding_norm"], scale * one["embedding_norm"], rtol=1e-4, atol=0)


def test_the_length_of_a_sentence_is_that_of_all_its_tokens() -> None:
    net, test = linear_net(), split()
    words, shown = net.get_parameter("body.0.words.weight"), test.x[:, 1, 0]
    wanted = (words[test.x[:, 0, 0].long()] * shown[:, :, None]).square().sum((1, 2)).sqrt()
    torch.testing.assert_close(measured(net, test, EmbeddingL2(steps=1))["embedding_norm"], wanted)


def test_no_box_holds_a_point_that_is_far_away() -> None:
    net, test = linear_net(), split()
    with torch.no_grad():
        net.head.weight.mul_(1e-3)
        net.head.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))  # it decides, and boundaries are far away
    found, wanted = measured(net, test, EmbeddingL2())["embedding_l2"], exact(net, test)
    assert float(wanted.max()) > 100
    torch.testing.assert_close(found, wanted, rtol=5e-3, atol=1e-5)


def test_a_network_of_one_class_has_no_boundary() -> None:
    net, test = linear_net(), split()
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    found = measured(net, test, EmbeddingL2(steps=5))["embedding_l2"]
    assert torch.equal(found.isinf(), test.y == 0)
    assert bool((found[test.y != 0] == 0).all())
    arrays = {"embedding_l2": found.numpy(), "embedding_norm": torch.ones(30).numpy()}
    arrays |= {"label": test.y.numpy(), "prediction": torch.zeros(30).long().numpy()}
    metrics = EmbeddingL2().metrics(arrays, {})
    assert metrics["embedding_l2"] == torch.inf
    assert metrics["embedding_l2_unattacked"] == 1


def test_metrics_are_of_the_sentences_that_were_asked_about() -> None:
    net, test = linear_net(), split()
    arrays = measured(net, test, EmbeddingL2(points=12))
    assert int((~arrays["embedding_l2"].isnan()).sum()) == 12
    known = {name: values.numpy() for name, values in arrays.items()}
    known |= {"label": test.y.numpy(), "prediction": net(test.images(slice(None))).argmax(1).numpy()}
    metrics = EmbeddingL2(points=12).metrics(known, {})
    assert metrics["embedding_l2"] == pytest.approx(float(arrays["embedding_l2"].nanmean()))
    relative = arrays["embedding_l2"] / arrays["embedding_norm"]
    assert metrics["embedding_l2_relative"] == pytest.approx(float(relative.nanmean()))
    assert metrics["embedding_l2_unattacked"] == 0


def test_of_bert_padding_takes_no_part_and_the_points_are_of_another_class() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = make_net("bert_tiny", 32, (2, 1, LENGTH), CLASSES, torch.zeros(2), torch.ones(2))
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() > 1:
                weight.mul_(8)
    net = net.eval().requires_grad_(False)
    test = split(20)
    test = Split(test.x, net(test.images(slice(None))).argmax(1), 1)
    found = measured(net, test, EmbeddingL2(steps=20))
    assert bool(found["embedding_l2"].isfinite().all())
    assert bool((found["embedding_l2"] > 0).all())
    longer = torch.cat([test.x, torch.zeros(20, 2, 1, 3, dtype=torch.int32)], 3)[..., :LENGTH]
    longer[:, 0][longer[:, 1] == 0] = 19
    again = measured(net, Split(longer, test.y, 1), EmbeddingL2(steps=20))
    torch.testing.assert_close(found, again, rtol=1e-3, atol=1e-5)


def test_a_network_without_word_embeddings_is_refused() -> None:
    net = Net(nn.Identity(), nn.Sequential(nn.Flatten()), nn.Linear(10, CLASSES))
    with pytest.raises(MarginbenchError, match="embedding_l2: the first layer of the network is no"):
        measured(net, split(), EmbeddingL2())
