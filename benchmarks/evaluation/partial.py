"""What the estimators of a run have found, in files, until its record is there: from them a run resumes."""

import io
import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from marginbench.benchmarks.machine.files import digest, write_atomically
from marginbench.benchmarks.records.provenance import environment


class Found(NamedTuple):
    """What an estimator has found."""

    arrays: dict[str, Tensor]
    facts: dict[str, Any]  # what it cost, or why it was not applicable


@dataclass(frozen=True)
class Partial:
    """One file for each thing found; without a folder nothing is kept.

    The folder belongs to one run: to its data, suite and settings. The rest stands in the key: `about`.
    """

    folder: Path | None = None
    key: str = ""

    def about(self, *logits: Tensor) -> "Partial":
        """Only what was found about a network of exactly these logits, by this version of marginbench and torch."""
        if self.folder is None:
            return self
        here = environment(torch.device("cpu"))
        seen = [logit.cpu().numpy().tobytes().hex() for logit in logits]
        return replace(self, key=digest([digest(seen), here.versions, here.commit]))

    def recall(self, name: str, device: torch.device) -> Found | None:
        """What was kept under this name; None if nothing was, or it cannot be read."""
        if self.folder is None:
            return None
        try:
            with np.load(io.BytesIO(self._path(name).read_bytes()), allow_pickle=False) as file:
                arrays = {key: torch.from_numpy(file[key]).to(device) for key in file.files if key != "facts"}
                return Found(arrays, json.loads(str(file["facts"])))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def keep(self, name: str, found: Found) -> None:
        """Write it to a file, whole or not at all.

        Raises:
            UnwritableError: the folder cannot be written.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        arrays: Mapping[str, Any] = {key: values.cpu().numpy() for key, values in found.arrays.items()}
        np.savez(buffer, facts=np.array(json.dumps(found.facts)), **arrays)
        write_atomically(self._path(name), buffer.getvalue())

    def remove(self) -> None:
        """The record is there: nobody resumes the run."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{digest([self.key, name])[:32]}.npz"
