"""Checks on the facts and on one evaluation of the loss."""

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from marginbench.benchmarks.contract import symmetry_checks
from marginbench.benchmarks.contract.fixtures import NotTestedError, loss_of, require, require_finite, stage
from marginbench.benchmarks.contract.needs_check import needs_declared
from marginbench.methods import Method, create, spec_of
from marginbench.methods.spec import configure

EMPTY_SOURCE = re.compile(
    r"(\W|\b(a|choice|choose|chosen|code|default|here|me|my|none|our|own|paper|tbd|the|to|todo|unknown|yours)\b)*"
)
"""Words that name no source of a default."""


def documented(method: Method) -> None:
    """Every fact that the tables print is there, and every value offered for a search is valid."""
    info = method.info
    for name in ("title", "family", "paper", "section"):
        require(getattr(info, name).strip(), f"Info.{name} is empty")
    require("=" in (type(method).__doc__ or ""), "the docstring should give the objective as a formula, L = ...")
    for name, field in type(method).model_fields.items():
        extra: Any = field.json_schema_extra
        require(
            field.description and extra["unit"],
            f"{name}: meaning or unit is empty",
        )
        require(
            not EMPTY_SOURCE.fullmatch(extra["source"].lower()),
            f"{name}: the source {extra['source']!r} says nothing: give the paper's section, `authors' code`, or why"
            " the value was chosen, as in `chosen on validation images of the digits`",
        )
        require(extra["search"], f"{name}: give values worth searching")
        for value in extra["search"]:
            configure(type(method), {name: value})


def spec_round_trip(method: Method) -> None:
    """The canonical spec builds the same method again, and the default method needs no fields."""
    require(create(method.info.key) == type(method)(), "the bare key does not give the default method")
    spec = spec_of(method)
    again = create(spec)
    require(again == method and spec_of(again) == spec, f"{spec!r} gives {again!r}")


def finite_loss(method: Method) -> None:
    """The loss is a finite scalar, and its parts are scalars."""
    s = stage(method)
    loss = loss_of(s)
    require_finite(loss.total, f"at step {s.ctx.step}")
    for name, part in loss.parts.items():
        require(part.isfinite(), f"Loss.parts[{name!r}] is {part.item()} at step {s.ctx.step}")


def bf16_finite(method: Method) -> None:
    """Under bf16 autocast, losses, gradients and weights stay finite for a few steps; the loss is near float32's."""
    losses = []
    for enabled in (False, True):
        s = stage(method, steps=4, precision="bf16")
        s.net.zero_grad()
        with torch.random.fork_rng(devices=[]), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            torch.manual_seed(0)  # dropout
            losses.append(loss_of(s))
    exact, loss = losses
    require_finite(exact.total, f"at step {s.ctx.step}")
    near = torch.allclose(loss.total.float(), exact.total.float(), rtol=0.1, atol=0.05)
    require(near, f"the loss is {loss.total.item():.4g} under bf16 autocast and {exact.total.item():.4g} without")
    loss.total.backward()
    bad = [n for n, p in s.net.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    require(loss.total.isfinite() and not bad, f"loss {loss.total.item()}, gradients not finite: {bad or 'none'}")


def gradient_everywhere(method: Method) -> None:
    """The loss sends a gradient to every parameter: nothing is detached or left out."""
    s = stage(method)
    s.net.zero_grad()
    loss = loss_of(s)
    require(loss.total.requires_grad, "the loss is detached from the network")
    loss.total.backward()
    dead = [n for n, p in s.net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    require(not dead, f"no gradient reaches {', '.join(dead)}")


def batch_unchanged(method: Method) -> None:
    """augment and loss leave the tensors of the batch as they were."""
    s = stage(method)
    before = (s.batch.x.clone(), s.batch.y.clone(), s.batch.index.clone())
    loss_of(s)
    for name, old in zip(("x", "y", "index"), before, strict=True):
        new = getattr(s.batch, name)
        require(torch.equal(old, new) and not new.requires_grad, f"batch.{name} was changed")


def global_rng_untouched(method: Method) -> None:
    """Hooks draw from ctx.generator alone (dropout layers excepted) and never seed a global generator."""
    s = stage(method)
    dropout = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in s.net.modules())

    def states() -> tuple[Any, ...]:
        return (
            torch.initial_seed(),
            random.getstate(),
            repr(np.random.get_state(legacy=False)),
            None if dropout else torch.get_rng_state().numpy().tobytes(),
        )

    with torch.random.fork_rng(devices=[]):
        before = states()
        loss_of(s)
        with torch.no_grad():
            s.method.after_step(s.net, s.ctx)
        after = states()
    names = ("torch seed", "random", "numpy.random", "torch generator")
    changed = [name for name, a, b in zip(names, before, after, strict=True) if a != b]
    require(not changed, f"global state changed: {', '.join(changed)}; draw from ctx.generator")


def neutral_is_cross_entropy(method: Method) -> None:
    """At its neutral setting the loss equals cross-entropy of net(x), in value and gradient."""
    if isinstance(method.info.neutral, str):
        raise NotTestedError(method.info.neutral)
    s = stage(configure(type(method), {**dict(method), **method.info.neutral}))
    params = [p for p in s.net.parameters() if p.requires_grad]
    found = loss_of(s).total
    wanted = F.cross_entropy(s.net(s.batch.x), s.batch.y)
    require(
        torch.allclose(found, wanted, rtol=1e-5, atol=1e-6),
        f"loss {found.item()}, cross-entropy {wanted.item()}",
    )
    gradients = (torch.autograd.grad(loss, params, materialize_grads=True) for loss in (found, wanted))  # unused: zeros
    for a, b in zip(*gradients, strict=True):
        require(torch.allclose(a, b, rtol=1e-4, atol=1e-6), "the gradient differs from that of cross-entropy")


CHECKS: tuple[Callable[[Method], str | None], ...] = (
    documented,
    spec_round_trip,
    finite_loss,
    bf16_finite,
    gradient_everywhere,
    batch_unchanged,
    global_rng_untouched,
    neutral_is_cross_entropy,
    *symmetry_checks.CHECKS,
    needs_declared,
)
