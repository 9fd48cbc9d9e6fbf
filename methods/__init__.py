"""Training methods. `from marginbench.methods import Method, Info, param` is all that a new one needs."""

if __name__ != "marginbench.methods":
    # `import methods` from the repository's root would build a second registry
    raise ImportError("import marginbench.methods, not methods")

from marginbench.methods.errors import MarginbenchError
from marginbench.methods.method import (
    NORMS,
    Batch,
    Context,
    Info,
    Loss,
    Method,
    Norm,
    NotApplicable,
    Radii,
    Task,
    as_float,
    class_mask,
    cross_entropy,
    logit_margin,
    param,
)
from marginbench.methods.net import Net, Normalise, Residual, Subsample
from marginbench.methods.registry import create, get, load_plugin, names, register, rows
from marginbench.methods.spec import spec_of

__all__ = [
    "NORMS",
    "Batch",
    "Context",
    "Info",
    "Loss",
    "MarginbenchError",
    "Method",
    "Net",
    "Norm",
    "Normalise",
    "NotApplicable",
    "Radii",
    "Residual",
    "Subsample",
    "Task",
    "as_float",
    "class_mask",
    "create",
    "cross_entropy",
    "get",
    "load_plugin",
    "logit_margin",
    "names",
    "param",
    "register",
    "rows",
    "spec_of",
]
