"""Networks that read sentences: the margins behind the network, the probes that read sentences, and few doubts.

A sentence cannot be moved by a little, so that there is no distance in pixels to enclose: attacks and certificates say
why they do not apply, and what would follow from them is not measured, rather than 0.
"""

import time

import torch

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.evaluation.doubts import batch_dependence, collapse, explanation, returns_probabilities
from marginbench.benchmarks.evaluation.evaluated import Evaluated, Facts, frozen, output_margins, probed
from marginbench.benchmarks.evaluation.evidence import Evidence
from marginbench.benchmarks.evaluation.partial import Partial
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.deadline import Deadline
from marginbench.benchmarks.machine.memory import Chunks, rows_at_once
from marginbench.benchmarks.probes.scan import Subject
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.methods import NORMS, Net, NotApplicable, predicted_class

OF_PIXELS = "it is about images whose pixels can be moved, and these are sentences"
DOUBTS = (batch_dependence, collapse, returns_probabilities)  # those that ask for no gradient or radius


def evaluate_sentences(
    net: Net,
    data: Dataset,
    settings: Evaluation,
    *seed_parts: str | int,
    deadline: Deadline | None = None,
    partial: Partial | None = None,
) -> Evaluated:
    """Measure the network on the test sentences; for the arguments see `sandwich.evaluate`.

    The feature margin is relative to the longest feature of all the sentences that are evaluated.

    Raises:
        DeadlineError: it took too long.
        MarginbenchError: a probe does not return what it should.
    """
    facts, kept = Facts({}, deadline or Deadline()), partial or Partial()
    with frozen(net):
        index = data.test.sample(settings.points)
        test = data.test.rows(index)
        x = test.images(slice(None))
        facts.deadline.check("before the sentences are read")
        facts.deadline.enter("in the test sentences")
        with torch.no_grad():
            features = Chunks(rows_at_once(net, x, gradients=False)).rows(net.features, x)
            logits = net.head(features)
        tensors = {"index": index, "label": test.y, "prediction": predicted_class(logits)}
        tensors |= output_margins(net, test.y, logits, lambda: features)
        for name in (*settings.attacks, *settings.certificates):
            for norm in NORMS:
                facts.add(f"{name}_{norm}", not_applicable=OF_PIXELS)
        kept = kept.about(logits)
        for key, probe in settings.probes.items():
            if not probe.reads_sentences:
                facts.add(key, not_applicable=OF_PIXELS)
                continue
            subject = Subject(net, test, data.validation, data.train, {}, seeds.derive_seed(key, *seed_parts))
            tensors |= probed(key, probe, subject, tensors, facts, kept)
        evidence = Evidence(net, x, tensors, facts.estimators, {}, {}, {}, data.num_classes, _no_certificate)
        facts.deadline.check("before doubts")
        facts.deadline.enter("in doubts")
        start = time.perf_counter()
        seen = {doubt.__name__: doubt(evidence) for doubt in DOUBTS}
        found = {name: what for name, what in seen.items() if what is not None}
        facts.add("doubts", seconds=time.perf_counter() - start)
    arrays = {key: tensor.cpu().numpy() for key, tensor in tensors.items()}
    explanations = {name: explanation(name) for name in found}
    return Evaluated(arrays, facts.estimators, found, explanations, facts.recalled)


def _no_certificate(*_: object) -> NotApplicable:
    return NotApplicable(OF_PIXELS)
