"""All networks: found by scanning this folder, and those of plug-ins. A new one needs no line here: see `network.py`.

`width` is the number of channels of the first convolution; all others grow with it, so that a network of a paper also
exists in small (`mlp` counts units, `resnet50` says what it means there). The default is the paper's.
"""

from marginbench.benchmarks.nets.network import NETWORKS, Architecture, network
from marginbench.benchmarks.registry import import_all

__all__ = ["NETWORKS", "Architecture", "network"]

import_all("marginbench.benchmarks.nets")
