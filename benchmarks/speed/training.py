"""Images per second in training and evaluation, network by network, beside a plain DataLoader loop.

Training is cross-entropy with crop and flip, as the suites do it: images on the device, augmentation in batches. The
plain loop has the same network, optimiser and precision, and torchvision's crop and flip of one image after the other
in a `DataLoader` with `--workers` processes. The two take turns, so that a busy machine slows both alike. Peak is what
the device reaches with products of large matrices in the same precision; the share is that of the operations counted.
"""

import itertools
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.machine.device import resolve_device, seconds_on
from marginbench.benchmarks.machine.flops import Flops
from marginbench.benchmarks.machine.memory import ROWS, Chunks
from marginbench.benchmarks.nets.scan import NETWORKS
from marginbench.benchmarks.speed import turns
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.suites.training import Training
from marginbench.benchmarks.training.optimiser import make_optimiser
from marginbench.benchmarks.training.run import Run
from marginbench.methods import create

PRODUCT = 2048  # rows and columns of the matrices that measure the peak


class Rates(NamedTuple):
    """Images per second."""

    training: float
    plain: float
    evaluation: float
    ratio: float  # of the first two, the median over the turns
    flops: float  # operations per second in training


def main() -> None:
    words = turns.parse(
        __doc__,
        networks=turns.Option("cnn,resnet20", f"of {', '.join(NETWORKS)}"),
        channels=turns.Option(3, "channels of the images"),
        size=32,
        batch=128,
        precision=turns.Option("float32", "of products and convolutions", choices=("float32", "bf16")),
        steps=5,
        turns=turns.Option(5, "turns of each loop"),
        workers=turns.Option(0, "processes of the plain DataLoader"),
        device="auto",
    )
    device = resolve_device(words.device)
    data = turns.noise(words.channels, words.size).to(device)
    training = Training(
        epochs=10_000,
        batch_size=words.batch,
        learning_rate=0.01,
        optimiser="sgd",
        precision=words.precision,
        augment=["crop", "flip"],  # type: ignore[arg-type]
    )
    peak = _peak(device, words.precision)
    rows = []
    for name in words.networks.split(","):
        network = Network(name=name)
        suite = load_suite("digits").model_copy(update={"network": network, "training": training})
        r = measure(suite, data, words.steps, words.turns, words.workers)
        rows.append((network.label, network.width, r.training, r.flops / peak, r.plain, r.ratio, r.evaluation))
    headers = ("network", "width", "training, images/s", "share of peak", "plain loop", "ratio", "evaluation, images/s")
    print(turns.table(rows, headers, ("", "", ",.0f", ".1%", ",.0f", ".2f", ",.0f")))
    print(f"\n{turns.where(data, f'batch {words.batch}', words.precision)}")
    print(f"peak {peak / 1e12:.3f} TFLOP/s: product of {PRODUCT}x{PRODUCT} matrices in {words.precision}")


def measure(suite: Suite, data: Dataset, steps: int, rounds: int, workers: int) -> Rates:
    """Training, the plain loop and evaluation in turns, as many images each."""
    run = Run(create("ce"), suite, data, 0)
    plain = _plain(suite, data, workers)
    with Flops() as flops:
        run.step()
    plain()
    chunks, images, batch = Chunks(ROWS), data.test.images(slice(None)), run.batch_size

    ways: dict[str, Callable[[int], object]] = {
        "training": lambda count: [run.step() for _ in range(count)],
        "plain": lambda count: [plain() for _ in range(count)],
        "evaluation": torch.no_grad()(lambda count: chunks.rows(run.net, images[: count * batch])),
    }
    race = turns.take_turns(ways, [steps] * rounds, turns.clock_of(data.train.device))
    rate = {name: steps * batch / statistics.median(seconds) for name, seconds in race.seconds.items()}
    ratio = statistics.median(race.ratios("plain", "training"))
    return Rates(**rate, ratio=ratio, flops=flops.total / batch * rate["training"])


class _Images(TorchDataset[tuple[Tensor, int]]):
    """One image after the other, as most training scripts do it."""

    def __init__(self, data: Dataset) -> None:
        from torchvision.transforms import v2

        self.x, self.y = data.train.x.cpu(), data.train.y.cpu()
        size = data.shape[1:]
        self.change = v2.Compose(
            [v2.RandomCrop(size, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
        )

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.change(self.x[index]), int(self.y[index])


def _plain(suite: Suite, data: Dataset, workers: int) -> Callable[[], object]:
    """One step of the plain loop."""
    device, method = data.train.device, create("ce")
    net = Run(method, suite, data, 0).net
    optimiser = make_optimiser(method, suite.training, net)
    on_gpu = device.type == "cuda"
    loader = DataLoader(
        _Images(data), suite.training.batch_size, shuffle=True, num_workers=workers, pin_memory=on_gpu, drop_last=True
    )
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def step() -> None:
        x, y = next(batches)
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=suite.training.precision == "bf16"):
            loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimiser.step()

    return step


def _peak(device: torch.device, precision: str) -> float:
    """Operations per second of a product of large matrices, the best of five."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(PRODUCT, PRODUCT, device=device).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        start = seconds_on(device)
        a @ b
        best = min(best, seconds_on(device) - start)
    return 2.0 * PRODUCT**3 / best


if __name__ == "__main__":
    main()
