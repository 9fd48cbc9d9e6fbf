"""Speed of the certificate of the smoothed classifier, beside that of the network alone.

    python -m marginbench.benchmarks.speed.smoothing [--images 100] [--samples 10000] [--share 10] [--size 28]

Both pass as many images through the network, in batches of the same size: the certificate n0 + n noisy copies of each
image, the network alone one fixed batch again and again, under torch.no_grad. They take turns, so that a busy machine
slows both alike; on a CPU, seconds are processor seconds of this process. The ratio is that of the total times, and its
range over the turns stands beside it.
"""

import argparse
import time

import torch

from marginbench.benchmarks.data.dataset import Split
from marginbench.benchmarks.machine.device import resolve_device
from marginbench.benchmarks.nets.networks import NETWORKS, make_net
from marginbench.benchmarks.probes.smoothing import BLOCK, OTHER_ROWS, ROWS, smoothing_arrays
from marginbench.methods import Net

SIGMA = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=100, help="noise images to certify")
    parser.add_argument("--samples", type=int, default=10_000, help="n, noisy copies that estimate a probability")
    parser.add_argument("--selection", type=int, default=100, help="n0, noisy copies that select a class")
    parser.add_argument("--size", type=int, default=28, help="height and width of the images")
    parser.add_argument("--network", default="cnn", choices=NETWORKS)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10, help="turns of both; the images are spread over them")
    parser.add_argument("--share", type=int, default=1, help="consecutive images that get the same noise")
    parser.add_argument("--rows", type=int, help="images in a batch; default: what suits the device")
    parser.add_argument("--device", default="auto")
    words = parser.parse_args()

    device = resolve_device(words.device)
    rows = max((words.rows or ROWS.get(device.type, OTHER_ROWS)) // BLOCK, 1) * BLOCK
    torch.manual_seed(0)
    mean = torch.full((1,), 0.5)
    net = make_net(words.network, words.width, (1, words.size, words.size), 10, mean, mean).to(device)
    net.eval().requires_grad_(False)
    x = torch.randint(256, (words.images, 1, words.size, words.size), dtype=torch.uint8)
    test = Split(x, torch.zeros(words.images, dtype=torch.int64), 255).to(device)

    parts = [Split(x, y, 255) for x, y in zip(test.x.chunk(words.rounds), test.y.chunk(words.rounds), strict=True)]
    copies = words.selection + words.samples
    _alone(net, parts[0], 10 * rows, rows)  # warm-up
    _certificate(net, parts[0], 1, BLOCK, words.share, rows)
    alone, certificate = [], []
    for part in parts:
        alone.append(_alone(net, part, copies * len(part), rows))
        certificate.append(_certificate(net, part, words.selection, words.samples, words.share, rows))
    total = copies * words.images
    ratios = sorted(a / b for a, b in zip(alone, certificate, strict=True))
    print(f"network alone  {total / sum(alone):12,.0f} images/s")
    print(f"certificate    {total / sum(certificate):12,.0f} noisy images/s")
    print(f"ratio          {sum(alone) / sum(certificate):12.3f}  (turns: {ratios[0]:.3f} to {ratios[-1]:.3f})")
    print(f"{sum(certificate) / words.images:.2f} s for an image with n0 = {words.selection}, n = {words.samples}")
    batches = f"batches of {rows}, noise for {words.share} images"
    where = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{words.network} of width {words.width}, images 1x{words.size}x{words.size}, {batches}, {where}")


def _alone(net: Net, test: Split, count: int, rows: int) -> float:
    """Seconds for `count` images through the network: noisy ones, since pooling is faster on equal ones."""
    x = test.images(torch.arange(rows, device=test.x.device) % len(test))
    x += SIGMA * torch.randn_like(x)
    start = _now(x.device)
    with torch.no_grad():
        for begin in range(0, count, rows):
            net(x[: count - begin])
    return _now(x.device) - start


def _certificate(net: Net, test: Split, selection: int, samples: int, share: int, rows: int) -> float:
    """Seconds for the certificates of all images of `test`."""
    start = _now(test.x.device)
    smoothing_arrays(net, test, 0, sigma=SIGMA, n0=selection, n=samples, alpha=0.001, share=share, rows=rows)
    return _now(test.x.device) - start


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if device.type == "cpu" else time.perf_counter()


if __name__ == "__main__":
    main()
