"""A custom measurement: does the network see the same in a mirror?"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marginbench.benchmarks import Column, Probe, Subject, probe


@probe
class Mirror(Probe):
    """The section [evaluation.mirror] of a suite; its keys are the fields."""

    key = "mirror"
    columns = (Column("mirror_agreement", "mirrored %", factor=100, digits=1),)

    vertical: bool = False  # upside down, instead of left and right

    @torch.no_grad()
    def measure(self, subject: Subject) -> dict[str, Tensor]:
        images = subject.test.images(slice(None)).flip(2 if self.vertical else 3)
        return {"mirrored_prediction": subject.net(images).argmax(1)}

    def metrics(self, arrays: Mapping[str, np.ndarray], epsilon: Mapping[str, float]) -> dict[str, float]:
        return {"mirror_agreement": float((arrays["mirrored_prediction"] == arrays["prediction"]).mean())}

    def note(self, epsilon: Mapping[str, float]) -> str:
        return "mirrored = share of the images whose mirror image is given the same class."
