"""Networks from users' files: as a user writes them, and what is refused."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from support import Run, a_query
from torch import nn

from marginbench.benchmarks.certificates.crown import crown
from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.estimator import Answer
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.nets.outside import from_file
from marginbench.benchmarks.plugins import load_plugin
from marginbench.benchmarks.records.reader import read_record
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.training.loop import train
from marginbench.methods import MarginbenchError, create

DOORS = Path(__file__).parents[1] / "doors"
SHAPE = (1, 8, 8)
HEAD = "import torch\nfrom torch import nn\n\n"


@pytest.fixture
def suite_file(tiny: Path) -> Path:
    """A suite whose network stands in a file beside it."""
    shutil.copy(DOORS / "my_net.py", tiny.parent / "my_net.py")
    text = tiny.read_text().replace('name = "mlp"\nwidth = 16', 'file = "my_net.py:make"\nwidth = 4')
    tiny.write_text(text)
    return tiny


def with_network(network: Network) -> Suite:
    return small_suite().model_copy(update={"network": network})


@pytest.mark.parametrize("spec", ["ce", "arcface", "input_grad_reg", "all_layer_margin"])
def test_a_network_file_is_trained_like_ours(spec: str, suite_file: Path) -> None:
    suite = with_network(load_suite(str(suite_file)).network)
    trained = train(create(spec), suite, small_data(), 0)
    again = train(create(spec), suite, small_data(), 0)
    assert trained.losses == again.losses and trained.losses[-1] < trained.losses[0]
    assert [type(layer).__name__ for layer in trained.net.body] == ["TwoScales", "ReLU", "TwoScales", "ReLU", "Flatten"]


def test_certificates_see_its_layers(suite_file: Path) -> None:
    net = make_net(from_file(f"{suite_file.parent}/my_net.py:make"), 2, SHAPE, 3, torch.zeros(1), torch.ones(1)).eval()
    x = torch.rand(2, *SHAPE)
    answer = crown(a_query(net.decision_net(), x, net(x).argmax(1), "linf"))
    assert isinstance(answer, Answer) and answer.lower is not None and (answer.lower > 0).all()


def test_its_content_is_part_of_the_fingerprint(suite_file: Path) -> None:
    before = load_suite(str(suite_file))
    file = suite_file.parent / "my_net.py"
    assert before.model_dump(mode="json")["network"] == {
        "file": "my_net.py:make",
        "width": 4,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    file.write_text(file.read_text().replace("stride=2)", "stride=2, bias=False)"))
    after = load_suite(str(suite_file))
    assert before.fingerprint != after.fingerprint
    with pytest.raises(MarginbenchError, match=r"my_net\.py: the file has changed since the suite was read"):
        before.network.architecture()


def test_a_command_line_names_it_relative_to_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DOORS)
    suite = derive(load_suite("digits"), ["network.file=my_net.py:make"])
    assert (suite.network.label, suite.network.width) == ("my_net.py:make", 16)


@pytest.mark.parametrize("width", [None, 5])
def test_a_plugin_adds_a_network_by_name(width: int | None, tmp_path: Path) -> None:
    path = tmp_path / "my_networks.py"
    shutil.copy(DOORS / "my_networks.py", path)
    load_plugin(path)
    network = Network(name="wide_and_flat", width=width) if width else Network(name="wide_and_flat")
    trained = train(create("ce"), with_network(network), small_data(), 0)
    assert trained.net.head.in_features == (width or 32)
    source = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert network.model_dump() == {"name": "wide_and_flat", "width": width or 32, "source": source}
    assert Network(name="cnn").model_dump() == {"name": "cnn", "width": 16}


def test_run_all_takes_a_network_and_a_transform_of_ones_own(run: Run, suite_file: Path, tmp_path: Path) -> None:
    text = suite_file.read_text().replace("epochs = 2\n", 'epochs = 2\naugment = ["noise"]\n')
    suite_file.write_text(text)
    words = ("run-all", "--suite", suite_file, "--methods", "ce", "--out", tmp_path / "out", "--jobs", "1")
    code, out, err = run(*words, "--plugin", DOORS / "my_transform.py")
    assert code == 0 and "1 run done" in out, err
    code, out, _ = run(*words, "--plugin", DOORS / "my_transform.py")
    assert code == 0 and "0 runs done, 1 had a record already" in out
    record = read_record(next((tmp_path / "out" / "tiny").rglob("runs/*.json")))
    settings = record.suite.settings
    assert settings["network"]["file"] == "my_net.py:make" and settings["training"]["augment"]["noise"]["source"]


def test_a_plugin_cannot_take_a_built_in_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text((DOORS / "my_networks.py").read_text().replace('"wide_and_flat"', '"cnn"'))
    with pytest.raises(MarginbenchError, match=r"mine\.py.*the name 'cnn' is already taken by .*small\.py"):
        load_plugin(path)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def make(shape):\n    return 3", ["should return an nn.Module, not int"]),
        ("def make(shape):\n    return nn.Conv2d(shape[0], 4, 3)", ["[2, 4, 6, 6]", "flat features", "nn.Flatten"]),
        ("def make(shape):\n    return undefined", ["net.py, line 5", "NameError"]),
        ("def make(shape):\n    return nn.Sequential(nn.Flatten(), nn.Linear(3, 4))", ["net.py", "shapes cannot"]),
        (
            "class Noisy(nn.Flatten):\n    def forward(self, x):\n        return (x + torch.rand_like(x)).flatten(1)\n"
            "def make(shape):\n    return Noisy()",
            ["differ from call to call in eval mode"],
        ),
        (
            "class Mixing(nn.Flatten):\n    def forward(self, x):\n        return super().forward(x - x.mean(0))\n"
            "def make(shape):\n    return Mixing()",
            ["depend on the others of its batch"],
        ),
        (
            "class Cut(nn.Flatten):\n    def forward(self, x):\n        return super().forward(x).detach()\n"
            "def make(shape):\n    return Cut()",
            ["no gradient reaches the images"],
        ),
        (
            "class Step(nn.Flatten):\n    def forward(self, x):\n"
            "        return torch.heaviside(super().forward(x), torch.ones(1))\ndef make(shape):\n    return Step()",
            ["derivative for aten::heaviside", "take operations that have a derivative"],
        ),
        (
            "class Unused(nn.Flatten):\n    def __init__(self):\n        super().__init__()\n"
            "        self.extra = nn.Linear(2, 2)\ndef make(shape):\n    return Unused()",
            ["no gradient reaches extra.weight"],
        ),
        (
            "class Wild(nn.Flatten):\n    def forward(self, x):\n        x.data.mul_(2)\n        return x.flatten(1)\n"
            "def make(shape):\n    return Wild()",
            ["changes the images"],
        ),
        (
            "class Wild(nn.Flatten):\n    def forward(self, x):\n        return super().forward(x).log() / 0\n"
            "def make(shape):\n    return Wild()",
            ["should be finite float32"],
        ),
    ],
)
def test_a_body_that_breaks_the_contract_is_refused_by_name(body: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(HEAD + body + "\n")
    with pytest.raises(MarginbenchError) as error:
        make_net(from_file(f"{path}:make"), None, SHAPE, 3, torch.zeros(1), torch.ones(1))
    for word in ("net.py", *words):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ('file = "net.py:fixed"\nwidth = 4', ["width=4 has no effect", "net.py:fixed(shape)"]),
        ('file = "net.py:scaled"', ["has no default width"]),
        ('file = "net.py:odd"', ["net.py:odd(shape, depth)", "should be net.py:odd(shape)"]),
        ('file = "net.py:fixd"', ["did you mean 'fixed'"]),
        ('file = "none.py:make"', ["no such file"]),
        ('file = "net.py"', ["FILE.py:NAME"]),
        ('file = "net.py:fixed"\nname = "cnn"', ["either a name or a file"]),
        ("width = 4", ["either a name or a file"]),
        ('file = "net.py:fixed"\ndepth = 3', ["unknown key 'network.depth'"]),
    ],
)
def test_a_wrong_section_is_one_clear_line(network: str, words: list[str], tiny: Path) -> None:
    functions = ("fixed(shape)", "scaled(shape, width)", "odd(shape, depth)")
    (tiny.parent / "net.py").write_text("".join(f"def {text}:\n    pass\n\n" for text in functions))
    tiny.write_text(tiny.read_text().replace('name = "mlp"\nwidth = 16', network))
    with pytest.raises(MarginbenchError) as error:
        load_suite(str(tiny))
    assert str(error.value).startswith(f"suite {tiny}: network") or "unknown key" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_relus_stop_working_in_place(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(f"{HEAD}def make(shape):\n    return nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True))\n")
    net = make_net(from_file(f"{path}:make"), None, SHAPE, 3, torch.zeros(1), torch.ones(1))
    assert [layer.inplace for layer in net.body if isinstance(layer, nn.ReLU)] == [False]


def test_no_certificate_follows_a_branch_on_data(tmp_path: Path) -> None:
    """A trace holds for the branch that its example took: bounds on it might be wrong."""
    path = tmp_path / "net.py"
    path.write_text(
        f"{HEAD}class Branching(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = nn.Linear(64, 4)\n    def forward(self, x):\n"
        "        out = self.layer(x.flatten(1))\n        return out if x.sum() > 0 else -out\n"
        "def make(shape):\n    return nn.Sequential(Branching())\n"
    )
    suite = with_network(Network(file=f"{path}:make"))
    net = train(create("ce"), suite, small_data(), 0).net
    x = small_data().test.images(slice(2))
    answer = crown(a_query(net.decision_net(), x, net(x).argmax(1), "linf"))
    assert isinstance(answer, Answer) and answer.lower is None and "Branching" in answer.reason
