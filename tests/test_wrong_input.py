"""One clear line for each wrong input of the command line."""

from pathlib import Path

import pytest
import typer
from support import Run

from marginbench.benchmarks.cli.app import _in_options, app
from marginbench.benchmarks.machine import files
from marginbench.benchmarks.machine.files import UnwritableError
from marginbench.methods.errors import ParameterError

WRONG = [
    (("--methods", "arcfac"), ["unknown method 'arcfac'", "did you mean 'arcface'"]),
    (("--methods", "arcface(m=-1)"), ["arcface.m=-1"]),
    (("--methods", "arcface(m=abc)"), ["arcface.m='abc'"]),
    (("--methods", "ce,ce"), ["'ce' is named twice"]),
    (("--set", "arcface.n=1"), ["no field 'n'"]),
    (("--set", "arcfac.m=1"), ["did you mean 'arcface'"]),
    (("--set", "arcface"), ["METHOD.FIELD=VALUE"]),
    (("--suite", "digit"), ["unknown suite 'digit'", "did you mean 'digits'"]),
    (("--suite", "none.toml"), ["none.toml", "No such file"]),
    (("--seeds", "0"), ["--seeds 0"]),
    (("--seeds", "many"), ["--seeds"]),
    (("--seeds", str(10**20)), ["--seeds 1", "at most 10000"]),
    (("--memory", "lots"), ["--memory lots", "4GB"]),
    (("--memory", "10MB"), ["--memory 10MB", "at least 1 GB"]),
    (("--plugin", "none.py"), ["none.py", "no such file"]),
    (("--out", "/dev/null/x"), ["/dev/null/x", "--out"]),
]


@pytest.mark.parametrize(("words", "expected"), WRONG)
def test_wrong_input_gives_one_line_and_exit_code_2(
    run: Run, tiny: Path, tmp_path: Path, words: tuple[str, ...], expected: list[str]
) -> None:
    code, out, err = run("run-all", "--suite", tiny, "--out", tmp_path / "out", *words)
    assert code == 2 and out == ""
    for word in expected:
        assert word in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.json"))


