"""Networks for others: a bundle that nothing is executed from, and an ONNX graph that agrees."""

import importlib.util
import math
import tomllib
from pathlib import Path

import pytest
import torch
from support import Run
from torch import Tensor, nn

from marginbench.benchmarks import evaluate_model, load_network, run_all
from marginbench.benchmarks.models.load import load_model
from marginbench.benchmarks.suites.network import Network
from marginbench.benchmarks.training.blueprint import Blueprint, task_of
from marginbench.benchmarks.training.export import AGREE, difference, export
from marginbench.benchmarks.training.onnx_graph import to_onnx
from marginbench.methods import MarginbenchError, create

METHODS = ["arcface(s=16,m=0.1)", "pgd_at(steps=1)", "quantise"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conftest import TINY

    folder = tmp_path_factory.mktemp("exported")
    (folder / "tiny.toml").write_text(TINY)
    run_all(str(folder / "tiny.toml"), METHODS, 1, "cpu", folder, only="train")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_bundle_is_all_that_others_need(folder: Path, tmp_path: Path, run: Run, method: str) -> None:
    paths = (folder / "networks").glob("*.json")
    path, info = next((path, info) for path in paths if (info := load_network(path)[1]).method == method)
    code, out, _ = run("export", path.stem[:12], "--out", folder, "-o", tmp_path / "mine.onnx")
    assert code == 0 and "mine.safetensors" in out and "mine.toml" in out
    described = tomllib.loads((tmp_path / "mine.toml").read_text())
    assert (described["method"], described["recipe"]["network"]["name"]) == (method, "mlp")
    (net, _), (again, told) = load_network(path), load_network(tmp_path / "mine.toml")
    assert told.identity == info.identity and told.sha256 == info.sha256
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(net(x), again(x)) and torch.equal(net(x), load_network(tmp_path / "mine.safetensors")[0](x))
    if importlib.util.find_spec("onnxscript") is None:
        assert "no .onnx" in out and "marginbench[onnx]" in out
    else:
        assert (tmp_path / "mine.onnx").is_file()


def test_damaged_bundles(folder: Path, tmp_path: Path, run: Run) -> None:
    path = next((folder / "networks").glob("*.json"))
    assert run("export", path, "-o", tmp_path / "net")[0] == 0
    text = (tmp_path / "net.toml").read_text()
    for changed, words in (
        (f"{text}\n= 1", "not valid TOML"),
        (text.replace("repetition = 0", 'repetition = "none"'), "repetition"),
        (text.replace('method = "', 'method = "no_such_'), "unknown method"),
        (text.replace('sha256 = "', 'sha256 = "0'), "is not the file that was written"),
    ):
        assert changed != text
        (tmp_path / "net.toml").write_text(changed)
        with pytest.raises(MarginbenchError, match=words):
            load_network(tmp_path / "net.toml")
    code, _, err = run("export", "nothing", "--out", folder, "-o", tmp_path / "net")
    assert code == 2 and "no such id" in err


def test_onnx_agrees_to_rounding(folder: Path, tmp_path: Path, run: Run) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    for path in (folder / "networks").glob("*.json"):
        code, out, _ = run("export", path, "-o", tmp_path / path.stem)
        assert code == 0 and "logits agree with those of ONNX Runtime" in out, out


@pytest.mark.filterwarnings("ignore")  # of the package
def test_an_exported_network_is_evaluated_as_the_network(folder: Path, tmp_path: Path) -> None:
    """One with normalised features, of which readers know no norm."""
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    pytest.importorskip("onnx2torch", reason="the extra onnx is not installed")
    path = next(p for p in (folder / "networks").glob("*.json") if load_network(p)[1].method.startswith("arcface"))
    graph = export(str(path), tmp_path / "net").files[-1]
    assert graph.suffix == ".onnx"
    models: dict[str, nn.Module | str] = {"ours": load_network(path)[0], "theirs": str(graph)}
    suite, out = str(folder / "tiny.toml"), tmp_path / "out"
    ours, theirs = (evaluate_model(model, suite=suite, out=out, name=name) for name, model in models.items())
    assert ours.record.error is None and theirs.record.error is None
    assert {"output_margin", "upper_l2", "lower_l2", "lower_linf_crown"} <= ours.arrays.keys() == theirs.arrays.keys()
    for name, array in ours.arrays.items():
        assert theirs.arrays[name] == pytest.approx(array, abs=1e-4, nan_ok=True), name


@pytest.mark.parametrize(
    ("name", "shape", "method"),
    [
        ("cnn", (1, 8, 8), "arcface"),
        ("cnn", (1, 8, 8), "lmt"),
        ("resnet20", (3, 32, 32), "ce"),
        ("vgg16_bn", (3, 32, 32), "prune_magnitude"),
        ("mobilenet_v2", (3, 32, 32), "am_softmax"),
    ],
)
def test_onnx_of_other_networks(name: str, shape: tuple[int, int, int], method: str, tmp_path: Path) -> None:
    """Heads on normalised features and layers of known slope too, on images of another number than was traced."""
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    row, start = create(method), torch.full((shape[0],), 0.5)
    task = task_of(row, shape, (10,) * 10, {"l2": 0.5, "linf": 0.1})
    net = Blueprint(row, Network(name=name, width=4), task, "test", 0).build(start, 0.5 * start, torch.device("cpu"))
    net(torch.rand(64, *shape))  # gives batch normalisation statistics of its own
    graph, problem = to_onnx(net.eval(), torch.rand(2, *shape))
    assert graph is not None, problem
    x = torch.rand(5, *shape)
    apart = difference(graph, net, x)
    assert apart is not None and apart <= AGREE
    (tmp_path / "net.onnx").write_bytes(graph)
    if importlib.util.find_spec("onnx2torch") is not None:
        with torch.no_grad():
            assert torch.allclose(load_model(f"{tmp_path / 'net.onnx'}")[0].eval()(x), net(x), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        next(net.parameters()).mul_(1.1)
    apart = difference(graph, net, x)
    assert apart is not None and apart > AGREE, "the comparison would see another network"


class Reduced(nn.Module):
    """Means and norms of all orders."""

    def forward(self, x: Tensor) -> Tensor:
        norms = [torch.linalg.vector_norm(x, order, dim=(-1, 2)) for order in (1, 2, 3, math.inf)]
        return torch.cat([*norms, x.mean((2, -1)), x.mean(-1, keepdim=True).flatten(1)], 1)


def test_means_and_norms_are_what_they_were() -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    net = Reduced().eval()
    graph, problem = to_onnx(net, torch.rand(2, 3, 4, 5))  # type: ignore[arg-type]
    assert graph is not None, problem
    apart = difference(graph, net, torch.rand(5, 3, 4, 5) - 0.5)  # type: ignore[arg-type]
    assert apart is not None and apart <= AGREE
