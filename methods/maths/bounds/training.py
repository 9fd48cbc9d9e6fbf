"""What certified training shares: the radius and its ramp as hyper-parameters, and the ball of a step."""

from typing import Any

from torch import Tensor

from marginbench.methods.context import Task
from marginbench.methods.facts import Norm
from marginbench.methods.maths.bounds.linear import TINY, Ball
from marginbench.methods.method import Batch, param


def radius_param(source: str = "section 4: the radius evaluated, or somewhat more") -> Any:
    """The field `epsilon: float | None`, for `ball_of`."""
    return param(
        None,
        "radius to be certified; none: the suite's epsilon",
        unit="pixels of [0, 1]",
        source=source,
        search=(None,),
        ge=0,
    )


def share_param(default: float, doc: str, source: str, *search: float, unit: str = "share of training") -> Any:
    """A field for a point of the training, or another share from 0 to 1."""
    return param(default, doc, unit=unit, source=source, search=search, ge=0, le=1)


def ramp(progress: float, start: float, end: float) -> float:
    """0 until `start`, 1 from `end` on, linear between them; all are shares of the training."""
    return min(max(progress - start, 0) / max(end - start, TINY), 1.0)


def ball_of(batch: Batch, share: float | Tensor, epsilon: float | None, norm: Norm, task: Task) -> Ball:
    """The ball around the images of a batch whose radius is that share of `epsilon`, or of the suite's."""
    x = batch.x.flatten(1)
    return Ball(x, x.new_ones(1, 1) * (share * (task.epsilon[norm] if epsilon is None else epsilon)), norm)
