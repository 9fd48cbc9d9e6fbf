"""The margin sandwich: per test point and norm, certified radius <= margin <= nearest adversarial example found.

A margin is the distance, in pixels of [0, 1], from an image to the nearest image in the box that the network
does not assign to the true class. A misclassified point has margin 0, and so has one in no class, since a logit
is NaN there. Nothing here asks which method made the network.
"""

import itertools
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial as bound

import torch
from torch import Tensor

from marginbench.benchmarks.attacks.attack import Attack
from marginbench.benchmarks.attacks.ray import distance, is_adversarial, pushed
from marginbench.benchmarks.attacks.scan import configured_attacks
from marginbench.benchmarks.certificates.certificate import OWN, Certificate
from marginbench.benchmarks.certificates.scan import configured_certificates
from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.estimator import Answer, Certify, Query
from marginbench.benchmarks.evaluation.coarse import hardly_measurable
from marginbench.benchmarks.evaluation.doubts import INVALID, collect, explanation
from marginbench.benchmarks.evaluation.evaluated import Evaluated, Facts, frozen, output_margins, probed
from marginbench.benchmarks.evaluation.evidence import Evidence
from marginbench.benchmarks.evaluation.gradient import gradient_mismatch
from marginbench.benchmarks.evaluation.own import ask_own
from marginbench.benchmarks.evaluation.partial import Found, Partial
from marginbench.benchmarks.evaluation.recheck import UNCHECKED, recheck
from marginbench.benchmarks.evaluation.sentences import evaluate_sentences
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.machine.deadline import Deadline
from marginbench.benchmarks.machine.device import no_tf32
from marginbench.benchmarks.machine.memory import ROWS, Chunks, rows_at_once
from marginbench.benchmarks.machine.passes import PassCounter
from marginbench.benchmarks.machine.search import kernels_in
from marginbench.benchmarks.probes.scan import Subject
from marginbench.benchmarks.suites.evaluation import Evaluation
from marginbench.methods import NORMS, MarginbenchError, Net, Norm, predicted_class

log = logging.getLogger(__name__)
SHORT, FINE = 0.01, 1e-5  # relative, and pixels: what layers in simple form round otherwise than the network
REFERENCES = 2000  # training images that attacks may walk towards
MOST_BYTES = 2**28  # of these: of 224 x 224 pixels and three channels 445


