"""The contract between a training method and the benchmark.

A method is one frozen pydantic model in one file. Its fields are its hyper-parameters, its hooks are the
places where its paper differs from plain cross-entropy training. A method that overrides nothing *is*
cross-entropy. The benchmark owns data, network, optimiser, schedule and seeds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods.context import Context, Task
from marginbench.methods.errors import MarginbenchError
from marginbench.methods.facts import Info, Norm
from marginbench.methods.hooks import HookError, in_words, place_of, returned
from marginbench.methods.net import Net

CONTRACT = 1
"""The number of this contract: raised when a hook gains an argument. Methods say for which one they were written.

A new argument comes last, has a default in `Method` for those who call `super()`, and is listed in `ADDED`; methods
written for an older contract are then called without it.
"""
ADDED: Mapping[tuple[str, str], int] = {}
"""(hook, argument) to the contract that added it."""


def param(default: Any, doc: str, *, unit: str, source: str, search: tuple[Any, ...], **limits: Any) -> Any:
    """Declare a hyper-parameter: default, meaning, unit, source of the default, and values worth searching.

    `limits` are pydantic's: `ge`, `gt`, `le`, `lt`.
    """
    extra: dict[str, Any] = {"unit": unit, "source": source, "search": list(search)}
    return Field(default=default, description=doc, json_schema_extra=extra, **limits)


@dataclass(frozen=True)
class Batch:
    """A batch of B training examples, which hooks do not change: `dataclasses.replace(batch, x=...)` makes another.

    Attributes:
        x: [B, C, H, W] float32 images in [0, 1], on the device; or sentences, [B, 2, 1, L] int64 token ids and
            segments, which the network embeds.
        y: [B] int64 labels.
        index: [B] int64 positions in the training set.
        target: [B, K] float32 soft labels that `augment` has set, in the place of y in cross-entropy.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    target: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise, with its named terms.

    Attributes:
        total: [] float, attached to the weights.
        parts: [] float each.

    Raises:
        MarginbenchError: `total` is no scalar tensor, or `parts` no mapping of names to scalar tensors.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.total, Tensor) or self.total.dim():
            raise MarginbenchError(f"Loss.total is {in_words(self.total)}: it must be a scalar tensor, as of .mean()")
        if not isinstance(self.parts, Mapping):
            raise MarginbenchError(f"Loss.parts is {in_words(self.parts)}: it must be a dict of names and scalars")
        for name, part in self.parts.items():
            if not isinstance(part, Tensor) or part.dim():
                remedy = "it must be a scalar tensor, as of .mean(); leave out what is none"
                raise MarginbenchError(f"Loss.parts[{name!r}] is {in_words(part)}: {remedy}")


@dataclass(frozen=True)
class Radii:
    """Certified radii: within `radius` of x the predicted class cannot change.

    Attributes:
        radius: [B] float, in pixels of [0, 1]; 0 where nothing is certified.

    Raises:
        MarginbenchError: it is no such tensor.
    """

    radius: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.radius, Tensor) or self.radius.dim() != 1 or not self.radius.is_floating_point():
            raise MarginbenchError(f"Radii.radius is {in_words(self.radius)}: it must be a tensor [B] of floats")


@dataclass(frozen=True)
class NotApplicable:
    """Why there is no certificate; the tables show the reason."""

    reason: str


def as_float(tensor: Tensor) -> Tensor:
    """Raise half precision to float32; leave float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Mean over the batch of -log softmax(z)_y, or of the cross-entropy with `batch.target`. Logits [B, K]."""
    return F.cross_entropy(as_float(logits), batch.y if batch.target is None else batch.target)


def class_mask(y: Tensor, num_classes: int) -> Tensor:
    """[B] labels to [B, K] bool, true at the label: one-hot vectors, without `one_hot`'s check of the labels' range."""
    return y[:, None] == torch.arange(num_classes, device=y.device)


def logit_margin(logits: Tensor, y: Tensor) -> Tensor:
    """z_y - max_{j != y} z_j of logits [B, K] and labels [B]: [B], negative where another class wins.

    NaN where the logits decide nothing, see `predicted_class`.
    """
    label = y[:, None]
    return logits.gather(1, label)[:, 0] - logits.scatter(1, label, -torch.inf).amax(1)


UNDECIDED = -1  # in the place of a class


def predicted_class(logits: Tensor) -> Tensor:
    """argmax_j z_j of logits [B, K]: [B] int64, or UNDECIDED (-1) where they decide nothing.

    A class of -inf never wins, as if the network did not have it, and a single +inf does. NaN anywhere in a row, and
    a tie of infinite logits, decide nothing: such an image is in no class, so its margin is 0 whatever its label.
    """
    largest, index = logits.max(1)
    tied = largest.isinf() & ((logits == largest[:, None]).sum(1) > 1)
    return torch.where(largest.isnan() | tied, UNDECIDED, index)


class Method(BaseModel):
    """A training method: hyper-parameters as fields, hooks as methods. Immutable, hashable, printable.

    Subclasses set `info` and describe their objective, with shapes, in the class docstring.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    info: ClassVar[Info]

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(
            f"self.{name} = {in_words(value)}: a method holds no state: keep it in a buffer of the net, or in ctx.table"
        )

    def build(self, net: Net, task: Task) -> Net:
        """Change the fresh network: replace `net.head`, wrap layers, register buffers for state."""
        return net

    def param_groups(self, net: Net) -> list[dict[str, Any]]:
        """Optimiser groups; a group may set `lr_scale`, a factor on the benchmark's learning rate."""
        return [{"params": [p for p in net.parameters() if p.requires_grad]}]

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        """Change the batch before the loss sees it."""
        return batch

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        """The objective of one step."""
        return Loss(cross_entropy(net(batch.x), batch))

    def update(self, net: Net, batch: Batch, ctx: Context, optimiser: torch.optim.Optimizer) -> Loss:
        """One optimiser step. Override only for two-step methods, and declare the need `own_update`.

        The optimiser is a torch.optim.Optimizer with the groups of `param_groups`; the benchmark sets their rates.

        Raises:
            HookError: `loss` returned something else than a `Loss`, or one that no weight has a part in.
        """
        optimiser.zero_grad(set_to_none=True)
        loss = returned(self.loss, self.loss(net, batch, ctx), Loss, "end it with `return Loss(total)`")
        if not loss.total.requires_grad:
            raise HookError(place_of(self.loss), "its total depends on no weight: no `detach`, `item` or `no_grad`")
        loss.total.backward()
        optimiser.step()
        return loss

    def after_step(self, net: Net, ctx: Context) -> None:
        """Projections and power iterations after the optimiser step. Runs without gradients."""

    def finish(self, net: Net, data: Iterable[Batch], ctx: Context) -> Net:
        """Change the trained network: prune, quantise, wrap.

        `data` is one pass over the training set, in order and not augmented: an iterator, which can be used once.
        Where layers are added, removed or replaced, override `rebuild` too.
        """
        return net

    def rebuild(self, net: Net, task: Task) -> Net:
        """Give a network fresh from `build` the layers that `finish` leaves, so that saved weights fit into it."""
        return net

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        """A certificate of its own for images x [B, C, H, W] in [0, 1]; the network is in eval mode.

        Network and images are float32, and in a second call float64, for a share of the certified images: that shows
        what rounding has decided. Create tensors with the dtype and device of x, as `x.new_zeros(...)` does.
        """
        return NotApplicable("the method has no certificate of its own")
