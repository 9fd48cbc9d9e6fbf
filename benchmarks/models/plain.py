"""A module as its layers alone: without what trained, compiled or spread it, in eval mode, and answering in float32."""

import inspect
from types import FunctionType
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from marginbench.benchmarks.certificates._record import Unbounded
from marginbench.benchmarks.unchanged import agree, answers, disturbed
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import one_line
from marginbench.methods.held import duplicate, held, unaltered

DIGITS = 1e-5  # what rounding in float32 may move logits by, relative


def stripped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile` and `DataParallel`, where these do nothing else."""
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    spread = type(model) in (nn.DataParallel, nn.parallel.DistributedDataParallel) and unaltered(model)
    compiled = hasattr(vars(model).get("forward"), "_torchdynamo_orig_callable") and not (
        model._forward_hooks or model._forward_pre_hooks
    )
    return model._modules.get("module" if spread else "_orig_mod") if spread or compiled else None


def copied(model: nn.Module, where: str) -> nn.Module:
    """A copy that shares nothing with the model, stripped of wrappers wherever they are.

    `weight_norm`, `spectral_norm` and pruning leave a weight with gradients behind, and compute it anew in each call:
    it is copied as a constant.

    Raises:
        MarginbenchError: something in the model cannot be copied.
    """
    given = stripped(model)
    try:
        model = duplicate(given)
    except MarginbenchError as error:
        raise MarginbenchError(f"{where}: {error}") from error
    for path in [path for path, module in given.named_modules() if _compiles_its_own(module)]:
        del model.get_submodule(path).forward
    for parent in () if isinstance(model, torch.jit.ScriptModule) else list(model.modules()):
        for name, child in parent.named_children():
            if stripped(child) is not child:
                parent._modules[name] = stripped(child)
    return model


def _compiles_its_own(module: nn.Module) -> bool:
    """Whether its forward is that of its class, compiled, as in `model.forward = torch.compile(model.forward)`."""
    inner = getattr(vars(module).get("forward"), "_torchdynamo_orig_callable", None)
    if isinstance(inner, FunctionType) and inner.__globals__.get("__name__") == "torch._dynamo.external_utils":
        inner = inspect.unwrap(inner)  # the compiler puts a function of its own around those of torch
    own = getattr(inner, "__self__", None) is module  # not that of a twin
    return own and getattr(inner, "__func__", None) is type(module).forward


def ready(model: nn.Module, x: Tensor, where: str) -> nn.Module:
    """The module in eval mode, frozen, with plain weights, answering in float32.

    It computes in float32 throughout if it can. A module that casts inside and fails so is run with the types that it
    came with; and so is one that takes float32 images as they are and rounds them to fewer digits.

    Args:
        model: is changed.
        x: some images [B, C, H, W] float32, as the model wants them.

    Raises:
        MarginbenchError: it has no weights yet.
    """
    _check_weights(model, where)
    model = model.eval()
    for parameter in model.parameters():  # a ScriptModule has no requires_grad_
        parameter.requires_grad_(False)
    own = _types(model) - {torch.float32}
    untouched = copied(model, where) if own else model
    candidates: list[tuple[nn.Module, torch.dtype | None]] = [(model, None)]
    candidates += [(untouched, None), *((untouched, kind) for kind in own)] if own else []
    coarse = next((kind for kind in own if torch.finfo(kind).eps > torch.finfo(torch.float32).eps), None)
    try:
        untouched.to(x.device)
        model.float().to(x.device)
    except Exception as error:  # quantised modules, for one, refuse to be cast
        raise MarginbenchError(f"{where}: cannot be moved to {x.device} as float32: {one_line(error)}") from error
    if coarse is not None and _rounds(untouched, model, x):
        _without_reparametrisation(untouched)
        return Untraced(untouched, torch.float32, _computes_in(coarse))
    for given, kind in candidates:
        try:
            with torch.no_grad():
                called = duplicate(given)
                out = called(x if kind is None else x.to(kind))
        except Exception:  # `check_model` says what is wrong
            continue
        built = called.state_dict().keys() != given.state_dict().keys()  # it makes layers when it is first called
        candidate = called if built else given
        _without_reparametrisation(candidate)
        reason = _untraceable(candidate, kind, out)
        return candidate if reason is None else Untraced(candidate, kind or torch.float32, reason)
    return model


def _rounds(came: nn.Module, single: nn.Module, x: Tensor) -> bool:
    """Whether a module as it came takes float32 images, and answers otherwise than in float32; disturbed ones, too."""
    asked = (x, *disturbed(x).chunk(2))
    pairs = [(answers(duplicate(came), z), answers(duplicate(single), z)) for z in asked]
    return any(wanted is not None and not agree(wanted, found, DIGITS, DIGITS) for wanted, found in pairs)


def _untraceable(model: nn.Module, inputs: torch.dtype | None, out: Any) -> str | None:
    """Why bounds are not those of the model, if so."""
    if isinstance(model, torch.jit.ScriptModule):
        return "the model is TorchScript, into which bounds do not see: give the nn.Module that it was made from"
    casts = isinstance(out, Tensor) and out.is_floating_point() and out.dtype != torch.float32
    kind = out.dtype if casts else inputs
    return None if kind is None else _computes_in(kind)


def _computes_in(kind: torch.dtype) -> str:
    name = str(kind).removeprefix("torch.")
    return (
        f"the model computes in {name}, and bounds are for float32: give it without casts, autocast and {name} weights"
    )


def _check_weights(model: nn.Module, where: str) -> None:
    kept = [(name, place.value) for name, place in held(model).items() if isinstance(place.value, Tensor)]
    saved = model.state_dict().keys()
    for name, tensor in [*model.named_parameters(), *kept]:
        if is_lazy(tensor):
            problem = "has no values before the module is first called: load weights, or call it on an image"
        elif tensor.is_meta and name in saved:
            problem = 'is on the device meta, without values: load weights, or make the model on the device "cpu"'
        elif tensor.is_meta:
            problem = (
                'is on the device meta, without values, and in no state dict: make it on the device "cpu"; a module to'
                " which functional_call gives weights belongs in a tuple, as in self.base = (base,)"
            )
        else:
            continue
        raise MarginbenchError(f"{where}: {name} {problem}")


def _types(model: nn.Module) -> set[torch.dtype]:
    tensors = [*model.parameters(), *model.buffers()]
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


def _without_reparametrisation(model: nn.Module) -> None:
    """Weights as they are in eval mode, in place of what computes them: spectral and weight norm, masks of pruning."""
    for layer in model.modules():
        if isinstance(layer, torch.jit.ScriptModule):
            continue
        for hook in list(layer._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(layer, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(layer, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(layer, hook._tensor_name)
        if parametrize.is_parametrized(layer):
            _without_parametrisation(layer)
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def _without_parametrisation(layer: nn.Module) -> None:
    """`remove_parametrizations` would change the class, which the copy shares with the user's own module.

    Nothing where weights are drawn anew in each call: one draw is another network.
    """
    with torch.no_grad():
        values = {name: getattr(layer, name).clone() for name in layer.parametrizations}  # type: ignore[union-attr]
        if any(
            not torch.equal(getattr(layer, name).nan_to_num(), value.nan_to_num()) for name, value in values.items()
        ):
            return
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    for name, value in values.items():
        layer.register_parameter(name, nn.Parameter(value))


class Untraced(nn.Module):
    """A model that takes and gives float32, into which no certificate may look: it gets the reason instead."""

    def __init__(self, model: nn.Module, inputs: torch.dtype, reason: str) -> None:
        super().__init__()
        self.model, self.inputs, self.reason = model, inputs, reason

    def forward(self, x: Tensor) -> Tensor:
        if _traced(x):
            raise Unbounded(self.reason)
        out: Tensor = self.model(x.to(self.inputs)).float()
        return out


def _traced(x: Any) -> bool:
    """Whether torch.jit, torch.fx or make_fx follows what is done with x."""
    recorded = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
    return isinstance(x, torch.fx.Proxy) or bool(torch._C._get_tracing_state()) or recorded
