"""The section `network` of a suite: a network by name, or from a user's file."""

import contextlib
from pathlib import Path
from typing import Any

from pydantic import (
    PrivateAttr,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from marginbench.benchmarks.nets.outside import from_file
from marginbench.benchmarks.nets.scan import NETWORKS, Architecture
from marginbench.benchmarks.section import Count, Section
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import suggest


class Network(Section):
    """`{ name = "cnn", width = 16 }`, or `{ file = "net.py:make" }` with a path relative to the suite's folder."""

    name: str | None = None
    file: str | None = None  # FILE.py:FUNCTION; the function is make(shape) or make(shape, width)
    width: Count | None = None  # default: the network's own
    checkpoint: str | None = None  # of a pretrained network: a folder, or a model of the hub; it has the tokenizer too
    _sha256: str | None = PrivateAttr(None)  # of the file, as it was executed

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NETWORKS:
            raise ValueError(f"unknown network: {suggest(name, NETWORKS)}; or give a file")
        return name

    @model_validator(mode="before")
    @classmethod
    def _own_width(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "width" in values:
            return values
        width = None
        with contextlib.suppress(MarginbenchError):  # reported below, with the rest
            if str(values.get("name")) in NETWORKS:
                width = NETWORKS[values["name"]].width
            elif isinstance(values.get("file"), str):
                width = from_file(values["file"]).width
        return values if width is None else {"width": width, **values}

    @model_validator(mode="after")
    def _one_source(self) -> "Network":
        if (self.name is None) == (self.file is None):
            raise ValueError('give either a name or a file, as in { name = "cnn" } or { file = "net.py:make" }')
        if self.file is not None:
            try:
                self._sha256 = from_file(self.file, self.width).source
            except MarginbenchError as error:
                raise ValueError(str(error)) from None
        pretrained = self.name is not None and NETWORKS[self.name].pretrained
        if pretrained and self.checkpoint is None:
            raise ValueError(
                f'network.checkpoint: {self.name} needs one, a folder or a model of the hub: "bert-base-uncased"'
            )
        if not pretrained and self.checkpoint is not None:
            known = ", ".join(sorted(name for name, of in NETWORKS.items() if of.pretrained))
            raise ValueError(f"network.checkpoint: of {known} alone; {self.label} starts from random weights")
        if pretrained and self.width is not None:
            raise ValueError(f"network.width: has no effect on {self.name}: its checkpoint has the width")
        return self

    @property
    def _path(self) -> str:
        return str(self.file).rpartition(":")[0]

    @property
    def label(self) -> str:
        """What tables and records call it: its name, or its file without the folder."""
        return str(self.name or f"{Path(self._path).name}:{str(self.file).rpartition(':')[2]}")

    def architecture(self) -> Architecture:
        """How it is built.

        Raises:
            MarginbenchError: its file has changed since the suite was read: records would name the other version.
        """
        if self.file is None:
            return NETWORKS.find(str(self.name), "network")
        architecture = from_file(self.file, self.width)
        if architecture.source != self._sha256:
            raise MarginbenchError(f"network {self._path}: the file has changed since the suite was read; start again")
        return architecture

    @model_serializer(mode="wrap")
    def _versioned(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it enters records and hashes: files without their folders, and the SHA-256 of what is not built in."""
        values = {key: value for key, value in handler(self).items() if value is not None}
        if self.checkpoint is not None:  # the fingerprint of the data knows its content
            values["checkpoint"] = Path(self.checkpoint).name
        if self.file is not None:
            return {**values, "file": self.label, "sha256": self._sha256}
        source = NETWORKS.source(str(self.name))
        return values if source is None else {**values, "source": source}
