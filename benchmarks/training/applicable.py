"""Which methods can be trained on sentences: those that work on features, logits and weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.records.record import INAPPLICABLE
from marginbench.methods import MarginbenchError, Method
from marginbench.methods.facts import NEEDS, Need
from marginbench.methods.hooks import HookError

OF_PIXELS: tuple[Need, ...] = ("input_grad", "second_order", "inner_attack", "pixels", "epsilon")
"""What only images in [0, 1] give: no paper of the suite's methods took it to the embeddings of words instead."""


class NotApplicableError(MarginbenchError):
    """A method that is not for these data: its row says so."""


def check_applicable(method: Method, data: Dataset) -> None:
    """Complain of a method that moves pixels, or asks for gradients there, where the data are sentences.

    Raises:
        NotApplicableError: with the reason.
    """
    if data.text is None:
        return
    if (need := next((need for need in OF_PIXELS if need in method.info.needs), None)) is not None:
        reason = NEEDS[need].partition(";")[0]
    elif type(method).augment is not Method.augment:
        reason = "it changes the images of a batch"
    else:
        return
    raise NotApplicableError(f"{INAPPLICABLE} to sentences: {reason}")


@contextmanager
def building(text: bool) -> Iterator[None]:
    """A block in which a method changes a network of sentences, if it can: what it says of the layers is a reason.

    Raises:
        NotApplicableError: it knows no bound for layers of such networks, say.
    """
    try:
        yield
    except HookError:
        raise
    except MarginbenchError as error:
        if not text:
            raise
        raise NotApplicableError(f"{INAPPLICABLE} to sentences: {str(error).splitlines()[0].rstrip('(')}") from None
