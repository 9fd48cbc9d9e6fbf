"""The dual bound of Wong and Kolter in the paper's form, one image and one objective at a time."""

import torch
from support import Bounds, Layers
from torch import Tensor

from marginbench.methods.facts import Norm


def dual(
    image: Tensor, objective: Tensor, constant: Tensor, layers: Layers, bounds: Bounds, epsilon: float, norm: Norm
) -> Tensor:
    """J(nu): a lower bound of objective @ outputs + constant, `layers` being those before the outputs.

    `bounds` are those of the pre-activations of all `layers`; a ReLU follows every one of them.
    """
    nu, total = objective, constant
    for (weight, bias), (low, high) in zip(reversed(layers), reversed(bounds), strict=True):
        through = []
        for k in range(len(nu)):
            if low[k] >= 0:
                through.append(nu[k])
            elif high[k] <= 0:
                through.append(0 * nu[k])
            else:
                through.append(nu[k] * high[k] / (high[k] - low[k]))
                total = total - low[k] * torch.minimum(through[-1], 0 * nu[k])
        nu = torch.stack(through)
        total = total + (nu * bias).sum()
        nu = nu @ weight
    if norm == "l2":
        size: Tensor = nu.norm()
        return total + nu @ image - epsilon * size
    low, high = (image - epsilon).clamp(0, 1), (image + epsilon).clamp(0, 1)
    return total + torch.where(nu > 0, nu * low, nu * high).sum()


def hidden_bounds(image: Tensor, layers: Layers, epsilon: float, norm: Norm) -> Bounds:
    """Bounds of all pre-activations, each from the bound itself with the unit and its negative as objective."""
    bounds: Bounds = []
    for depth in range(len(layers)):
        weight, bias = layers[depth]
        arguments = (layers[:depth], bounds[:depth], epsilon, norm)
        low = [dual(image, row, b, *arguments) for row, b in zip(weight, bias, strict=True)]
        high = [-dual(image, -row, -b, *arguments) for row, b in zip(weight, bias, strict=True)]
        bounds.append((torch.stack(low), torch.stack(high)))
    return bounds


def margins(image: Tensor, label: int, layers: Layers, epsilon: float, norm: Norm) -> Tensor:
    """Lower bounds of z_label - z_j for every j, 0 for the label; the head is the last of `layers`."""
    bounds = hidden_bounds(image, layers[:-1], epsilon, norm)
    head, bias = layers[-1]
    found = []
    for j in range(len(head)):
        if j == label:
            found.append(image.new_zeros(()))
        else:
            gap, constant = head[label] - head[j], bias[label] - bias[j]
            found.append(dual(image, gap, constant, layers[:-1], bounds, epsilon, norm))
    return torch.stack(found)


def loss(x: Tensor, y: Tensor, layers: Layers, *, epsilon: float, norm: Norm) -> Tensor:
    total = x.new_zeros(())
    for image, label in zip(x, y.tolist(), strict=True):
        total = total + (-margins(image, label, layers, epsilon, norm)).exp().sum().log()
    return total / len(y)
