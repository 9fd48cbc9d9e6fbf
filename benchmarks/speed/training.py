"""Images per second in training and evaluation, network by network, beside a plain DataLoader loop.

    python -m marginbench.benchmarks.speed.training [--networks cnn,resnet20] [--size 32] [--batch 128]

Training is cross-entropy with crop and flip, as the suites do it: images on the device, augmentation in batches. The
plain loop has the same network, optimiser and precision, and torchvision's crop and flip of one image after the other
in a `DataLoader` with `--workers` processes. The two take turns, so that a busy machine slows both alike. Peak is what
the device reaches with products of large matrices in the same precision; the share is that of the operations counted.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.machine.device import resolve_device, seconds_on
from marginbench.benchmarks.machine.memory import ROWS, Chunks
from marginbench.benchmarks.nets.networks import NETWORKS
from marginbench.benchmarks.speed.steps import Flops, noise
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.suites.training import Training
from marginbench.benchmarks.training.loop import Run
from marginbench.benchmarks.training.optimiser import make_optimiser
from marginbench.methods import create

PRODUCT = 2048  # rows and columns of the matrices that measure the peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", default="cnn,resnet20", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--steps", type=int, default=5, help="in each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="processes of the plain DataLoader")
    parser.add_argument("--device", default="auto")
    words = parser.parse_args()

    device = resolve_device(words.device)
    data = noise(words.channels, words.size).to(device)
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
        rows.append(_row(suite, data, words.steps, words.turns, words.workers, peak))
    headers = ("network", "width", "training, images/s", "share of peak", "plain loop", "ratio", "evaluation, images/s")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", "", ",.0f", ".1%", ",.0f", ".2f", ",.0f")))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    images = f"{words.channels}x{words.size}x{words.size}"
    print(f"\nimages {images}, batch {words.batch}, {words.precision}, {name}, torch {torch.__version__}")
    print(f"peak {peak / 1e12:.3f} TFLOP/s: product of {PRODUCT}x{PRODUCT} matrices in {words.precision}")


def _row(suite: Suite, data: Dataset, steps: int, turns: int, workers: int, peak: float) -> tuple[Any, ...]:
    run = Run(create("ce"), suite, data, 0)
    plain = _plain(suite, data, workers)
    with Flops() as flops:
        run.step()
    plain()
    evaluate = Chunks(ROWS)
    images, batch = data.test.images(slice(None)), run.batch_size
    times: dict[str, list[float]] = {"ours": [], "plain": [], "evaluation": []}

    def evaluation() -> None:
        with torch.no_grad():
            evaluate.rows(run.net, images[: steps * batch])

    todo: dict[str, Callable[[], object]] = {
        "ours": lambda: [run.step() for _ in range(steps)],
        "plain": lambda: [plain() for _ in range(steps)],
        "evaluation": evaluation,
    }
    for _ in range(turns):
        for name, work in todo.items():
            start = seconds_on(data.train.device)
            work()
            times[name].append(seconds_on(data.train.device) - start)
    rate = {name: steps * batch / statistics.median(seconds) for name, seconds in times.items()}
    ratio = statistics.median(b / a for a, b in zip(times["ours"], times["plain"], strict=True))
    share = flops.total / batch * rate["ours"] / peak
    return suite.network.label, suite.network.width, rate["ours"], share, rate["plain"], ratio, rate["evaluation"]


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
