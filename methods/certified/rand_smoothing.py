"""Randomised smoothing: cross-entropy of images with Gaussian noise."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from marginbench.methods import Batch, Context, Info, Method, Net, Norm, NotApplicable, Radii, param


class RandSmoothing(Method):
    """L = CE(net(x + sigma n)), n ~ N(0, I) of the shape of x [B, C, H, W], drawn for every image and step.

    The noise is added to pixels, before the network normalises them, and is not clipped. The paper then predicts
    the class that wins a vote over many noisy copies of an image; here the network itself is evaluated.
    """

    info: ClassVar[Info] = Info(
        key="rand_smoothing",
        title="Randomised smoothing (Gaussian augmentation)",
        family="certified",
        paper="Cohen, Rosenfeld, Kolter: Certified Adversarial Robustness via Randomized Smoothing, ICML 2019,"
        " arXiv 1902.02918",
        section="3.3 (training)",
        year=2019,
        claims=("smoothed_radius",),
        neutral={"sigma": 0.0},
        deviations=(
            "the paper's certificate, which holds with a probability and for the vote alone, says nothing about the"
            " margins of the network: it has columns of its own, in suites with [evaluation.smoothing]",
            "one sigma for every suite: the paper has no rule that ties it to a radius",
        ),
    )

    sigma: float = param(
        0.25,
        "standard deviation of the noise",
        unit="pixels of [0, 1]",
        source="section 4: 0.12, 0.25, 0.5 and 1",
        search=(0.12, 0.25, 0.5, 1.0),
        ge=0,
    )

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        x = batch.x
        noise = torch.randn(x.shape, generator=ctx.generator, device=ctx.device, dtype=x.dtype)
        return replace(batch, x=x + self.sigma * noise)

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        return NotApplicable("the certificate is probabilistic and for the smoothed classifier, not for the network")
