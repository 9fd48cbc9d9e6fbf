"""A network's own certificate, about as many images at once as fit into memory."""

from collections.abc import Sequence

import torch

from marginbench.benchmarks.estimator import Answer, Certify, Query, ask
from marginbench.benchmarks.machine.allocations import Allocations
from marginbench.benchmarks.machine.budget import available
from marginbench.benchmarks.machine.memory import Chunks, does_not_fit, out_of_memory
from marginbench.benchmarks.unchanged import NetworkState
from marginbench.methods import Net
from marginbench.methods.hooks import HookError, place_of


def ask_own(certify: Certify, net: Net, q: Query) -> Answer:
    """Its radii; or why there are none, be it that it takes too much memory for a single image.

    Some write out the rows of all hidden units: up to 400 MB for each image.

    Raises:
        HookError: it changed the network, with which others are asked after it.
    """
    network = NetworkState(net)

    def about(part: slice) -> Answer:
        try:
            with Allocations(available(q.x.device)):
                return ask(certify, net, q.x[part], q.norm)
        except Exception as error:
            if out_of_memory(error):
                raise
        return ask(certify, net, q.x[part], q.norm)  # what cannot be counted, or its real error

    try:
        answer = _merged(Chunks(len(q.x)).map(about, len(q.x)))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        answer = Answer(reason=does_not_fit(error, q.x.device))
    if (part := network.differs_from(net, q.x)) is not None:
        raise HookError(place_of(certify), f"leaves the network with other {part}: work on copy.deepcopy(net)")
    return answer


def _merged(answers: Sequence[Answer]) -> Answer:
    """Those about consecutive images as one; a reason that holds for some of them holds for all."""
    radii = [answer.lower for answer in answers if answer.lower is not None]
    if len(radii) < len(answers):
        return next(answer for answer in answers if answer.lower is None)
    return Answer(lower=torch.cat(radii))
