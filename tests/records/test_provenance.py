"""What a record says of where its run took place: all that may change the last bits, as it was at that moment."""

import json
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import torch
from made import a_record

from marginbench.benchmarks.records import builds, packages, provenance
from marginbench.benchmarks.records.reader import read_record
from marginbench.benchmarks.records.record import SEAL, write_record

CPU = torch.device("cpu")


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_of_the_moment(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert provenance.environment(CPU).threads == threads
    finally:
        torch.set_num_threads(before)


def test_variables_are_those_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in builds.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert provenance.environment(CPU).variables == {}
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert provenance.environment(CPU).variables == {"MKL_CBWR": "COMPATIBLE"}


def test_what_chooses_kernels_is_named() -> None:
    here = provenance.environment(CPU)
    assert here.processor_details["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert here.builds["torch"] == torch.__version__ and here.versions["torch"] == metadata.version("torch")
    assert {"blas", "compiler", "torch_commit", "numpy_blas"} <= here.builds.keys()
    assert here.interop_threads == torch.get_num_interop_threads()


def test_cores_of_one_name_and_several_kinds_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual machines call their processors AMD EPYC whatever the generation."""

    def seen(family: int) -> tuple[str, dict[str, str]]:
        text = f"processor : 0\nmodel name : AMD EPYC\ncpu family : {family}\n\nprocessor : 1\ncpu family : 0\n"
        monkeypatch.setattr(builds, "_text", lambda path: text if path.name == "cpuinfo" else "")
        for cached in (builds._cpuinfo, builds.processor, builds.processor_details):
            cached.cache_clear()
        return builds.processor(), builds.processor_details()

    try:
        (name, zen3), (again, zen5) = seen(25), seen(26)
    finally:
        monkeypatch.undo()
        for cached in (builds._cpuinfo, builds.processor, builds.processor_details):
            cached.cache_clear()
    assert name == again == "AMD EPYC" and (zen3["family"], zen5["family"]) == ("25", "26")


class Package:
    """A stand-in for an installed distribution."""

    def __init__(self, version: str, *requires: str) -> None:
        self.version, self.requires = version, list(requires)


def test_packages_are_what_marginbench_needs_and_nothing_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {
        "marginbench": Package("1", "torch>=2.6", "distributed; extra == 'cluster'"),
        "torch": Package(
            "2+cpu", "Cuda_Toolkit[cublas]==13; platform_system == 'Linux'", "opt-einsum; extra == 'fast'"
        ),
        "cuda-toolkit": Package("13", "nvidia-cublas; extra == 'cublas'", "nvidia-fft; extra == 'fft'", "torch"),
        **{name: Package("5") for name in ("distributed", "nvidia-cublas", "nvidia-fft", "opt-einsum", "black")},
    }

    def distribution(name: str) -> Package:
        if name not in there:
            raise metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(packages.metadata, "distribution", distribution)
    monkeypatch.setattr(packages.metadata, "entry_points", lambda group: ())
    assert packages.installed.__wrapped__() == {
        "auto-lirpa": None,
        "cuda-toolkit": "13",
        "distributed": "5",
        "marginbench": "1",
        "nvidia-cublas": "5",
        "torch": "2+cpu",
    }


def test_an_older_record_says_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schema 3 had none of these: they are empty, and not what is here."""
    new = ("processor_details", "interop_threads", "variables", "builds")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = write_record(tmp_path / "runs", a_record("ce", environment=provenance.environment(CPU)), {})
    values = json.loads(path.read_text())
    del values[SEAL]
    for name in new:
        assert values["environment"].pop(name), name
    path.write_text(json.dumps({**values, "schema_version": 3}))
    old = read_record(path).environment
    assert [getattr(old, name) for name in new] == [{}, None, {}, {}]


def test_the_commit_of_another_repository_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a virtual environment inside the repository of somebody else, until they track the file."""

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    def commit() -> str | None:
        provenance._commit.cache_clear()
        return provenance.environment(CPU).commit

    installed = tmp_path / "marginbench" / "benchmarks" / "records" / "provenance.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "theirs")
    monkeypatch.setattr(provenance, "__file__", str(installed))
    try:
        assert commit() is None
        git("add", ".")
        git("commit", "-q", "-m", "ours")
        clean = commit() or ""
        assert len(clean) == 12
        states = []
        for text in ("x = 1\n", "x = 2\n", "x = 1\n", ""):
            installed.write_text(text)
            states.append(commit() or "")
        assert all(state.startswith(f"{clean}+") for state in states[:3]) and states[3] == clean
        assert states[0] == states[2] != states[1], "two edits are two states of the code"
        new = tmp_path / "marginbench" / "methods" / "output_margin" / "mine.py"
        new.parent.mkdir(parents=True)
        (new.parent / "README.md").write_text("no code")
        assert commit() == clean
        untracked = []
        for text in ("x = 1\n", "x = 2\n"):
            new.write_text(text)
            untracked.append(commit() or "")
        assert untracked[0] != untracked[1] and all(state.startswith(f"{clean}+") for state in untracked)
    finally:
        provenance._commit.cache_clear()
