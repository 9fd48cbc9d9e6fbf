"""In which order runs are done: so that a table is of use early."""

from collections.abc import Sequence
from functools import cache

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.machine.flops import Flops
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.benchmarks.runs.plan import Cell
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.training.run import Run
from marginbench.methods import Method
from marginbench.methods.userfile import BUILT_IN

STAGES = (0.35, 0.9)  # of a training, in each of which the operations of a step are counted
IMAGES = 8  # in the step that is counted
WIDTH = 4  # of its network


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """Repetition by repetition: in each of them cross-entropy, then methods of plug-ins, then the cheapest step first.

    Rows of one cost stay in the order that they have. Shares of a plan are dealt before, and do not depend on this.
    """
    if len({cell.method.info.key for cell in cells} - {"ce"}) < 2:
        return list(cells)
    return sorted(cells, key=lambda cell: (cell.repetition, cell.method.info.key != "ce", operations(cell.method)))


@cache
def operations(method: Method) -> int:
    """In matrix products and convolutions of a training step in each stage, on a small network and a few digits.

    Counted passes would miss bounds that are propagated past the network. 0 for a plug-in, whose code may do anything
    and whose author waits for it, and where the step fails, as the run then will.
    """
    if not type(method).__module__.startswith(BUILT_IN):
        return 0
    (suite, data), flops = _small(), Flops()
    try:
        with seeded(data.train.device, "order"):
            run = Run(method, suite, data, 0)
            with flops:
                for stage in STAGES:
                    run.ctx.step = int(stage * run.ctx.steps)
                    run.step()
    except Exception:  # a method may raise anything
        return 0
    return flops.total


@cache
def _small() -> tuple[Suite, Dataset]:
    suite = load_suite("digits")
    training = suite.training.model_copy(update={"batch_size": IMAGES})
    suite = suite.model_copy(update={"network": Network(name="cnn", width=WIDTH), "training": training})
    return suite, suite.load_data()
