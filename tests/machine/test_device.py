"""Devices are named as the command line does, or refused with the choice."""

import pytest
import torch

from marginbench.benchmarks.machine.device import resolve_device
from marginbench.methods.errors import ParameterError


@pytest.mark.parametrize("name", ["tpu", "xpu", "meta", "", "cuda:x", "cpu:0"])
def test_other_devices_are_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="choose auto, cpu or cuda"):
        resolve_device(name)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ParameterError, match=f"torch sees {torch.cuda.device_count()} CUDA devices"):
        resolve_device(f"cuda:{torch.cuda.device_count()}")


def test_the_processor_is_always_there() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
