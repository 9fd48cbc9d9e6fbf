"""The check that recorded steps, replayed as on a GPU, are the steps that would have been done."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from marginbench.benchmarks.contract.fixtures import CheckFailedError, NotTestedError, small_data, small_suite, step
from marginbench.benchmarks.contract.tape import Tape
from marginbench.benchmarks.machine import seeds
from marginbench.benchmarks.training.recorder import Branch, Recorder
from marginbench.benchmarks.training.run import Run
from marginbench.methods import Context, Loss, Method
from marginbench.methods.context import Reads

RELATIVE, ABSOLUTE = 1e-4, 1e-5  # of a loss: what rounding may do to a method that does not amplify it
TIMES, MOST = 10, 0.1  # the effect of one rounding, and the share of the largest loss that is accepted for it


def replays(method: Method) -> None:
    """Steps that are recorded once and then replayed, as on a GPU, train like steps that run one by one.

    To the bit, where both have tensors for the numbers of the schedule. With plain numbers they round otherwise: the
    losses may then differ by a little, or by what one rounding of the weights after each step does to them.
    """
    if method.info.eager:
        raise NotTestedError(method.info.eager)
    replaying = _run(method, Tape)
    replayed = _losses(replaying)
    assert replaying.replay is not None
    if replaying.replay.obstacle:
        raise NotTestedError(replaying.replay.obstacle)
    if not replaying.replay.replayed:
        raise NotTestedError(
            "it reads step or progress, which differ in every step: see Context.stage and Context.schedule"
        )
    anew = _Anew()
    doing = _run(method, lambda: anew)
    anew.ctx, changes = doing.ctx, _Changes(doing)
    done = _losses(doing, changes)
    wrong = (replayed != done).nonzero().flatten().tolist()
    if wrong:
        values = f"{replayed[wrong[0]]:.9g} instead of {done[wrong[0]]:.9g}"
        seen = f"step {wrong[0]} is the first whose loss differs, {values}"
    else:
        ends = _tensors(replaying), _tensors(doing)
        seen = ", ".join(name for name, value in ends[1].items() if not _same(ends[0].get(name), value))
        seen = f"the losses are the same, but not {seen} at the end" if seen else ""
    if seen:
        raise CheckFailedError(
            f"replayed, {seen}: {changes.cause()}; or say in Info.eager why steps cannot be replayed"
        )
    _compare_with_numbers(method, done)


def _compare_with_numbers(method: Method, done: Tensor) -> None:
    """Losses [T] of steps done one by one with tensors for the numbers of the schedule: the numbers do the same."""
    plain = _losses(_run(method))
    allowed = RELATIVE * plain.abs() + ABSOLUTE
    if bool(((done - plain).abs() <= allowed).all()):
        return
    run = _run(method)
    stream = seeds.generator(run.ctx.device, "contract", "rounding")
    rounded = (_losses(run, lambda: _round(run, stream)) - plain).abs().cummax(0).values
    allowed = allowed + (TIMES * rounded).clamp_max(MOST * float(plain.abs().max()))
    wrong = ((done - plain).abs() > allowed).nonzero().flatten().tolist()
    if wrong:
        values = (
            f"{done[wrong[0]]:.6g} where ctx.schedule gives a tensor and {plain[wrong[0]]:.6g} where it gives a number"
        )
        raise CheckFailedError(
            f"the loss of step {wrong[0]} is {values}; rounding the weights moves it by {rounded[wrong[0]]:.1g}: use"
            " numbers of the schedule for arithmetic alone"
        )


def _run(method: Method, recorder: Callable[[], Recorder] | None = None) -> Run:
    return Run(method, small_suite(epochs=20), small_data(), repetition=0, recorder=recorder)


def _losses(run: Run, after_step: Callable[[], None] = lambda: None) -> Tensor:
    """[T] float64, of all steps."""
    losses = []
    with seeds.seeded(run.ctx.device, "contract", "dropout"):
        for _ in range(run.ctx.steps):
            losses.append(step(run))
            after_step()
    return torch.stack(losses)


def _tensors(run: Run) -> dict[str, Tensor]:
    """The state of a run, by the names that its author knows."""
    net = {f"net.{name}": tensor for name, tensor in (*run.net.named_parameters(), *run.net.named_buffers())}
    return net | {f"ctx.table({name!r})": table for name, table in run.ctx.tables.items()}


def _same(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and torch.equal(a.nan_to_num(), b.nan_to_num())


def _round(run: Run, stream: torch.Generator) -> None:
    """Move every weight to one of its neighbours in floating point."""
    with torch.no_grad():
        for weight in run.net.parameters():
            up = torch.rand(weight.shape, generator=stream, device=stream.device) < 0.5
            weight.copy_(torch.nextafter(weight, torch.where(up, torch.inf, -torch.inf).to(weight)))


class _Anew(Tape):
    """A recorder that does the work each time again: what a recording must come to.

    Watched as a tape does: torch has other formulas for some gradients, as that of `prod`, where somebody watches.
    """

    ctx: Context

    def record(self, branches: Sequence[Branch]) -> list[Loss]:
        (self._branch,), self._result = branches, Loss(torch.zeros((), device=self.ctx.device))
        return [self._result]

    def replay(self) -> None:
        with self.ctx.noting(Reads([])):  # tensors for the numbers of the schedule
            self._result.total.copy_(self.watch(self._branch.again)[0].total)


class _Changes:
    """Called after every step, it notes what of a run's state is not changed in place."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._before = self._state()
        self._replaced: dict[str, None] = {}
        self._counted: dict[str, tuple[Any, Any]] = {}

    def __call__(self) -> None:
        now = self._state()
        for name, value in now.items():
            before = self._before.get(name)
            if before is None:
                continue
            if isinstance(value, Tensor):
                if before is not value:
                    self._replaced[name] = None
            elif before != value:
                self._counted.setdefault(name, (before, value))
        self._before = now

    def _state(self) -> dict[str, Any]:
        """Tensors of the network and tables, and what else its modules hold: tensors and plain numbers."""
        state: dict[str, Any] = dict(_tensors(self._run))
        for path, module in self._run.net.named_modules(prefix="net"):
            state |= {f"{path}.{k}": v for k, v in vars(module).items() if isinstance(v, Tensor | bool | int | float)}
        return state

    def cause(self) -> str:
        if self._replaced:
            return f"each step makes a new tensor of {', '.join(self._replaced)}: change it in place, as by copy_()"
        if self._counted:
            name, (before, after) = next(iter(self._counted.items()))
            return (
                f"{name} is a number of Python ({before}, then {after}), which a recording keeps as it was: make it a"
                " buffer and change it in place"
            )
        return (
            "probably something that Python computes or keeps, which a recording holds as it was: keep state in buffers"
            " or ctx.table, and read the schedule from ctx"
        )