def test_cuda_is_refused_without_one(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = run("run-all", "--suite", tiny, "--device", "cuda")
    assert code == 2 and "--device cuda" in err and "cpu" in err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs = 2", "epoch = 2", ["training.epoch", "did you mean 'epochs'"]),
        ("epochs = 2", "epochs = 'two'", ["training.epochs='two'", "integer"]),
        ("epochs = 2", "epochs = 0", ["training.epochs=0"]),
        ("epochs = 2", "epochs =", ["not valid TOML"]),
        ("validation = 200", "", ["data.validation", "missing"]),
        ("validation = 200", "validation = 99999", ["data.validation=99999"]),
        ('name = "mlp"', 'name = "resnet"', ["network.name='resnet'", "mlp"]),
        ('name = "digits"', 'name = "digit"', ["data.name 'digit'", "digits"]),
        ('name = "digits"', 'name = "mine.npz"', ["mine.npz", "no such data file"]),
        ("blend = {}", "blent = {}", ["attacks.blent", "did you mean 'blend'"]),
        ("steps = 5", "step = 5", ["deepfool.step", "did you mean 'steps'"]),
        ("steps = 5", "steps = 'five'", ["deepfool.steps='five'"]),
        ("crown = {}", "crowm = {}", ["certificates.crowm", "crown"]),
        ('"ce"', '"ce2"', ["unknown method 'ce2'"]),
        ("linf = 0.05, ", "", ["epsilon", "linf"]),
    ],
)
def test_a_suite_with_a_typo_names_file_key_and_remedy(
    run: Run, tiny: Path, tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    tiny.write_text(tiny.read_text().replace(old, new, 1))
    code, _, err = run("run-all", "--suite", tiny, "--out", tmp_path / "out")
    last = err.splitlines()[-1]
    assert code == 2 and last.startswith("error: ")
    for word in words:
        assert word in last


def test_a_parameter_with_another_name_is_translated_too(run: Run) -> None:
    code, _, err = run("new-method", "some_margin", "--dir", "/dev/null/x")
    assert code == 2 and err.startswith("error: --dir /dev/null/x: cannot be made")


def test_a_name_that_python_keeps_for_itself_is_no_method(run: Run, tmp_path: Path) -> None:
    code, _, err = run("new-method", "class", "--dir", tmp_path)
    assert code == 2 and err == "error: method name 'class': is a word of Python's own\n"


def test_a_folder_is_no_file_for_a_table(run: Run, tmp_path: Path) -> None:
    reference = Path(__file__).parents[1] / "results/reference/digits_exact"
    code, _, err = run("leaderboard", reference, "--format", "csv", "-o", tmp_path)
    assert (code, err) == (2, f"error: -o {tmp_path}: is a folder; a file is needed\n")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("leaderboard", "none"), "a.md"),
        (("margins", "none"), "a.csv"),
        (("plot", "cost", "none"), "a.svg"),
        (("report", "none"), "a.html"),
        (("freeze", "none"), "a.txt"),
        (("export", "none"), "a"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_anything_is_read(
    run: Run, words: tuple[str, ...], name: str
) -> None:
    """Else the missing folder, or id, would be told."""
    code, out, err = run(*words, "-o", f"/dev/null/x/{name}")
    last = err.splitlines()[-1]
    assert (code, out) == (2, "") and last.startswith("error: -o /dev/null/x: cannot be made")


def test_a_report_that_cannot_be_written_into_its_folder_is_not_made(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _: bytes) -> None:
        raise UnwritableError(f"{path}: cannot be written (Read-only file system)")

    monkeypatch.setattr(files, "write_atomically", refuse)
    code, _, err = run("report", tmp_path)
    told = f"error: -o {tmp_path}: cannot be written (Read-only file system); choose another folder"
    assert code == 2 and err.splitlines()[-1] == told
    assert run("report", tmp_path / "none")[0] == 2 and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        ("compare", ParameterError("a", "x", "is no row"), "A x: is no row"),
        ("doctor", ParameterError("every", True, "is too much"), "--all: is too much"),
        ("verify", ParameterError("sample", None, "is missing"), "--sample: is missing"),
        ("verify", ParameterError("folders", ["a", "b"], "are empty"), "DIR... a,b: are empty"),
    ],
)
def test_an_error_about_a_parameter_names_the_option_or_the_argument(
    command: str, error: ParameterError, words: str
) -> None:
    assert _in_options(error, typer.main.get_command(app).commands[command]) == words


def test_what_is_unknown_is_said_before_what_is_missing(run: Run) -> None:
    reference = Path(__file__).parents[1] / "results/reference/digits_exact"
    code, _, err = run("plot", "costs", reference)
    assert code == 2 and err.startswith("error: unknown figure 'costs': did you mean 'cost'?")
    code, _, err = run("margins", reference, "--target", "accuracy")
    assert code == 2 and err.startswith("error: --target accuracy: ")
    code, _, err = run("leaderboard", reference / "README.md")
    assert (code, err) == (2, f"error: {reference / 'README.md'}: is a file, no folder\n")


DIGITS = Path(__file__).parents[1] / "results" / "reference" / "digits"


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        (("leaderboard", DIGITS), [".md", ".csv", ".tex", ".html", ".json", "--format"]),
        (("margins", DIGITS), [".md", ".csv", ".json", "--format"]),
        (("report", DIGITS), [".html"]),
        (("plot", "cost", DIGITS), [".svg", ".pdf", ".png", ".html", ".json"]),
    ],
    ids=lambda value: value[0],
)
def test_a_file_name_that_says_no_format_is_refused_with_those_that_do(
    run: Run, tmp_path: Path, words: tuple[str, ...], ends: list[str]
) -> None:
    code, out, err = run(*words, "-o", tmp_path / "x.docx")
    assert code == 2 and out == "" and err.startswith("error: -o ") and err.count("\n") == 1
    assert all(end in err for end in ends) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("hyper_parameters",),
            "error: --option parameter: should be one in which suites or rows differ alone: known:",
        ),
        (("cost", "--option", "unit=days"), "error: --option unit=days: should be seconds or passes"),
        (("cost", "--column", "costs"), "error: --column costs: no such column"),
    ],
)
def test_options_of_figures_are_named_as_they_are_given(
    run: Run, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    code, _, err = run("plot", *words[:1], DIGITS, *words[1:], "-o", tmp_path / "x.svg")
    assert code == 2 and err.startswith(said) and "None" not in err
