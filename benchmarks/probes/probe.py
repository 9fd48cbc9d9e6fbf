"""A probe: a further measurement of a network, with columns of its own in the tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.records.column import Column
from marginbench.benchmarks.registry import Registry
from marginbench.benchmarks.section import Section
from marginbench.methods import MarginbenchError, Norm


@dataclass(frozen=True)
class Subject:
    """What is measured."""

    net: (
        nn.Module
    )  # images [B, C, H, W] in [0, 1], or sentences, to logits [B, K], in eval mode, with frozen parameters
    test: Split  # the N images of the evaluation
    held_out: Split  # images that are neither trained nor tested on
    train: Split  # the training images of the suite
    epsilon: Mapping[Norm, float]  # the suite's radii, in pixels
    seed: int  # the only source of randomness
    # [N] distances of the nearest adversarial examples known, inf where there is none
    upper: Mapping[Norm, Tensor] = field(default_factory=dict)

    @property
    def generator(self) -> torch.Generator:
        """A fresh one, on the device of the images."""
        return torch.Generator(self.test.device).manual_seed(self.seed)


class Probe(Section):
    """A measurement. Its fields are the suite's section [evaluation.KEY]; a suite without it does not measure.

    A subclass in any file, decorated with `@probe`, adds one.
    """

    key: ClassVar[str]  # of the section, and of the seconds in the record
    rank: ClassVar[int] = 100  # of its columns among those of other probes, the smallest first
    columns: ClassVar[tuple[Column, ...]]  # of its metrics
    reads_sentences: ClassVar[bool] = False  # measures networks of sentences, see `data.text`, and not of images

    def measure(self, subject: Subject) -> dict[str, Tensor]:
        """Arrays for the record, by name: [N, ...] for the images; of any other shape for what is no such list."""
        raise NotImplementedError

    def metrics(self, arrays: Mapping[str, np.ndarray], epsilon: Mapping[Norm, float]) -> dict[str, float]:
        """The metrics by name, those that the columns show among them.

        Args:
            arrays: those of the record: its own, `label` [N] and `prediction` [N] int64, and what `evaluation` gives.
        """
        raise NotImplementedError

    def note(self, epsilon: Mapping[Norm, float]) -> str:
        """A sentence for the foot of the table, on how the columns are to be read; empty if there is nothing to say."""
        return ""


RESERVED = ("attacks", "certificates", "epsilon", "points", "doubts")
"""The other keys of the section [evaluation], and what else has seconds in the record."""
PROBES: Registry[type[Probe]] = Registry(reserved=RESERVED)
P = TypeVar("P", bound=type[Probe])


def probe(cls: P) -> P:
    """A decorator: suites may have a section of the probe's key.

    Raises:
        MarginbenchError: another file has the key, it is reserved, or the class lacks one, or its columns.
    """
    where = f"{cls.__module__}.{cls.__qualname__}"
    for fact in ("key", "columns"):
        if not getattr(cls, fact, None):
            raise MarginbenchError(f"{where}: a probe has {fact}: see marginbench.benchmarks.probes.probe.Probe")
    PROBES.add(cls.key, cls)
    return cls
