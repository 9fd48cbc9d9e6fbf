"""The decorator that adds a network by name: from a file of this folder, or from a plug-in.

from marginbench.benchmarks import network

@network("my_net", width=32)
def my_net(shape, width):
    return nn.Sequential(nn.Conv2d(shape[0], width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import nn

from marginbench.benchmarks.extras import Needs
from marginbench.benchmarks.registry import Registry
from marginbench.methods.userfile import BUILT_IN

Body = TypeVar("Body", bound=Callable[..., nn.Module])
"""body(shape, width): shape is (C, H, W) of the images; the module maps normalised images [B, C, H, W] float32 to flat
features [B, d]. Certificates look into an nn.Sequential layer by layer."""


@dataclass(frozen=True)
class Architecture:
    """How a body is built, for images of any shape, in any width.

    Args:
        name: what error messages call it.
        body: see `Body`.
        width: the default, the paper's; None if the width is fixed.
        smallest: least height and width of the images.
        channels_last: memory layout of the weights: ResNet-20 trains 1.4 times as fast with it.
        text: it reads sentences, [B, 2, 1, L] int64 as `data.text` stores them, and not images.
        pretrained: the body is body(shape, checkpoint), made from the files of the folder `checkpoint`.
        needs: a package without which it cannot be built.
        file: the user's file that it comes from, if any; such networks are checked when they are built.
        source: SHA-256 of that file as it was executed, where it was named by its path.
    """

    name: str
    body: Callable[..., nn.Module]
    width: int | None
    smallest: int = 1
    channels_last: bool = False
    text: bool = False
    pretrained: bool = False
    needs: Needs | None = None
    file: Path | None = None
    source: str | None = None


NETWORKS: Registry[Architecture] = Registry()


def network(
    name: str,
    *,
    width: int | None,
    smallest: int = 1,
    channels_last: bool = False,
    text: bool = False,
    pretrained: bool = False,
    needs: Needs | None = None,
    **settings: object,
) -> Callable[[Body], Body]:
    """Add a network that suites can name; see `Architecture` for its facts.

    Args:
        settings: further arguments of the function: one function may be several networks.

    Raises:
        MarginbenchError: another file has the name already.
    """

    def add(body: Body) -> Body:
        outside = not body.__module__.startswith(BUILT_IN)
        made = partial(body, **settings) if settings else body
        file = Path(inspect.getfile(body)) if outside else None
        architecture = Architecture(name, made, width, smallest, channels_last, text, pretrained, needs, file)
        NETWORKS.add(name, architecture, maker=body)
        return body

    return add
