"""Scalar functions."""

import math

import torch
from torch import Tensor, nn

from marginbench.benchmarks.certificates._builder import Data, per_channel
from marginbench.benchmarks.certificates._call import (
    RULES,
    Call,
    Rule,
    affine,
    rule,
    unknown,
)
from marginbench.benchmarks.certificates._curves import CURVES
from marginbench.benchmarks.certificates._layers import Curved
from marginbench.benchmarks.certificates._record import Unbounded

JUMP = 1e-6  # of softplus, which jumps by 2e-9 at torch's threshold


@rule("relu", "relu_")
def _relu(call: Call) -> Data:
    return call.builder.apply(nn.ReLU(), call.x)


def _curved(kind: str, *defaults: float) -> Rule:
    """A function of `CURVES`, whose parameters are the arguments behind the first; the defaults stand for None."""

    def lower(call: Call) -> Data:
        values = [call.get(i + 1) for i in range(len(defaults))]
        values = [float(value) if isinstance(value, Tensor) and value.numel() == 1 else value for value in values]
        if any(isinstance(value, Data | Tensor) for value in values):
            raise Unbounded(unknown(f"{call.name} with a tensor as its limit"))
        numbers = [default if value is None else value for value, default in zip(values, defaults, strict=True)]
        if kind in ("elu", "softplus") and min(numbers) < 0:
            raise Unbounded(unknown(f"{call.name} with a negative parameter"))
        if CURVES[kind](*numbers).error > JUMP:  # bounds that allow for it are not tight at any image
            raise Unbounded(unknown(f"{call.name} with a jump at its threshold of {numbers[-1]:g}"))
        return call.builder.apply(Curved(kind, *numbers), call.x)

    return lower


for _name in ("silu", "mish", "tanh", "sigmoid", "hardswish", "hardsigmoid", "abs", "square"):
    RULES[_name] = _curved(_name)
RULES["hardtanh"] = _curved("hardtanh", -1, 1)
RULES["clamp"] = RULES["clip"] = _curved("hardtanh", -math.inf, math.inf)
RULES["relu6"] = lambda call: call.builder.apply(Curved("hardtanh", 0.0, 6.0), call.x)
RULES["leaky_relu"] = _curved("leaky_relu", 0.01)
RULES["elu"] = _curved("elu", 1, 1, 1)
RULES["softplus"] = _curved("softplus", 1, 20)


@rule("clamp_min", "clamp_max")
def _clamp(call: Call) -> Data:
    limits = (call.get(1), math.inf) if call.name == "clamp_min" else (-math.inf, call.get(1))
    return call.builder.apply(Curved("hardtanh", *map(float, limits)), call.x)


@rule("threshold")
def _threshold(call: Call) -> Data:
    limit, value = float(call.get(1)), float(call.get(2))
    if limit != value:
        raise Unbounded(unknown("threshold with a jump"))
    return call.builder.apply(Curved("hardtanh", limit, math.inf) if limit else nn.ReLU(), call.x)


@rule("celu")
def _celu(call: Call) -> Data:
    alpha = float(call.get(1))
    if alpha <= 0:
        raise Unbounded(unknown("celu with a negative parameter"))
    return call.builder.apply(Curved("elu", alpha, 1.0, 1 / alpha), call.x)


@rule("gelu")
def _gelu(call: Call) -> Data:
    approximate = call.options.get("approximate", "none") == "tanh"
    return call.builder.apply(Curved("gelu", float(approximate)), call.x)


@rule("pow")
def _pow(call: Call) -> Data:
    if call.get(1) != 2:
        raise Unbounded(unknown("a power other than 2 (LocalResponseNorm has one)"))
    return call.builder.apply(Curved("square"), call.x)


@rule("_prelu_kernel", "prelu")
def _prelu(call: Call) -> Data:
    """a x + (1 - a) relu(x), channel by channel."""
    x, slope = call.x.shared, call.get(1)
    if slope.numel() == 1:
        return call.builder.apply(Curved("leaky_relu", float(slope)), x)
    slope, like = slope.flatten().double(), x.values[0]
    zero = torch.zeros_like(slope)
    positive = call.builder.apply(nn.ReLU(), x)
    parts = (
        call.builder.apply(per_channel(a, zero, like), part.shared) for a, part in ((slope, x), (1 - slope, positive))
    )
    return call.builder.add(*parts)


@rule("rrelu_with_noise", "rrelu_with_noise_functional")
def _rrelu(call: Call) -> Data:
    lower, upper, training = (call.get(i) for i in (2, 3, 4))
    if training:
        raise Unbounded(unknown("rrelu in training mode"))
    return call.builder.apply(Curved("leaky_relu", (lower + upper) / 2), call.x)


@rule("log_sigmoid_forward", "log_sigmoid")
def _log_sigmoid(call: Call) -> Data:
    """-softplus(-x)."""
    curve = call.builder.apply(Curved("softplus", 1.0, 20.0), affine(call, call.x, -1.0, 0.0))
    return affine(call, curve, -1.0, 0.0)
