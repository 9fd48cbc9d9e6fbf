"""The command line as a user meets it: the main job, its options, and what it says."""

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from processes import MARGINBENCH, Start
from support import Run

from marginbench.benchmarks import __version__
from marginbench.benchmarks.records.reader import read_arrays
from marginbench.benchmarks.runs import status
from marginbench.benchmarks.runs.choice import choose_methods
from marginbench.benchmarks.suites.schema import comment, load_suite, suite_names
from marginbench.benchmarks.tables.leaderboard import load


def test_run_all_writes_records_and_tables_and_resumes(run: Run, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text, progress = run("run-all", "--suite", tiny, "--out", out)
    assert code == 0
    assert "| ce " in text and "| arcface(s=16,m=0.1) |" in text and "2 runs done." in text
    assert "[2/2]" in progress and "ETA" in progress
    for form in ("md", "csv", "tex", "json"):
        assert (out / "tiny" / f"leaderboard.{form}").stat().st_size > 200
    runs = sorted((out / "tiny" / "runs").iterdir())
    assert [p.suffix for p in runs].count(".json") == [p.suffix for p in runs].count(".npz") == 2
    stamps = {p: p.stat().st_mtime_ns for p in runs}

    code, text, _ = run("run-all", "--suite", tiny, "--out", out)
    assert code == 0 and "0 runs done, 2 had a record already" in text
    assert stamps == {p: p.stat().st_mtime_ns for p in runs}

    code, text, _ = run("run-all", "--suite", tiny, "--out", out, "--methods", "ce", "--fresh")
    assert code == 0 and "1 run done." in text
    changed = [p for p in runs if p.stat().st_mtime_ns != stamps[p]]
    assert len(changed) == 2

    frame = load(out)
    assert len(frame) == 2 and set(frame["status"]) == {"done"}
    assert read_arrays(frame["path"][0])["upper_l2"].shape == (30,)


def test_options_reach_the_run(run: Run, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (
        "--methods",
        "arcface",
        "--set",
        "arcface.m=0.3",
        "--set",
        "arcface.s=8",
        "--seeds",
        "2",
        "--device",
        "cpu",
    )
    code, _, _ = run("run-all", "--suite", tiny, "--out", out, *words)
    assert code == 0
    records = [json.loads(path.read_text()) for path in (out / "tiny" / "runs").glob("*.json")]
    assert {r["method"] for r in records} == {"arcface(s=8,m=0.3)"}
    assert {r["repetition"] for r in records} == {0, 1}
    table = pd.read_csv(out / "tiny" / "leaderboard.csv")
    assert list(table["n"]) == [2] and table["clean_accuracy_ci95"].isna().all()


def test_leaderboard_formats_sort_and_file(run: Run, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("run-all", "--suite", tiny, "--out", out)
    code, text, _ = run("leaderboard", out, "--format", "csv", "--by", "clean_accuracy")
    assert code == 0 and text.startswith("suite,")
    code, text, _ = run("leaderboard", out, out / "tiny", "--format", "json")
    assert code == 0 and len(json.loads(text)) == 2  # a run seen twice counts once
    code, text, _ = run("leaderboard", out, "--format", "tex", "-o", tmp_path / "t.tex")
    assert code == 0 and r"\toprule" in (tmp_path / "t.tex").read_text()
    code, _, text = run("leaderboard", out, "--by", "clean")
    assert code == 2 and "did you mean 'clean_accuracy'" in text
    code, _, text = run("leaderboard", out, "--format", "xlsx")
    assert code == 2 and "md" in text
    code, _, text = run("leaderboard", tmp_path / "nowhere")
    assert code == 2 and "no such folder" in text
    (tmp_path / "empty").mkdir()
    code, _, text = run("leaderboard", tmp_path / "empty")
    assert code == 2 and "no records" in text


def test_methods_lists_and_explains(run: Run) -> None:
    code, text, _ = run("methods")
    assert code == 0 and "jacobian_reg" in text
    code, text, _ = run("methods", "arcface")
    assert code == 0
    for word in ("Paper:", "Neutral setting:", "Deviations", "[rad]", "source:", ">= 0"):
        assert word in text
    code, text, _ = run("methods", "arcface", "--json")
    assert code == 0 and json.loads(text)["fields"]["m"]["unit"] == "rad"
    code, text, _ = run("methods", "--json")
    assert code == 0 and len(json.loads(text)) >= 6
    code, _, text = run("methods", "arcfac")
    assert code == 2 and "did you mean 'arcface'" in text


def test_plugin_from_template_to_leaderboard(run: Run, tiny: Path, tmp_path: Path) -> None:
    code, text, _ = run("new-method", "my_margin", "--dir", tmp_path / "mine")
    path = tmp_path / "mine" / "my_margin.py"
    assert code == 0 and str(path) in text
    out = tmp_path / "out"
    words = ("run-all", "--suite", tiny, "--out", out, "--plugin", path, "--methods", "ce,my_margin")
    code, text, _ = run(*words)
    assert code == 0 and "| my_margin" in text
    path.write_text(path.read_text() + "\n# edited\n")  # an edited plug-in is another method
    code, text, _ = run(*words)
    assert code == 0 and "1 run done, 1 had a record already" in text and "stale" in text


def test_check_says_what_fails(run: Run, tmp_path: Path) -> None:
    run("new-method", "shouty_margin", "--dir", tmp_path)
    path = tmp_path / "shouty_margin.py"
    code, text, _ = run("check", path)
    assert code == 0 and "all checks passed" in text
    path.write_text(path.read_text().replace("risk + self.weight * hinge", "risk + 1 + self.weight * hinge"))
    code, text, _ = run("check", path)
    assert code == 1
    assert "failed   neutral_is_cross_entropy" in text and "cross-entropy" in text


def test_a_method_that_fails_becomes_a_row(run: Run, tiny: Path, tmp_path: Path) -> None:
    run("new-method", "raises", "--dir", tmp_path)
    run("new-method", "diverges", "--dir", tmp_path)
    for name, line in (("raises", "raise RuntimeError('no | luck')"), ("diverges", "risk = risk * torch.nan")):
        path = tmp_path / f"{name}.py"
        text = path.read_text()
        path.write_text(text.replace("        return Loss", f"        {line}\n        return Loss"))
    plugins = ("--plugin", tmp_path / "raises.py", "--plugin", tmp_path / "diverges.py")
    out = tmp_path / "out"
    code, text, progress = run("run-all", "--suite", tiny, "--out", out, *plugins, "--methods", "raises,diverges,ce")
    assert code == 1 and "2 of the runs failed (--retry repeats them)" in progress
    assert "FAILED 1x: RuntimeError: no" in text and "FAILED 1x: diverged" in text and "raises.py, line" in progress
    rows = pd.read_csv(out / "tiny" / "leaderboard.csv").set_index("method")
    assert rows.loc["raises", "n"] == 0 and rows.loc["ce", "n"] == 1 and rows.loc["raises", "failed"] == 1
    code, text, progress = run("run-all", "--suite", tiny, "--out", out, *plugins, "--methods", "raises,ce")
    assert code == 1 and "0 runs done, 2 had a record already" in text, "they have not become better"
    assert "1 of the runs failed (--retry repeats them)" in progress


def test_help_teaches_and_imports_nothing_heavy(run: Run) -> None:
    code = (
        "import sys; sys.argv = ['marginbench', '--help']\n"
        "from marginbench.benchmarks.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'scipy', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    for command in ("run-all", "leaderboard", "methods", "new-method", "check"):
        assert command in answer.stdout
        exit_code, text, _ = run(command, "--help")
        assert exit_code == 0 and "Usage" in text


def test_something_is_said_before_torch_is_loaded(tmp_path: Path) -> None:
    words = ["run-all", "--suite", "none.toml", "--methods", "ce", "--jobs", "1", "--out", str(tmp_path)]
    command = [sys.executable, "-c", "from marginbench.benchmarks.cli import main; main()", *words]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    first, last = answer.stderr.splitlines()
    assert first == f"suite none.toml, into {tmp_path}; loading torch" and last.startswith("error: ")
    assert answer.returncode == 2 and answer.stdout == ""


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"marginbench {__version__}\n", "")


def test_bars_on_a_terminal(tiny: Path, tmp_path: Path, start: Start) -> None:
    ours, theirs = pty.openpty()
    try:
        process = start(MARGINBENCH, "run-all", "--suite", tiny, "--out", tmp_path / "out", terminal=os.ttyname(theirs))
        shown = b""
        while process.alive or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.wait() == 0, shown
    assert b"ETA" in shown and b"2/2" in shown
    assert b"ce (baseline)" in shown and b"Tables:" in shown
    words = b" ".join(shown.split())
    assert b"(--notes). These are options of: marginbench leaderboard" in words


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_names_methods_and_a_network_that_exist(name: str) -> None:
    suite = load_suite(name)
    assert (suite.name == name and "# Source: " in f"# {comment(name)}".replace("\n", "\n# ")) or name == "smoke"
    assert len(choose_methods(None, suite, ())) == len(suite.rows)


def test_suites_are_listed_and_explained(run: Run) -> None:
    status, out, _ = run("suites")
    assert status == 0
    for name in suite_names():
        assert f"| {name} " in out
        status, one, _ = run("suites", name)
        assert status == 0 and "Rows: " in one and "[evaluation]" in one and "epochs = " in one
        assert re.search("minute|hour", comment(name), re.IGNORECASE), "the time to expect"
    assert run("suites", "digit")[0] == 2


def test_commands_that_read_suites_take_plugins(run: Run, tiny: Path) -> None:
    plugin = Path(__file__).parent / "doors" / "my_probe.py"
    tiny.write_text(tiny.read_text() + "[evaluation.mirror]\nvertical = true\n")
    code, text, _ = run("suites", tiny, "--plugin", plugin)
    assert code == 0 and "mirror" in text
    (tiny.parent / "model.py").write_text("from torch import nn\ndef make(): return nn.Linear(3, 3)\n")
    code, _, err = run("evaluate", "--model", f"{tiny.parent / 'model.py'}:make", "--suite", tiny, "--plugin", plugin)
    assert code == 2 and "fails on images" in err
    assert run("check", "nothing", "--plugin", plugin.parent / "gone.py")[2].endswith("gone.py: no such file\n")


@pytest.mark.parametrize("words", [("suites", "digits", "--toml"), ("--version",), ("--help",)])
def test_a_reader_who_has_seen_enough_is_no_error(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", "from marginbench.benchmarks.cli import main; main()", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # as `head` does once it has its lines
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_too_little_memory_is_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(_: object) -> str:
        raise MemoryError("Unable to allocate 7.48 MiB")

    monkeypatch.setattr(status, "status", exhausted)
    code, _, said = run("status", tmp_path)
    assert code == 1 and said == "error: out of memory: Unable to allocate 7.48 MiB; free some, or choose less data\n"
