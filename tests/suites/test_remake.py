"""A suite made again from the settings in a record is that suite: the same fingerprint, the same random streams."""

import json
from pathlib import Path
from typing import Any

import pytest

from marginbench.benchmarks.plugins import load_plugin
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.remake import remake
from marginbench.benchmarks.suites.schema import WHICH, Suite, load_suite, suite_names
from marginbench.methods import MarginbenchError

DOORS = Path(__file__).parents[1] / "doors"


def recorded(suite: Suite) -> dict[str, Any]:
    return dict(json.loads(json.dumps(suite.model_dump(mode="json", exclude=WHICH))))


def same(a: Suite, b: Suite) -> bool:
    return (a.name, a.stream_name, a.fingerprint) == (b.name, b.stream_name, b.fingerprint)


@pytest.mark.parametrize("name", suite_names())
def test_built_in_suites(name: str) -> None:
    suite = load_suite(name)
    assert same(remake(recorded(suite), Path()), suite)


def test_a_derived_suite_draws_as_its_base(tiny: Path) -> None:
    suite = derive(load_suite(str(tiny)), {"training.epochs": 3, "training.learning_rate": 0.5})
    made = remake(recorded(suite), Path())
    assert same(made, suite) and made.stream_name == "tiny" != made.name


@pytest.mark.parametrize(
    "changes",
    [{"training.epochs": 3}, {"network.name": "mlp"}, {"evaluation.certificates": {}, "evaluation.smoothing": None}],
)
def test_a_tuned_recipe_comes_on_top_of_the_changes_of_a_record(changes: dict[str, Any]) -> None:
    suite, tuned = derive(load_suite("smoke"), changes), {"training.learning_rate": 0.5}
    made, wanted = (derive(of, tuned) for of in (remake(recorded(suite), Path()), suite))
    assert same(made, wanted) and (made.recipe, made.trained_for) == (wanted.recipe, wanted.trained_for)


def test_files_are_looked_for_in_a_folder(tiny: Path) -> None:
    code = '"""A network."""\nfrom torch import nn\n\ndef make(shape, width=4):\n    return nn.Flatten()\n'
    (tiny.parent / "my_net.py").write_text(code)
    load_plugin(DOORS / "my_transform.py")
    text = tiny.read_text().replace('name = "mlp"', 'file = "my_net.py:make"')
    tiny.write_text(text.replace("epochs = 2", 'epochs = 2\naugment = ["noise"]'))
    suite = load_suite(str(tiny))
    assert same(remake(recorded(suite), tiny.parent), suite)
    with pytest.raises(MarginbenchError, match="my_net"):
        remake(recorded(suite), tiny.parent / "elsewhere")
    (tiny.parent / "my_net.py").write_text(code.replace("A network", "Another"))
    assert not same(remake(recorded(suite), tiny.parent), suite), "the file is another one"
