"""A method in your own training loop: any classifier whose last layer is linear."""

import torch
from torch import Tensor, nn

from marginbench.methods import Batch, Context, Method, Net, Task, as_net


def train(method: Method, model: nn.Module, x: Tensor, y: Tensor, epochs: int = 10) -> Net:
    """Images x [N, C, H, W] in [0, 1] with labels y [N]."""
    batches = [Batch(x[index], y[index], index) for index in torch.arange(len(x)).split(64)]
    task = Task(tuple(x.shape[1:]), tuple(y.bincount().tolist()), epsilon={"l2": 0.5, "linf": 0.1})
    ctx = Context(task, epochs * len(batches), epochs, torch.Generator(x.device).manual_seed(0))
    net = method.build(as_net(model, x[:2]), task).train()
    optimiser = torch.optim.Adam(method.param_groups(net), lr=5e-3)
    for step in range(ctx.steps):
        ctx.step = step
        method.update(net, method.augment(batches[step % len(batches)], ctx), ctx, optimiser)
        with torch.no_grad():
            method.after_step(net, ctx)
    return method.finish(net, batches, ctx).eval()
