"""Is a model from elsewhere what attacks and certificates need: logits, with gradients, one row per image?"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.evaluation.disguise import probabilities
from marginbench.benchmarks.unchanged import (
    FEW,
    agree,
    answers,
    batches,
    changes_itself,
    disturbed,
    self_changing,
)
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import one_line
from marginbench.methods.held import duplicate, held, modes_kept
from marginbench.methods.words import counted

PROBE = 64  # images on which a model is checked before it is evaluated
ALIKE = 1e-3  # what a copy without its wrappers may answer otherwise


def check_model(model: nn.Module, data: Dataset, where: str) -> None:
    """Try the model on a few test images.

    Raises:
        MarginbenchError: it fails on them, or what it returns is not one row of logits per image, of which attacks
            can take gradients. Probabilities are refused too: their gradients vanish where the network is sure, so
            that attacks fail and the margins look larger than they are.
    """
    few = data.test.images(data.test.sample(PROBE))
    for x in (few[:1], few):
        shape, image = list(x.shape), x.clone().requires_grad_()
        with torch.enable_grad():
            try:
                logits = model(image)
            except Exception as error:
                raise MarginbenchError(f"{where}: fails on images {shape}{data.files}: {one_line(error)}") from error
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            kind = str(logits.dtype) if isinstance(logits, Tensor) else type(logits).__name__
            raise MarginbenchError(f"{where}: returns {kind}; needed is one tensor of float logits [B, K]: wrap it")
        if logits.ndim != 2 or len(logits) != len(x):
            raise MarginbenchError(
                f"{where}: images {shape} give {list(logits.shape)}; needed are logits [{len(x)}, {data.num_classes}]"
            )
        if logits.shape[1] != data.num_classes:
            more = ": return the logits of these alone" if logits.shape[1] > data.num_classes else ""
            if (logits.shape[1], data.num_classes) == (1, 2):
                more = ": where z > 0 means class 1, return torch.cat([0 * z, z], 1)"
            given = counted(logits.shape[1], "logit")
            raise MarginbenchError(f"{where}: gives {given}; the data have {data.num_classes} classes{more}")
        _check_gradient(logits, image, where)
    if (seen := probabilities(model, few)) is not None:
        raise MarginbenchError(
            f"{where}: returns probabilities, or what is limited like them ({seen}), whose gradients vanish: return the"
            " logits before softmax, sigmoid, tanh or clamp"
        )


def _check_gradient(logits: Tensor, x: Tensor, where: str) -> None:
    """Ask for it: of some operations torch says only then that they have none."""
    gradient = None
    if logits.requires_grad:
        try:
            (gradient,) = torch.autograd.grad(logits.sum(), x, allow_unused=True)
        except Exception as error:  # of torch, or of the model's own autograd functions
            remedy = "take an operation that has a derivative, or a torch.autograd.Function whose backward gives one"
            raise MarginbenchError(
                f"{where}: the gradient of its logits, which the attacks need, cannot be computed ({one_line(error)}):"
                f" {remedy}"
            ) from error
    if gradient is None:
        raise MarginbenchError(f"{where}: its logits have no gradient in the image, which the attacks need")


UNFAITHFUL = (
    "a copy of it is evaluated, and that does not answer as the model does: it lacks hooks of an fx.GraphModule or a"
    " compiled module, or what __getstate__ leaves out; do in forward what they do"
)


def answers_as(given: nn.Module, model: nn.Module, enter: nn.Module, data: Dataset) -> bool:
    """Whether the copy of a model that will be evaluated answers as the model itself, on images and disturbed ones.

    Copies lose what `deepcopy` or taking a wrapper off loses. True as well where the model cannot be asked, or answers
    otherwise each time: the other checks speak of that.

    Args:
        model: the copy, with the same weights.
        enter: images [B, C, H, W] to what the model is given.
    """
    if any(is_lazy(tensor) or tensor.is_meta for tensor in [*given.parameters(), *given.buffers()]):
        return True
    x = data.test.images(data.test.sample(FEW))
    x = enter(torch.cat([x, disturbed(x)]))
    wanted = _in_eval(given, x)
    if wanted is None or agree(wanted, _in_eval(duplicate(model), x), ALIKE, ALIKE):
        return True
    return not agree(wanted, _in_eval(given, x), ALIKE, ALIKE)


def _in_eval(model: nn.Module, x: Tensor) -> Tensor | None:
    like = next((p for p in model.parameters() if p.is_floating_point()), x)
    with modes_kept(model) as modules:
        for module in modules:
            module.training = False  # eval() of an exported module raises
        return answers(model, x.to(like))


def check_apart(given: nn.Module, copied: nn.Module, x: Tensor, where: str) -> None:
    """Call a copy of the copy, and see whether it uses or changes tensors of the model that it was copied from.

    Copies know what closures of the model hold; weak references, and containers in closures, lead back to the model:
    the copy would compute with weights that are not its own, or with what the model kept of an earlier call.

    Args:
        x: some images, as the model wants them.

    Raises:
        MarginbenchError: it does.
    """
    before = _tensors(given)
    with suppress(Exception), torch.no_grad(), _Uses(before) as uses:  # `check_model` says what is wrong
        duplicate(copied)(x)  # a model may keep what it is called with first
    after = _tensors(given)
    changed = [name for name, tensor in after.items() if tensor is not before.get(name)]
    if names := uses.names or changed:
        remedy = "keep things on the module that the hook is given, or return them from forward"
        raise MarginbenchError(
            f"{where}: a copy of it is evaluated, and that reaches back to the model that was copied ({names[0]}), as a"
            f" hook does that keeps a reference to it: {remedy}"
        )


class _Uses(TorchFunctionMode):
    """Names of those among the tensors that something is done with."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names: list[str] = []
        self._known = {id(tensor): name for name, tensor in tensors.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        self.names += [self._known[id(leaf)] for leaf in leaves if id(leaf) in self._known]
        return func(*args, **(kwargs or {}))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    kept = {name: place.value for name, place in held(model).items() if isinstance(place.value, Tensor)}
    return {**kept, **dict(model.named_parameters())}


def check_unchanging(model: nn.Module, enter: nn.Module, data: Dataset, where: str) -> None:
    """Call copies of the model with other images, and see whether it then answers what it did before.

    Args:
        model: has not been called on several images yet: what it keeps of them would be taken for its own.
        enter: images [B, C, H, W] to what the model is given.

    Raises:
        MarginbenchError: its answers depend on the images before, at once or after many calls; or it cannot be copied
            after a call.
    """
    x = data.test.images(data.test.sample(FEW))
    try:
        names = changes_itself(model, enter(x), [enter(batch) for batch in batches(x)])
    except MarginbenchError as error:
        raise MarginbenchError(f"{where}: after a call, {error}") from error
    if names:
        raise MarginbenchError(f"{where}: {self_changing(names)}")