@no_tf32()
def evaluate(
    net: Net,
    certify: Certify,
    data: Dataset,
    settings: Evaluation,
    *seed_parts: str | int,
    deadline: Deadline | None = None,
    partial: Partial | None = None,
    examine: bool = True,
) -> Evaluated:
    """Enclose the margin of each of `settings.points` test images, in L2 and L-infinity.

    Which images these are is the same for every network, see `data.arrays.chosen`. The array `index` holds their places
    in the test split.

    Without TF32: attacks and certificates must see the same logits, or they contradict each other near the boundary.

    Args:
        net: images in [0, 1] to logits.
        certify: the network's own certificate.
        data: its test split is evaluated; its training images are targets of the blend attack, and probes measure them.
        settings: radii, attacks and certificates.
        seed_parts: what the randomness of the attacks is seeded from.
        deadline: asked before each estimator.
        partial: what each estimator finds is kept there, and taken from there if this evaluation was interrupted.
        examine: collect doubts, which takes longer than a few cheap attacks do.

    Each estimator draws from a stream of its own, so that neither the others nor an interruption change its numbers.
    Images are taken ROWS at a time, fewer where memory is short: each such group has its own streams.

    Of sentences, which cannot be moved by a little, only what lies behind the network is measured: see
    `sentences.evaluate_sentences`.

    The network is evaluated in eval mode, with frozen parameters, and afterwards is as it was.

    Raises:
        DeadlineError: it took too long.
        MarginbenchError: an attack, certificate or probe is not known, or does not return what it should.
    """
    if data.text is not None:
        return evaluate_sentences(net, data, settings, *seed_parts, deadline=deadline, partial=partial)
    with frozen(net), _layout(net, data.test.device):
        attacks = configured_attacks(settings.attacks)
        certificates = configured_certificates(settings.certificates)
        index = data.test.sample(settings.points)
        test = data.test.rows(index)
        facts = Facts({}, deadline or Deadline())
        kept = partial or Partial()
        images = test.images(slice(None))
        reference = data.train.images(slice(min(REFERENCES, MOST_BYTES // images[0].nbytes)))
        fitting = Chunks(rows_at_once(net, images[:1], most=ROWS))
        with torch.no_grad():
            logits = fitting.rows(net, images)
        margins = output_margins(net, test.y, logits, lambda: fitting.rows(net.features, images))

        def enclose(part: slice) -> tuple[dict[str, Tensor], Facts]:
            cost = Facts({}, facts.deadline)  # of this attempt: one that memory stops counts for nothing
            names = ("attacks", *seed_parts, part.start)
            ask = _Enclosure(
                net, certify, attacks, certificates, settings.epsilon, reference, names, cost, kept, fitting.size
            )
            return ask.of(images[part], test.y[part], logits[part]), cost

        chunks, costs = zip(*fitting.map(enclose, len(test)), strict=True)
        columns = dict.fromkeys(key for chunk in chunks for key in chunk)
        tensors = {"index": index} | {
            key: torch.cat([chunk[key] if key in chunk else _unbounded(key, chunk) for chunk in chunks])
            for key in columns
        }
        tensors |= margins
        if not bool((tensors["prediction"] == tensors["label"]).any()):  # nothing was asked, and nothing is certified
            for norm, name in itertools.product(NORMS, certificates):
                tensors[f"lower_{norm}_{name}"] = torch.zeros_like(tensors[f"lower_{norm}"])
        for cost in costs:
            facts.merge(cost)
        kept = kept.about(*(tensors[name] for name in ("prediction", "output_margin")))
        upper = {norm: tensors[f"upper_{norm}"] for norm in NORMS}
        for key, probe in settings.probes.items():
            seed = seeds.derive_seed(key, *seed_parts)
            subject = Subject(net, test, data.validation, data.train, settings.epsilon, seed, upper)
            tensors |= probed(key, probe, subject, tensors, facts, kept)
        evidence = Evidence(
            net,
            images,
            tensors,
            facts.estimators,
            attacks,
            certificates,
            settings.epsilon,
            data.num_classes,
            certify,
            fitting.size,
        )
        found = _examined(evidence, facts) if examine else {}
        arrays = {key: tensor.cpu().numpy() for key, tensor in tensors.items()}
        if facts.recalled:
            log.info("taken from an evaluation that was interrupted: %.1f s of work", facts.recalled)
        explanations = {name: explanation(name) for name in found}
        return Evaluated(arrays, facts.estimators, found, explanations, facts.recalled)


def _examined(evidence: Evidence, facts: Facts) -> dict[str, str]:
    """The doubts, each with what was seen."""
    facts.deadline.check("before doubts")
    facts.deadline.enter("in doubts")
    start = time.perf_counter()
    for key, seen in recheck(evidence).items():
        facts.add(key, **seen)
    if (reason := hardly_measurable(evidence)) is not None:
        facts.add(gradient_mismatch.__name__, **{UNCHECKED: reason})
    found = collect(evidence)
    facts.add("doubts", seconds=time.perf_counter() - start)
    return found


def _layout(net: Net, device: torch.device) -> AbstractContextManager[None]:
    """A block in which convolutions on CUDA lie as is fast in float32; `fast_search` has a layout of its own."""
    return kernels_in(net, torch.contiguous_format) if device.type == "cuda" else nullcontext()


def _unbounded(key: str, chunk: Mapping[str, Tensor]) -> Tensor:
    """The bound `key` of images for which its certificate gave none: none, but a wrong class has margin 0."""
    nothing = torch.zeros_like(chunk["upper_l2"])
    return (
        nothing.masked_fill(chunk["prediction"] == chunk["label"], torch.inf) if key.startswith("upper_") else nothing
    )


@dataclass(frozen=True)
class _Enclosure:
    """The arrays of a chunk of images. The correct ones are asked about, in the order of the suite's tables."""

    net: Net
    certify: Certify
    attacks: Mapping[str, Attack]
    certificates: Mapping[str, Certificate]
    epsilon: Mapping[Norm, float]
    reference: Tensor
    seed_parts: tuple[str | int, ...]
    facts: Facts
    kept: Partial
    fitting: int

    def of(self, x: Tensor, y: Tensor, logits: Tensor) -> dict[str, Tensor]:
        prediction = predicted_class(logits)
        correct = prediction == y
        out = {"label": y, "prediction": prediction}
        kept = self.kept.about(logits)
        for norm in NORMS:
            stream = torch.Generator(x.device)  # seeded for each estimator
            about = (self.net, x[correct], y[correct], norm, self.epsilon[norm], self.reference, stream)
            q = Query(*about, fitting=self.fitting)
            for name, values in self._bounds(q, kept).items():
                full = torch.zeros(len(correct), device=values.device)
                full[correct] = values.float()
                out[name] = full
        return out

    def _bounds(self, q: Query, kept: Partial) -> dict[str, Tensor]:
        """upper_NORM and lower_NORM, of all estimators and of each."""
        out = {}
        upper = torch.full((len(q.x),), torch.inf, device=q.x.device)
        lower = torch.zeros_like(upper)
        for name in [*self.attacks, *([*self.certificates, OWN] if len(q.x) else ())]:
            of = f"{name}_{q.norm}"
            asked = replace(q, upper=upper if name in self.certificates else None)
            q.generator.manual_seed(seeds.derive_seed(*self.seed_parts, of))
            where = f"{of} {self.seed_parts[-1]}"
            found = self.facts.ask(kept, of, where, upper.device, bound(self._estimate, name, asked)).arrays
            if "lower" in found:
                # NaN certifies nothing
                radius = found["lower"].float().nan_to_num(nan=0.0, posinf=torch.inf).clamp_min(0)
                out[f"lower_{q.norm}_{name}"] = radius
                lower = torch.maximum(lower, radius)
            if "upper" in found:
                out[f"upper_{q.norm}_{name}"] = found["upper"]
                upper = torch.fmin(upper, found["upper"])  # NaN bounds nothing
        return {**out, f"upper_{q.norm}": upper, f"lower_{q.norm}": lower}

    def _estimate(self, name: str, q: Query) -> Found:
        """The answer of an attack or a certificate, and what it cost beside time."""
        if name in self.attacks:
            with PassCounter(self.net) as passes:
                answer = self.attacks[name](q)
            assert answer.upper is not None and answer.points is not None
            cost = {"forward": passes.forward, "backward": passes.backward}
            if wrong := int(answer.points.flatten(1).isnan().any(1).sum()):
                cost[INVALID] = wrong
            return Found({"upper": answer.upper}, cost)
        if name == OWN:
            answer = ask_own(self.certify, self.net, q)
        else:
            layers = self.net.decision_net()
            answer = self.certificates[name](replace(q, net=layers))
        if answer.lower is None:
            return Found({}, {"not_applicable": answer.reason})
        arrays = {"lower": answer.lower} | ({} if answer.upper is None else {"upper": self._reached(name, q, answer)})
        more = {} if answer.solved is None else {"points": len(q.x), "solved": int(answer.solved.sum())}
        if wrong := int((~(answer.lower >= 0)).sum()):
            more[INVALID] = wrong
        return Found(arrays, more)

    def _reached(self, name: str, q: Query, answer: Answer) -> Tensor:
        """[B] distances of the nearest adversarial images: those known, and those that a certificate has found.

        Raises:
            MarginbenchError: it says that there are nearer ones.
        """
        assert q.upper is not None and answer.upper is not None
        nearest = q.upper
        if answer.points is not None:
            points = pushed(self.net, q.x, answer.points.to(q.x), q.y)
            away = distance(points.double() - q.x.double(), q.norm)
            nearest = torch.minimum(nearest, away.masked_fill(~is_adversarial(self.net, points, q.y), torch.inf))
        if bool((short := answer.upper < (1 - SHORT) * nearest - FINE).any()):
            said, seen = float(answer.upper[short][0]), float(nearest[short][0])
            raise MarginbenchError(
                f"certificate {name!r} gives {said:.6g} as `upper` in {q.norm}, and the nearest adversarial image known"
                f" is at {seen:.6g}: return the images that it has found as `points` of the Answer, or no `upper`"
            )
        return nearest
