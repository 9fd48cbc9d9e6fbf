"""Output where the encoding does not know every character: readable, and never an error."""

import io
import sys
from pathlib import Path

import pytest
from support import Run

from marginbench.benchmarks import describe
from marginbench.benchmarks.machine.streams import PLAIN, make_readable, readable
from marginbench.methods import names

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
ENCODINGS = ("ascii", "latin-1", "cp1252", "cp437", "utf-8")


@pytest.mark.parametrize(
    ("character", "wanted"),
    [("∞", "inf"), ("±", "+-"), ("é", "e"), ("ε", "epsilon"), ("Ω", "Omega"), ("₂", "2"), ("\u0301", ""), ("漢", "?")],
)
def test_a_substitute_reads_like_the_character(character: str, wanted: str) -> None:
    assert readable(character) == wanted


def test_substitutes_are_ascii() -> None:
    assert all(text.isascii() and text for text in PLAIN.values())


class Terminal(io.TextIOWrapper):
    """A terminal of some encoding, where Python raises what it cannot show."""

    def __init__(self, encoding: str) -> None:
        self.raw_bytes = io.BytesIO()
        super().__init__(self.raw_bytes, encoding, write_through=True)

    def shown(self) -> str:
        return self.raw_bytes.getvalue().decode(self.encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_python_would_refuse_is_printed(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    if encoding in ("ascii", "latin-1", "cp1252"):
        with pytest.raises(UnicodeEncodeError):
            print("∞")
    make_readable()
    print("L∞ 0.5 ± 0.1, café, \udcff")
    text = terminal.shown()
    kept = "L∞ 0.5 ± 0.1, café, ?\n"
    wanted = {"utf-8": kept, "ascii": "Linf 0.5 +- 0.1, cafe, ?\n", "cp437": kept}
    assert text == wanted.get(encoding, kept.replace("∞", "inf"))


@pytest.mark.parametrize(
    "words",
    [
        ("leaderboard", REFERENCE / "digits_exact"),
        ("leaderboard", REFERENCE / "digits_exact", "--format", "json"),
        ("leaderboard", REFERENCE / "digits_exact", "--format", "tex"),
        ("claims", REFERENCE / "digits_exact"),
        ("compare", "ce", "pgd_at", REFERENCE / "digits_exact"),
        ("methods",),
        ("methods", "--json"),
        ("suites",),
        ("suites", "digits"),
        ("leaderboard", "∞"),
    ],
    ids=lambda words: " ".join(map(str, words[:1])),
)
def test_every_command_prints_on_an_ascii_terminal(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str | Path, ...]
) -> None:
    code, wanted, _ = run(*words)
    out, err = Terminal("ascii"), Terminal("ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        again, _, _ = run(*words)
    assert again == code == (2 if "∞" in words else 0)
    text = out.shown()
    assert text.count("?") == wanted.count("?"), "a character without a substitute"
    assert text.count("\n") == wanted.count("\n")


def test_every_method_can_be_explained_in_ascii() -> None:
    for key in names():
        text = describe.one(key)
        lost = {character for character in text if not character.isascii() and readable(character) == "?"}
        assert not lost, f"{key}: {lost}"
