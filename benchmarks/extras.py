"""Packages that do not come with marginbench: what is missing, and how to get it."""

from dataclasses import dataclass
from importlib.util import find_spec

from marginbench.methods import MarginbenchError


@dataclass(frozen=True)
class Needs:
    """A package that does not come with marginbench."""

    module: str
    advice: str  # how to get it

    @property
    def missing(self) -> bool:
        return find_spec(self.module) is None

    def check(self, what: str) -> None:
        """Complain where it is missing.

        Args:
            what: needs it, as in "network 'bert'".

        Raises:
            MarginbenchError: it is not installed.
        """
        if self.missing:
            raise MarginbenchError(f"{what}: needs {self.module}: {self.advice}")


def _extra(module: str, name: str) -> Needs:
    return Needs(module, f"pip install 'marginbench[{name}]', or uv sync --extra {name}")


CLUSTER = _extra("distributed", "cluster")
ONNX = _extra("onnxscript", "onnx")
ONNX_READER = _extra("onnx2torch", "onnx")
ONNX_RUNTIME = _extra("onnxruntime", "onnx")
TENSORBOARD = _extra("tensorboard", "tensorboard")
TEXT = _extra("transformers", "text")
TUNE = _extra("optuna", "tune")
