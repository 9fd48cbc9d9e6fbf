"""Jacobian regularisation with every entry of the Jacobian, one example and one class at a time."""

import torch
from torch import Tensor

from marginbench.methods import Net


def penalty(net: Net, x: Tensor) -> Tensor:
    """1/2 of the batch mean of the squared Frobenius norms of d logits / d input."""
    total = x.new_zeros(())
    for image in x:
        leaf = image[None].clone().requires_grad_()
        for logit in net(leaf)[0]:
            (row,) = torch.autograd.grad(logit, leaf, create_graph=True)
            total = total + sum((entry**2 for entry in row.flatten()), x.new_zeros(()))
    return total / (2 * len(x))


def frobenius(net: Net, x: Tensor) -> Tensor:
    """Root of the batch mean of the sum of all squared entries of a Jacobian."""
    return (2 * penalty(net, x)) ** 0.5
