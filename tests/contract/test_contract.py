"""The contract over every registered method, and as an author of plug-ins runs it."""

from pathlib import Path

import pytest

from marginbench.benchmarks.contract.check import CHECKS, parametrize_with_checks, run_check
from marginbench.benchmarks.contract.loss_checks import EMPTY_SOURCE
from marginbench.benchmarks.contract.new_method import write_template
from marginbench.methods import (
    Batch,
    Context,
    Loss,
    MarginbenchError,
    Net,
    create,
    get,
    rows,
)
from marginbench.methods.baselines.ce import CE

BUILT_IN = [key for key in rows() if get(key).__module__.startswith("marginbench.")]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("key", BUILT_IN)
def test_method_keeps_the_contract(key: str, check: str) -> None:
    result = run_check(check, create(key))
    if result.status == "skipped" and check not in ("replays", "fields_matter"):  # built-in rows pass them
        pytest.skip(result.reason)
    assert result.status == "passed", result.reason


class ReadsProgress(CE):
    """L = a_t CE(z, y), right, but never twice the same step."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        return Loss(super().loss(net, batch, ctx).total * (1 + ctx.progress))


def test_a_method_that_cannot_be_replayed_is_no_failure() -> None:
    result = run_check("replays", ReadsProgress())
    assert result.status == "skipped" and "Context.schedule" in result.reason


@pytest.mark.parametrize("check", CHECKS)
def test_no_check_is_skipped_by_every_method(check: str) -> None:
    assert any(run_check(check, get(key)()).status == "passed" for key in ("ce", "lmt"))


@pytest.mark.parametrize("source", ["", "-", "none", "Choice", "code.", "the paper", "chosen here", "yours to choose"])
def test_a_source_must_say_something(source: str) -> None:
    assert EMPTY_SOURCE.fullmatch(source.lower())
    assert not EMPTY_SOURCE.fullmatch("authors' code") and not EMPTY_SOURCE.fullmatch("section 4")


def test_a_plugin_author_runs_the_checks_with_pytest(tmp_path: Path) -> None:
    path = write_template("my_margin", tmp_path)
    broken = tmp_path / "broken.py"
    broken.write_text(path.read_text().replace("my_margin", "broken").replace("MyMargin", "Broken"))
    broken.write_text(broken.read_text().replace("risk + self.weight * hinge, ", "risk * float('nan'), "))
    mark = parametrize_with_checks(path, str(broken), "ce").mark
    calls = {param.id: param.values[0] for param in mark.args[1]}
    assert mark.args[0] == "check" and len(calls) == 3 * len(CHECKS)
    calls["finite_loss-my_margin"]()
    with pytest.raises(AssertionError, match="the loss is NaN"):
        calls["finite_loss-broken"]()
    with pytest.raises(pytest.skip.Exception, match="no certificate of its own"):
        calls["certificate_sound-ce"]()
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(MarginbenchError, match="no subclass"):
        parametrize_with_checks(tmp_path / "empty.py")
