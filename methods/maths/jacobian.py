"""Products with the Jacobian of the logits with respect to the input, per example.

They assume that the output for one image does not depend on the others, which batch norm in train mode violates.
"""

import torch
from torch import Tensor


def vjp(outputs: Tensor, inputs: Tensor, vectors: Tensor, create_graph: bool = True) -> Tensor:
    """v_i^T J_i for every example, J_i = d outputs_i / d inputs_i.

    Args:
        outputs: [B, K], computed from `inputs`.
        inputs: [B, ...] that require a gradient.
        vectors: [B, K].
        create_graph: keep the result differentiable with respect to the weights.

    Returns:
        [B, ...] in the shape and dtype of `inputs`. The gradients of the weights are neither computed nor touched.
    """
    (product,) = torch.autograd.grad(outputs, inputs, vectors, create_graph=create_graph, retain_graph=True)
    return product


def jacobian_rows(outputs: Tensor, inputs: Tensor, create_graph: bool = True) -> Tensor:
    """The Jacobian [B, K, ...] itself, by K backward passes. Arguments as for `vjp`."""
    rows = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    return torch.stack([vjp(outputs, inputs, row.expand_as(outputs), create_graph) for row in rows], dim=1)


def unit_vectors(like: Tensor, generator: torch.Generator) -> Tensor:
    """One vector per row of `like` [B, K], uniform on the unit sphere, on the generator's device."""
    normal = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return torch.nn.functional.normalize(normal, eps=torch.finfo(like.dtype).tiny)


def input_gradient(total: Tensor, inputs: Tensor, create_graph: bool = True) -> Tensor:
    """d total / d inputs, in the shape of `inputs`; row i belongs to example i alone if `total` is a sum over examples.

    The gradients of the weights are neither computed nor touched.
    """
    (gradient,) = torch.autograd.grad(total, inputs, create_graph=create_graph, retain_graph=True)
    return gradient
