"""Write a file that uses the class of every method, for vulture: they are found by scanning, and no code names them.

python tests/scanned.py FILE.py
"""

import sys
from pathlib import Path

from marginbench.methods import get, names

if __name__ == "__main__":
    Path(sys.argv[1]).write_text("".join(f"{get(key).__name__}\n" for key in names()), encoding="utf-8")
