"""All-layer margin: cross-entropy under small adversarial perturbations of every hidden layer."""

from typing import ClassVar

import torch
from torch import Tensor

from marginbench.methods import Batch, Context, Info, Loss, Method, Net, Task, cross_entropy, param
from marginbench.methods.errors import MarginbenchError
from marginbench.methods.maths.layers import changed_outputs, weighted_layers
from marginbench.methods.maths.perturb import l2_norms, scale_examples


class AllLayerMargin(Method):
    """L = CE(z(delta)), logits z(delta) [B, K] of the network whose hidden layers h_l [B, ...] are perturbed.

    Layer l passes on h_l + ||h_l|| delta_l, with the norm of each example and delta_l [B, ...] found from 0 by gradient
    ascent: delta_il <- delta_il + step d CE_i(z(delta)) / d delta_il for every example i. So one step gives
    delta_il = step ||h_il|| d CE_i / d h_il. Hidden layers are the linear and convolutional ones below the head, before
    their activations. delta is a constant in the last pass, ||h_l|| is not.
    """

    info: ClassVar[Info] = Info(
        key="all_layer_margin",
        title="All-layer margin (AMO)",
        family="lipschitz",
        paper="Wei, Ma: Improved Sample Complexities for Deep Networks and Robust Classification via an All-Layer"
        " Margin, ICLR 2020, arXiv 1910.04284",
        section="5, algorithm 1",
        year=2020,
        claims=("accuracy",),
        neutral={"step": 0.0},
        revision=2,
        needs=frozenset({"input_grad"}),
        deviations=(
            "the ascent follows the gradient of an example's own cross-entropy, the authors' code that of the mean over"
            " the batch: its step 0.01 at batch size 128 is 0.00008 here, at which networks of this size are trained as"
            " with cross-entropy. The default is 200 times that",
            "every dense and convolutional layer of the body is perturbed; the authors perturb the two convolutions"
            " of each residual block. The image itself is not perturbed",
        ),
    )

    step: float = param(
        0.016,
        "step of the ascent",
        unit="1",
        source="validation images of the digits, 5 values from 0.00016 to 0.16, 2 seeds, commit 2952381: best accuracy",
        search=(0.002, 0.016, 0.05),
        ge=0,
    )
    steps: int = param(1, "ascent steps", unit="-", source="authors' code", search=(1, 2), ge=1)

    def build(self, net: Net, task: Task) -> Net:
        if not weighted_layers(net.body):
            raise MarginbenchError("all_layer_margin needs a hidden layer with weights")
        return net

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        deltas = self._ascent(net, batch)
        with changed_outputs(weighted_layers(net.body), lambda i, h: h + scale_examples(l2_norms(h), deltas[i])):
            loss = cross_entropy(net(batch.x), batch)
        return Loss(loss, {"perturbed": loss.detach()})

    def _ascent(self, net: Net, batch: Batch) -> dict[int, Tensor]:
        """The perturbations, one per hidden layer, in the shape of its output."""
        layers = weighted_layers(net.body)
        deltas: dict[int, Tensor] = {}  # in the order in which the layers run: in residual sums not that of the list

        def perturb(i: int, h: Tensor) -> Tensor:
            delta = deltas.setdefault(i, torch.zeros_like(h).requires_grad_())
            return h + scale_examples(l2_norms(h), delta)

        for _ in range(self.steps):
            with changed_outputs(layers, perturb):
                risk = cross_entropy(net(batch.x), batch) * len(batch.y)  # the sum: an example's step is its own
            gradients = torch.autograd.grad(risk, list(deltas.values()))
            moved = (d + self.step * g for d, g in zip(deltas.values(), gradients, strict=True))
            deltas = {i: delta.detach().requires_grad_() for i, delta in zip(deltas, moved, strict=True)}
        return {i: delta.detach() for i, delta in deltas.items()}
