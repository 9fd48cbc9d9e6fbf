"""The benchmark: data, networks, training, evaluation, records, tables. A folder for each; its __init__ says more.

In a notebook: `from marginbench.benchmarks import run_all, load, leaderboard, evaluate_model, compare_rows`.
"""

from importlib import metadata

import lazy_loader

if __name__ != "marginbench.benchmarks":
    # `import benchmarks` from the repository's root would build a second registry
    raise ImportError("import marginbench.benchmarks, not benchmarks")

__version__ = metadata.version("marginbench")

# The public names stand in __init__.pyi. They are imported on first use, so that `marginbench --help` answers at once.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
