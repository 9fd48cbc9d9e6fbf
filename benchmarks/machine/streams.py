"""Text on terminals and pipes whose encoding does not know every character: ASCII, Latin-1, Windows' code pages."""

import codecs
import sys
import unicodedata
from contextlib import suppress

PLAIN = {
    "∞": "inf",
    "±": "+-",
    "—": "-",
    "–": "-",
    "−": "-",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "×": "x",
    "·": "*",
    "→": "->",
    "…": "...",
    "√": "sqrt",
    "‖": "||",
    "²": "^2",
    "³": "^3",
    "½": "1/2",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "ß": "ss",
    "─": "-",
    "│": "|",
}
_HANDLER = "marginbench.readable"


def make_readable() -> None:
    """Let stdout and stderr print something near to what their encoding lacks, where Python would raise or escape."""
    codecs.register_error(_HANDLER, _substituted)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # not of what a notebook or a test may have put there
        if reconfigure is not None:
            with suppress(OSError):  # a terminal that is open for reading too
                reconfigure(errors=_HANDLER)


def _substituted(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(readable, error.object[error.start : error.end])), error.end


def readable(character: str) -> str:
    """ASCII that reads like the character: `inf` for ∞, `e` for é, `epsilon` for ε; ? where nothing does."""
    if character in PLAIN:
        return PLAIN[character]
    name = unicodedata.name(character, "")
    if name.startswith("GREEK") and " LETTER " in name:
        letter = name.partition(" LETTER ")[2].split()[0]
        return letter.capitalize() if "CAPITAL" in name else letter.lower()
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or ("" if unicodedata.combining(character) else "?")
