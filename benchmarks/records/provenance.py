"""Finds out where a run takes place."""

import hashlib
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch

from marginbench.benchmarks.machine.device import cores
from marginbench.benchmarks.records.builds import builds, processor, processor_details, variables
from marginbench.benchmarks.records.packages import installed
from marginbench.benchmarks.records.record import Environment


def environment(device: torch.device) -> Environment:
    """Hardware, threads, versions and commit, as they are at this moment.

    The host's name is hashed: it serves only to tell machines apart.
    """
    return Environment(
        host=hashlib.sha256(platform.node().encode()).hexdigest()[:12],
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        processor=processor(),
        processor_details=processor_details(),
        cores=cores(),
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        variables=variables(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=installed(),
        builds=builds(device.type == "cuda"),
        commit=_commit(),
    )


@cache
def _commit() -> str | None:
    """The commit of the source tree, None outside a checkout of marginbench; with `+` and a digest where code differs.

    An installed package may lie in a virtual environment inside somebody else's repository, which does not track it.
    """

    here = Path(__file__)

    def git(*words: str) -> str:
        answer = subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True, check=True)
        return answer.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", here.name)
        code = ("../../methods/*.py", "../../benchmarks/*.py")
        changed = git("diff", "--no-ext-diff", "HEAD", "--", *code)
        for name in git("ls-files", "--others", "--exclude-standard", "--", *code).splitlines():
            changed += f"{name}\n{(here.parent / name).read_text(errors='replace')}"
        state = f"+{hashlib.sha256(changed.encode()).hexdigest()[:4]}" if changed else ""
        return git("rev-parse", "--short=12", "HEAD") + state
    except (OSError, subprocess.CalledProcessError):
        return None
