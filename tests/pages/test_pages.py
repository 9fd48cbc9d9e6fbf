"""Every command and every block of code in the pages is run, with the built-in suites made small."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
from support import Run
from torch import nn

from marginbench.benchmarks.suites import schema

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "benchmarks/README.md", "methods/README.md", "results/README.md", "tests/README.md")
ELSEWHERE = {  # commands that other tests run, or that run the tests
    "pip ": "sets an environment up",
    "uv ": "sets an environment up, or is what continuous integration calls",
    "srun ": "needs Slurm",
    "#SBATCH": "needs Slurm",
    "git ": "of a person who contributes",
    "python results/refresh.py": "tests/tables/test_results.py",
    "python -m marginbench.benchmarks.speed": "tests/speed",
    "marginbench run-all --scheduler": "tests/runs/test_cluster.py",
    "marginbench run-all --suite mnist --scheduler": "tests/runs/test_cluster.py",
    "marginbench doctor": "tests/evaluation/test_doctor.py",
    "marginbench verify": "tests/runs/test_verify.py",
}
NET = """
from torch import nn


def make_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
SMALL = {
    "seeds": "1",
    "epochs": "2",
    "points": "10",
    "validation": "200",
    "train_size": "300",
    "methods": '["ce", "mma"]',
    "n": "200",
}


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks; indented ones count as commands."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    ((?:marginbench|pip|uv|srun|#SBATCH) .*)$", rest, re.MULTILINE)
    return [*fenced, ("sh", "\n".join(indented))]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, where the built-in suites are small and their data the digits."""

    def small(name: str) -> tuple[Path, str]:
        path, text = original(name)
        for key, value in SMALL.items():
            text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        text = re.sub(r'^\[data\]\nname = ".*?"', '[data]\nname = "digits"', text, flags=re.MULTILINE)
        network = '[network]\nname = "mlp"\nwidth = 8\n\n['
        text = re.sub(r"^\[network\].*?^\[", network, text, flags=re.MULTILINE | re.DOTALL)
        if "methods = " not in text:
            text = text.replace("seeds = ", f"methods = {SMALL['methods']}\nseeds = ", 1)
        return path, text

    original = schema.read_suite
    monkeypatch.setattr(schema, "read_suite", small)
    monkeypatch.setattr("marginbench.benchmarks.runs.work.choose_jobs", lambda *_: 1)
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    torch.save(nn.Linear(64, 10).state_dict(prefix="1."), tmp_path / "net.pt")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "reference").symlink_to(ROOT / "results" / "reference")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_everything_in_the_page_runs(page: str, desk: Path, run: Run) -> None:
    found = blocks(page)
    python = [text for language, text in found if language == "python"]
    for text in python:  # files first: commands name them
        if name := re.match(r"# (\w+\.py)\n", text):
            (desk / name[1]).write_text(text, encoding="utf-8")
    for language, text in found:
        if language == "sh":
            for line in text.splitlines():
                for command in line.partition(" #")[0].split("&&"):
                    do(command.strip(), run)
        elif language == "toml":
            tomllib.loads(text)
        elif language == "python" and not re.match(r"# (\w+\.py)\n", text):
            exec(compile(text, page, "exec"), {"__name__": "__main__"})
        assert language in ("sh", "toml", "python", "bibtex"), f"{page}: nothing runs blocks of {language}"


def do(command: str, run: Run) -> None:
    if not command or command.startswith(tuple(ELSEWHERE)):
        return
    words = shlex.split(command)
    target = None
    if ">" in words:
        words, target = words[: words.index(">")], words[words.index(">") + 1]
    assert words[0] == "marginbench", f"nothing runs {command!r}"
    code, out, err = run(*words[1:])
    assert code == 0, f"{command}: {err}"
    if target:
        Path(target).write_text(out, encoding="utf-8")


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        folder = (ROOT / page).parent
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8")):
            assert "://" in link or (folder / link).exists(), f"{page}: {link}"


def test_pages_are_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 7000


@pytest.mark.parametrize("file", sorted((ROOT / "tests/doors").glob("*.py")), ids=lambda file: file.name)
def test_the_pages_quote_the_examples_that_other_tests_use(file: Path) -> None:
    assert file.read_text(encoding="utf-8") in "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
