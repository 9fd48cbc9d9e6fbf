"""Small tensors on their way to the device."""

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to a device without synchronising.

    From pageable memory CUDA copies only after all earlier work has finished; from pinned memory it does not wait.
    """
    if device.type != "cuda" or tensor.device == device:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
