"""The distance of sentences to the decision boundary in the space of their word embeddings, as attacks find it.

With E [L, D] the word embeddings of a sentence, before positions and segments are added, and f the rest of the network,

    min ||E' - E||_2 (over all L D numbers) over the E' that f puts in another class than that of the sentence

An upper bound, from a minimum-norm attack without a box: no value of an embedding is out of bounds. It is a margin of
the function that follows the embeddings. It is no robustness to other words, since hardly any E' is the embedding of a
sentence; and it has the unit of the embeddings, which training may rescale: hence the relative one, by ||E||_2. Padding
takes no part, as nothing attends to it; [CLS] and [SEP] do. A misclassified sentence has margin 0.

The default attack came nearest. On two networks of `text_smoke` (100 sentences) 100 of its steps gave 1.3 % longer
distances than 300; FMN and DDN, whose first radius is the linearised distance, stayed three times as far away or more.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.attacks.ddn import ddn
from marginbench.benchmarks.attacks.fmn import fmn
from marginbench.benchmarks.attacks.pdpgd import pdpgd
from marginbench.benchmarks.attacks.ray import tighten
from marginbench.benchmarks.estimator import Query
from marginbench.benchmarks.machine.memory import Chunks, rows_at_once
from marginbench.benchmarks.nets.bert import Embedding
from marginbench.benchmarks.probes.probe import Probe, Subject, probe
from marginbench.benchmarks.records.column import Column
from marginbench.methods import MarginbenchError, Net, Norm, predicted_class
from marginbench.methods.words import counted

WIDTH = 8.0  # of the first box, in units of the largest number in the embeddings
NEAR = 0.1  # of its width: the distance from which on walls may have been in the way
WIDER, TRIES = 8.0, 5  # boxes, for these and where no point was found
RADIUS = 0.01  # of the first noise where there is no gradient: too little to change a segment
ATTACKS: Mapping[str, tuple[Attack, Mapping[str, int]]] = {
    "pdpgd": (pdpgd, {"starts": 1}),  # other starts lie on lines to other sentences, of other lengths
    "fmn": (fmn, {"starts": 0}),
    "ddn": (ddn, {}),
}
SHARE = "Share of the correct test sentences for which no point of another class was found."


@probe
class EmbeddingL2(Probe):
    """The margin in the space of word embeddings."""

    key = "embedding_l2"
    rank = 5
    reads_sentences = True
    columns = (
        Column(
            "embedding_l2",
            "embedding margin L2",
            meaning="Mean L2 distance to another class in the space of word embeddings, an upper bound by an attack.",
        ),
        Column(
            "embedding_l2_relative",
            "relative embedding margin",
            on_page=False,
            meaning="The same, each distance divided by the length of the sentence's embeddings.",
        ),
        Column("embedding_l2_unattacked", "unattacked %", 100, 1, ascending=True, on_page=False, meaning=SHARE),
    )

    points: PositiveInt = 500  # test sentences
    attack: Literal["pdpgd", "fmn", "ddn"] = "pdpgd"
    steps: PositiveInt = 100  # of the attack

    def measure(self, subject: Subject) -> dict[str, Tensor]:
        """embedding_l2, embedding_norm [N] float32: distance and ||E||_2; NaN for sentences that were left out.

        The distance is 0 for a wrong class, and infinite where no point of another class was found.

        Raises:
            MarginbenchError: the network does not begin with word embeddings.
        """
        net, test = subject.net, subject.test
        embed = net.body[0] if isinstance(net, Net) else None
        if not isinstance(net, Net) or not isinstance(embed, Embedding):
            raise MarginbenchError(f"{self.key}: the first layer of the network is no `nets.bert.Embedding`")
        rest = nn.Sequential(*net.body[1:], net.head)
        index = test.sample(self.points)
        out = torch.full((2, len(test)), torch.nan, device=test.device)

        def measured(part: slice) -> Tensor:
            x, y = test.images(index[part]), test.y[index[part]]
            with torch.no_grad():
                embedded = embed(x)
                right = predicted_class(rest(embedded)) == y
            words = embedded[..., :-1] * (embedded[..., -1:] > 0)
            distance = words.new_zeros(len(x))
            if bool(right.any()):
                distance[right] = self._distances(rest, embedded[right], y[right], subject.generator)
            return torch.stack([distance, words.flatten(1).norm(dim=1)])

        with torch.no_grad():
            first = embed(test.images(index[:1]))
        out[:, index] = torch.cat(Chunks(rows_at_once(rest, first)).map(measured, len(index)), 1)
        return {"embedding_l2": out[0], "embedding_norm": out[1]}

    def metrics(self, arrays: Mapping[str, np.ndarray], epsilon: Mapping[Norm, float]) -> dict[str, float]:
        """The means over all sentences that were asked about, a misclassified one counting 0."""
        distance, norm = arrays["embedding_l2"], arrays["embedding_norm"]
        asked = ~np.isnan(distance)
        correct = asked & (arrays["prediction"] == arrays["label"])
        return {
            "embedding_l2": float(distance[asked].mean()),
            "embedding_l2_relative": float((distance[asked] / norm[asked]).mean()),
            "embedding_l2_unattacked": float(np.isinf(distance[correct]).mean()) if correct.any() else 0.0,
        }

    def note(self, epsilon: Mapping[Norm, float]) -> str:
        return (
            f"embedding margin = mean L2 distance to another class in the space of word embeddings, by {self.attack}"
            f" with {counted(self.steps, 'step')}, on up to {counted(self.points, 'test sentence')}: an upper bound,"
            " and no robustness to other words, since points between embeddings are no sentences."
        )

    def _distances(self, rest: nn.Module, embedded: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """[B] float32 for what `Embedding` gives, [B, 1, L, D + 1]."""
        side = WIDTH * float(embedded[..., :-1].abs().max().clamp_min(1e-6))
        best = torch.full((len(y),), torch.inf, device=y.device)
        left = torch.arange(len(y), device=y.device)
        for _ in range(TRIES):
            inside = _Inside(rest, side)
            q = Query(inside, inside.into(embedded[left]), y[left], "l2", RADIUS, embedded[:0], generator)
            attack, settings = ATTACKS[self.attack]
            proposed = attack.propose(q, steps=self.steps, **settings)
            distance = tighten(inside, q.x, proposed, q.y, "l2")[1]
            best[left] = torch.minimum(best[left], side * distance)
            left = left[distance > NEAR]
            if len(left) == 0:
                break
            side *= WIDER
        return best


class _Inside(nn.Module):
    """The network on embeddings that stand in a box [0, 1] which is `side` wide: attacks expect images."""

    def __init__(self, rest: nn.Module, side: float) -> None:
        super().__init__()
        self.rest, self.side = rest, side

    def into(self, embedded: Tensor) -> Tensor:
        return torch.cat([embedded[..., :-1] / self.side + 0.5, embedded[..., -1:]], 3)

    def forward(self, u: Tensor) -> Tensor:
        logits: Tensor = self.rest(torch.cat([(u[..., :-1] - 0.5) * self.side, u[..., -1:]], 3))
        return logits
