"""The contract between a training method and the benchmark.

A method is one frozen pydantic model in one file. Its fields are its hyper-parameters, its hooks are the
places where its paper differs from plain cross-entropy training. A method that overrides nothing *is*
cross-entropy. The benchmark owns data, network, optimiser, schedule and seeds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from marginbench.methods.net import Net

T = TypeVar("T")
Norm = Literal["l2", "linf"]
NORMS: tuple[Norm, ...] = get_args(Norm)

Need = Literal["input_grad", "second_order", "inner_attack", "index", "own_update", "pretrained"]
"""What a method asks of the trainer beyond one forward and one backward pass.

`input_grad`: differentiates with respect to the input; `second_order`: through such a gradient;
`inner_attack`: searches perturbations of the input; `index`: keeps state per training example;
`own_update`: replaces the optimiser step; `pretrained`: starts from a trained network.
"""

Claim = Literal["accuracy", "feature_margin", "input_margin", "certified_radius", "rejection", "smoothed_radius"]
"""What is said to grow, by the method's paper or by a survey.

`accuracy` on clean images; `feature_margin`, the distance from the decision planes behind the last layer;
`input_margin`, the distance of the nearest adversarial image; `certified_radius`; `rejection`, robustness where images
of low confidence may be refused; `smoothed_radius`, certified for the vote over noisy copies of an image.
"""


@dataclass(frozen=True)
class Info:
    """The facts about a method. `marginbench check` compares the declared ones with what it observes."""

    key: str  # the name of the file
    title: str
    family: str  # the name of the folder
    paper: str  # authors, title, venue, arXiv number
    section: str  # where in the paper the objective stands
    year: int
    neutral: Mapping[str, Any] | str  # fields at which it equals cross-entropy, or why there are none
    revision: int = 1  # raise it when behaviour changes: older records then show as stale
    claims: tuple[Claim, ...] = ()  # the leaderboard is compared with them, column by column
    needs: frozenset[Need] = frozenset()
    deviations: tuple[str, ...] = ()  # from the paper, in words
    eager: str = ""  # why a recorded step must not be replayed, if so: see Context
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # named settings with rows of their own


def param(default: Any, doc: str, *, unit: str, source: str, search: tuple[Any, ...], **limits: Any) -> Any:
    """Declare a hyper-parameter: default, meaning, unit, source of the default, and values worth searching.

    `limits` are pydantic's: `ge`, `gt`, `le`, `lt`.
    """
    extra: dict[str, Any] = {"unit": unit, "source": source, "search": list(search)}
    return Field(default=default, description=doc, json_schema_extra=extra, **limits)


@dataclass(frozen=True)
class Task:
    """What a method may know about the data and the evaluation before training starts."""

    input_shape: tuple[int, int, int]  # channels, height, width
    class_counts: tuple[int, ...]  # training examples per class
    epsilon: Mapping[Norm, float]  # the suite's radii, in pixels of [0, 1]

    @property
    def num_classes(self) -> int:
        return len(self.class_counts)

    @property
    def num_train(self) -> int:
        return sum(self.class_counts)


@dataclass(frozen=True)
class Batch:
    """A batch of B training examples."""

    x: Tensor  # [B, C, H, W] float32 in [0, 1]
    y: Tensor  # [B] int64
    index: Tensor  # [B] int64, position in the training set
    target: Tensor | None = None  # [B, K] float32 soft labels set by `augment`, replacing y in cross-entropy


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise, with its named terms for the training log."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Radii:
    """Certified radii: within `radius` of x the predicted class cannot change."""

    radius: Tensor  # [B] float, in pixels of [0, 1]; 0 where nothing is certified


@dataclass(frozen=True)
class NotApplicable:
    """Why there is no certificate; the tables show the reason."""

    reason: str


class Reads:
    """What a step read of the schedule: while the stages are the same, it is the same step but for the numbers.

    Args:
        slots: for each number a scalar tensor, which stays where it is; more are added as a step reads more numbers.
        frozen: the numbers are in their slots already, and leave them as they are.
    """

    def __init__(self, slots: list[Tensor], frozen: bool = False) -> None:
        self.stages: list[tuple[Callable[[], Any], Any]] = []  # with what they were
        self._numbers: list[Callable[[], float]] = []
        self._slots, self._frozen = slots, frozen

    def note(self, number: Callable[[], float], value: float, device: torch.device) -> Tensor:
        """Put a number into its slot and return that."""
        position = len(self._numbers)
        self._numbers.append(number)
        if position == len(self._slots):
            assert not self._frozen, "a recorded step reads more numbers than the one before it"
            self._slots.append(torch.zeros((), device=device))
        if not self._frozen:
            self._slots[position].fill_(value)
        return self._slots[position]

    def fill(self, ctx: "Context") -> None:
        """Put the numbers of this step into their slots."""
        for number, slot in zip(self._numbers, self._slots, strict=False):  # other stages may read more
            slot.fill_(ctx.unnoticed(number))


class Context:
    """Where training stands, with the state and randomness that belong to one run.

    `generator` is the only source of randomness a hook may use (dropout layers excepted).

    On a GPU a step is recorded once and then replayed, with its numbers as they were. A hook that
    reads `step`, `epoch` or `progress` is recorded anew when they change; `stage` and `schedule` spare it that.
    """

    def __init__(self, task: Task, steps: int, epochs: int, generator: torch.Generator) -> None:
        self.task = task
        self.steps = steps
        self.epochs = epochs
        self.generator = generator
        self.tables: dict[str, Tensor] = {}
        self._step = 0
        self._reads: Reads | None = None  # where to note what hooks read of it

    @property
    def device(self) -> torch.device:
        return self.generator.device

    @property
    def step(self) -> int:
        return self.stage(lambda: self._step)

    @step.setter
    def step(self, value: int) -> None:
        self._step = value

    @property
    def epoch(self) -> int:
        return self.stage(lambda: self._step * self.epochs // self.steps)

    @property
    def progress(self) -> float:
        """Share of the training done, 0 at the first step, below 1 at the last."""
        return self.stage(lambda: self._step / self.steps)

    def stage(self, value: Callable[[], T]) -> T:
        """Return value(), which may read the context: something that steps agree on for long, a phase or a count."""
        answer = self.unnoticed(value)
        if self._reads is not None:
            self._reads.stages.append((value, answer))
        return answer

    def schedule(self, number: Callable[[], float]) -> float | Tensor:
        """Return number(), which may read the context: a factor that changes from step to step, for arithmetic alone.

        It comes as a float32 scalar tensor where the step may be replayed: comparing it would wait for the device.
        """
        answer = self.unnoticed(number)
        return answer if self._reads is None else self._reads.note(number, answer, self.device)

    @contextmanager
    def noting(self, reads: Reads | None) -> Iterator[None]:
        """A block in which what is read of the schedule is noted, or nothing is."""
        before, self._reads = self._reads, reads
        try:
            yield
        finally:
            self._reads = before

    def unnoticed(self, value: Callable[[], T]) -> T:
        """Return value() without noting what it reads."""
        with self.noting(None):
            return value()

    def table(self, name: str, init: float) -> Tensor:
        """Return the [num_train] float32 tensor `name`, one entry per training example, made on first use.

        It is saved with checkpoints. Read and write it at `batch.index`.
        """
        if name not in self.tables:
            self.tables[name] = torch.full((self.task.num_train,), init, device=self.device)
        return self.tables[name]


def as_float(tensor: Tensor) -> Tensor:
    """Raise half precision to float32; leave float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Mean over the batch of -log softmax(z)_y, or of the cross-entropy with `batch.target`. Logits [B, K]."""
    return F.cross_entropy(as_float(logits), batch.y if batch.target is None else batch.target)


def class_mask(y: Tensor, num_classes: int) -> Tensor:
    """[B] labels to [B, K] bool, true at the label: one-hot vectors, without `one_hot`'s look at the labels' range."""
    return y[:, None] == torch.arange(num_classes, device=y.device)


def logit_margin(logits: Tensor, y: Tensor) -> Tensor:
    """z_y - max_{j != y} z_j of logits [B, K] and labels [B]: [B], negative where another class wins."""
    label = y[:, None]
    return logits.gather(1, label)[:, 0] - logits.scatter(1, label, -torch.inf).amax(1)


class Method(BaseModel):
    """A training method: hyper-parameters as fields, hooks as methods. Immutable, hashable, printable.

    Subclasses set `info` and describe their objective, with shapes, in the class docstring.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    info: ClassVar[Info]

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
        """One optimiser step. Override only for two-step methods, and declare the need `own_update`."""
        optimiser.zero_grad(set_to_none=True)
        loss = self.loss(net, batch, ctx)
        loss.total.backward()
        optimiser.step()
        return loss

    def after_step(self, net: Net, ctx: Context) -> None:
        """Projections and power iterations after the optimiser step. Runs without gradients."""

    def finish(self, net: Net, data: Iterable[Batch], ctx: Context) -> Net:
        """Change the trained network: prune, quantise, wrap. `data` is one pass over the training set."""
        return net

    def certify(self, net: Net, x: Tensor, norm: Norm) -> Radii | NotApplicable:
        """A certificate of its own for images x [B, C, H, W] in [0, 1]; the network is in eval mode."""
        return NotApplicable("the method has no certificate of its own")
