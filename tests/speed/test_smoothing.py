"""Rates of the certificate and of the network alone, over as many images each."""

import sys

import pytest
import torch
from torch import Tensor

from marginbench.benchmarks.speed import smoothing as smoothing_speed
from marginbench.benchmarks.speed.turns import Turns


def test_rates_are_images_by_seconds() -> None:
    """4 images of 300 copies each, in two turns: the network takes 1 s and 2 s, the certificate 4 s and 2 s."""
    race = Turns({"alone": [1.0, 2.0], "certificate": [4.0, 2.0]}, {})
    lines = smoothing_speed.report(race, images=4, copies=300).splitlines()
    assert lines[0].split()[-2:] == ["400", "images/s"]
    assert lines[1].split()[-3:] == ["200", "noisy", "images/s"]
    assert lines[2].split(maxsplit=2)[1:] == ["0.500", "(turns: 0.250 to 1.000)"]
    assert lines[3] == "1.50 s for an image"


def test_both_pass_as_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first calls of each, the warm-up, do not count."""
    passed: dict[str, int] = {"alone": 0, "certificate": 0}
    repeat, certify = smoothing_speed._repeat, smoothing_speed.smoothing_arrays
    calls = dict.fromkeys(passed, 0)

    def counted(name: str, net: torch.nn.Module, work: object) -> object:
        def count(module: object, inputs: tuple[Tensor, ...], output: object) -> None:
            passed[name] += len(inputs[0]) * (calls[name] > 0)

        hook = net.register_forward_hook(count)
        try:
            return work()
        finally:
            hook.remove()
            calls[name] += 1

    def alone(net: torch.nn.Module, *rest: object) -> object:
        return counted("alone", net, lambda: repeat(net, *rest))

    def certificate(net: torch.nn.Module, *rest: object, **settings: object) -> object:
        return counted("certificate", net, lambda: certify(net, *rest, **settings))

    monkeypatch.setattr(smoothing_speed, "_repeat", alone)
    monkeypatch.setattr(smoothing_speed, "smoothing_arrays", certificate)
    words = "smoothing.py --images 5 --samples 300 --selection 150 --size 8 --rounds 2 --rows 200 --device cpu"
    monkeypatch.setattr(sys, "argv", words.split())
    smoothing_speed.main()
    assert calls == {"alone": 3, "certificate": 3}
    # one image more in each round says how many fit into memory
    assert passed == {"alone": 5 * 450, "certificate": 5 * 450 + 2}
