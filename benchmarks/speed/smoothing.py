"""Speed of the certificate of the smoothed classifier, beside that of the network alone.

Both pass as many images through the network, in batches of the same size: the certificate n0 + n noisy copies of each
image, the network alone one fixed batch again and again, under torch.no_grad. They take turns, so that a busy machine
slows both alike; on a CPU, seconds are processor seconds of this process. The ratio is that of the total times, and its
range over the turns stands beside it.
"""

import time
from functools import partial

import torch
from torch import Tensor

from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.nets.scan import NETWORKS
from marginbench.benchmarks.probes.smoothing import BLOCK, NOISY_ROWS, OTHER_ROWS, smoothing_arrays
from marginbench.benchmarks.speed import turns
from marginbench.methods import Net

SIGMA = 0.25


def main() -> None:
    words = turns.parse(
        __doc__,
        images=turns.Option(100, "noise images to certify"),
        samples=turns.Option(10_000, "n, noisy copies that estimate a probability"),
        selection=turns.Option(100, "n0, noisy copies that select a class"),
        size=28,
        network=turns.Option("cnn", "name of a network", choices=list(NETWORKS)),
        width=16,
        rounds=turns.Option(10, "turns of both; the images are spread over them"),
        share=turns.Option(1, "consecutive images that get the same noise"),
        rows=turns.Option(None, "images in a batch (default: what suits the device)", int),
        device="auto",
    )
    device = resolve_device(words.device)
    rows = max((words.rows or NOISY_ROWS.get(device.type, OTHER_ROWS)) // BLOCK, 1) * BLOCK
    torch.manual_seed(0)
    mean = torch.full((1,), 0.5)
    net = make_net(words.network, words.width, (1, words.size, words.size), 10, mean, mean).to(device)
    net.eval().requires_grad_(False)
    data = turns.noise(1, words.size, words.images).to(device)
    test = data.test
    batch = test.images(torch.arange(rows, device=device) % len(test))
    batch += SIGMA * torch.randn_like(batch)  # pooling is faster on equal images

    parts = [Split(x, y, 255) for x, y in zip(test.x.chunk(words.rounds), test.y.chunk(words.rounds), strict=True)]
    copies = words.selection + words.samples
    certify = partial(smoothing_arrays, net, sigma=SIGMA, alpha=0.001, share=words.share, rows=rows)
    _repeat(net, batch, 10 * rows)  # warm-up
    certify(parts[0], 0, n0=1, n=BLOCK)
    ways = {
        "alone": lambda part: _repeat(net, batch, copies * len(part)),
        "certificate": lambda part: certify(part, 0, n0=words.selection, n=words.samples),
    }
    clock = time.process_time if device.type == "cpu" else turns.clock_of(device)
    print(report(turns.take_turns(ways, parts, clock), words.images, copies))
    batches = f"batches of {rows}, noise for {words.share} images, n0 = {words.selection}, n = {words.samples}"
    print(f"{words.network} of width {words.width}, {turns.where(data, batches)}")


def report(race: turns.Turns[object], images: int, copies: int) -> str:
    """Rates of both, their ratio, and the time for an image."""
    alone, certificate = sum(race.seconds["alone"]), sum(race.seconds["certificate"])
    ratios = race.ratios("alone", "certificate")
    return (
        f"network alone  {copies * images / alone:12,.0f} images/s\n"
        f"certificate    {copies * images / certificate:12,.0f} noisy images/s\n"
        f"ratio          {alone / certificate:12.3f}  (turns: {min(ratios):.3f} to {max(ratios):.3f})\n"
        f"{certificate / images:.2f} s for an image"
    )


@torch.no_grad()
def _repeat(net: Net, batch: Tensor, count: int) -> None:
    """Pass `count` images through the network."""
    for begin in range(0, count, len(batch)):
        net(batch[: count - begin])


if __name__ == "__main__":
    main()
