"""Records of a state that is back, after newer ones of another: the table goes by these, and the run says so."""

from pathlib import Path

import numpy as np
from support import Run

from marginbench.benchmarks.plugins import forget_plugins

PLUGIN = """
from marginbench.methods import Info, Loss, Method, cross_entropy

class Mine(Method):
    "Cross-entropy of scaled logits [B, K]."

    info = Info(
        key="mine", title="Mine", family="output_margin", paper="none", section="1", year=2026, revision=1, neutral={}
    )

    def loss(self, net, batch, ctx):
        return Loss(cross_entropy(1.0 * net(batch.x), batch))
"""
WARNING = "mine has newer records, {}, by which the table goes; it calls these runs {}: repeat them with `fresh`"


def test_of_a_plug_in_that_was_edited_and_back(run: Run, tiny: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    words = ("run-all", "--suite", tiny, "--methods", "mine", "--plugin", plugin, "--out", tmp_path / "out")
    said = []
    for factor, more in (("1.0", ()), ("2.0", ()), ("1.0", ()), ("1.0", ("--fresh",)), ("1.0", ())):
        plugin.write_text(PLUGIN.replace("1.0", factor))
        forget_plugins()
        code, _, err = run(*words, "--jobs", "1", *more)
        assert code == 0, err
        said.append(WARNING.format("of another version", "stale") in err)
    assert said == [False, False, True, False, False]


def test_of_data_that_were_changed_and_back(run: Run, tiny: Path, tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    every = {}
    for part, count in (("train", 300), ("test", 60)):
        every[f"x_{part}"] = stream.integers(256, size=(count, 8, 8), dtype=np.uint8)
        every[f"y_{part}"] = np.arange(count) % 3
    toy = tmp_path / "toy.npz"
    tiny.write_text(tiny.read_text().replace('name = "digits"', f'name = "{toy}"'))
    said = []
    for first in (0, 1, 0):
        every["x_test"][0, 0, 0] = first
        np.savez(toy, **every)
        code, _, err = run("run-all", "--suite", tiny, "--methods", "ce", "--out", tmp_path / "out", "--jobs", "1")
        assert code == 0
        said.append(WARNING.replace("mine", "ce").format("on other data", "other_data") in err)
    assert said == [False, False, True]
