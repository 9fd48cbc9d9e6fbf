"""Training methods. `from marginbench.methods import Method, Info, param` is all that a new one needs.

Imports nothing of the benchmark. Read `method.py` first, then any file in a family's folder.
"""

import lazy_loader

if __name__ != "marginbench.methods":
    # `import methods` from the repository's root would build a second registry
    raise ImportError("import marginbench.methods, not methods")

# The public names stand in __init__.pyi. They are imported on first use: tables need facts and no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
