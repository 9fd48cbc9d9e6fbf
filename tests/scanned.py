"""Write a file that uses what no code names, for vulture: the class of every method, and what templates show.

python tests/scanned.py FILE.py
"""

import re
import sys
from pathlib import Path

from marginbench.benchmarks.reports.make import HERE
from marginbench.methods import get, names


def of_templates() -> set[str]:
    """Attributes that the templates of the report name."""
    text = "".join(path.read_text("utf-8") for path in HERE.glob("*.html"))
    code = "".join(re.findall(r"{[{%](.*?)[%}]}", text, re.DOTALL))
    return set(re.findall(r"(?<=\.)[a-z_]+", code))


if __name__ == "__main__":
    classes = (get(key).__name__ for key in names())
    used = (f"_.{name}" for name in sorted(of_templates()))
    Path(sys.argv[1]).write_text("".join(f"{line}\n" for line in (*classes, *used)), encoding="utf-8")
