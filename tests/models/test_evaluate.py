"""`marginbench evaluate`: a model from a file stands in the tables, with the numbers that its network has."""

import io
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from support import Run, a_query
from torch import Tensor, nn

from marginbench.benchmarks import evaluate_model
from marginbench.benchmarks.certificates.crown import crown
from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.machine.seeds import seeded
from marginbench.benchmarks.models.adapter import adapt
from marginbench.benchmarks.models.load import fingerprint, load_model, load_weights
from marginbench.benchmarks.nets.networks import make_net
from marginbench.benchmarks.records.reader import read_arrays
from marginbench.benchmarks.runs.execute import measure
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import NORMS, MarginbenchError, Net, Normalise, NotApplicable

MODELS = '''
import torch
from torch import nn

import neighbour


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, neighbour.WIDTH), nn.ReLU()), nn.Linear(16, 10))


class Branches(nn.Module):
    """Decides on the data, as no bound can follow."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        if x.sum() < -1:
            return -self.net(x)
        return self.net(x)


class Noisy(Branches):
    def forward(self, x):
        return self.net(x) + torch.rand(10)


class Chain(Branches):
    """Code of its own that a trace can follow."""

    def forward(self, x):
        for layer in self.net:
            x = layer(x)
        return x


def softmax():
    return nn.Sequential(mlp(), nn.Softmax(1))


def raises():
    raise ValueError("no\\nluck")


def wants(width):
    return mlp()


def number():
    return 3


def image_out():
    return nn.Identity()


def seven():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


def large():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


class Pair(Branches):
    def forward(self, x):
        return self.net(x), x


class Squeezed(Branches):
    def forward(self, x):
        return self.net(x).squeeze()


class Steps(Branches):
    def forward(self, x):
        return self.net(x).detach()


CONSTANT = 1
'''


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models.py and, in net.pt, a state dict of `mlp` trained for some steps on (x - 0.3) / 0.4."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "models.py").write_text(MODELS)
    (folder / "neighbour.py").write_text("WIDTH = 16\n")
    model, _ = load_model(f"{folder / 'models.py'}:mlp")
    train = load_data("digits", 200, folder).train
    x, y = (train.images(slice(None)) - 0.3) / 0.4, train.y
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    torch.save(model.state_dict(), folder / "net.pt")
    return folder


def words_for(trained: Path, tiny: Path, factory: str, *more: str | Path) -> tuple[str | Path, ...]:
    out = tiny.parent / "out"
    return ("evaluate", "--model", f"{trained / 'models.py'}:{factory}", "--suite", tiny, "--out", out, *more)


def test_a_model_stands_beside_the_methods_and_is_not_measured_twice(run: Run, trained: Path, tiny: Path) -> None:
    out = tiny.parent / "out"
    assert run("run-all", "--suite", tiny, "--out", out, "--methods", "ce")[0] == 0
    words = words_for(trained, tiny, "mlp", "--weights", trained / "net.pt", "--mean", "0.3", "--std", "0.4")
    code, text, _ = run(*words)
    assert code == 0 and "| ce " in text and "| mlp " in text and "mlp evaluated in" in text
    table = pd.read_csv(out / "tiny" / "leaderboard.csv").set_index("method")
    assert list(table["n"]) == [1, 1] and pd.isna(table.loc["mlp", "cost"]) and table.loc["ce", "cost"] == 1
    assert table.loc["mlp", "clean_accuracy"] > 0.7 and table.loc["mlp", "margin_lower_l2"] > 0.05
    assert table.loc["mlp", "feature_margin"] > 0 and pd.isna(table.loc["mlp", "doubts"])

    files = {p: p.stat().st_mtime_ns for p in (out / "tiny" / "runs").iterdir()}
    code, text, _ = run(*words)
    assert code == 0 and "mlp had a record already" in text
    assert files == {p: p.stat().st_mtime_ns for p in (out / "tiny" / "runs").iterdir()}
    code, text, _ = run(*words, "--fresh")
    assert code == 0 and "mlp evaluated in" in text
    assert len(list((out / "tiny" / "runs").glob("*.json"))) == 2

    code, text, _ = run("run-all", "--suite", tiny, "--out", out, "--methods", "ce")
    assert code == 0 and "| mlp " in text  # the main job keeps the row
    assert run("claims", out)[0] == 0
    code, text, _ = run("compare", "mlp", "ce", out)
    assert code == 0 and "mlp minus ce" in text and "One pair of networks" in text


def test_the_numbers_are_those_of_the_network(trained: Path, tiny: Path) -> None:
    """The same weights in a `Net` of marginbench: same margins, and radii in pixels despite the normalisation."""
    outcome = evaluate_model(
        f"{trained / 'models.py'}:mlp",
        trained / "net.pt",
        suite=str(tiny),
        out=tiny.parent / "a",
        mean=[0.3],
        std=[0.4],
    )
    model, _ = load_model(f"{trained / 'models.py'}:mlp")
    load_weights(model, trained / "net.pt")
    assert isinstance(model, nn.Sequential) and isinstance(model[1], nn.Sequential)
    normalise = Normalise(torch.tensor([0.3]), torch.tensor([0.4]))
    net = Net(normalise, nn.Sequential(model[0], *model[1]), model[2])
    suite = load_suite(str(tiny))
    data = load_data("digits", 200, tiny.parent)
    _, arrays = measure(net, lambda *_: NotApplicable("none"), data, suite, "mlp", 0)
    assert set(arrays) == set(outcome.arrays)
    for name, array in arrays.items():
        np.testing.assert_allclose(array, outcome.arrays[name], rtol=1e-4, atol=1e-5, err_msg=name)
    folded = make_net("linear", 1, (1, 8, 8), 10, torch.tensor([0.3]), torch.tensor([0.4]))
    assert fingerprint(folded) != fingerprint(net)


def test_a_changed_model_makes_its_row_stale(run: Run, trained: Path, tiny: Path) -> None:
    words = words_for(trained, tiny, "mlp", "--weights", trained / "net.pt")
    assert run(*words)[0] == 0
    state = torch.load(trained / "net.pt", weights_only=True)
    torch.save({"epoch": 3, "state_dict": {k: 1.01 * v for k, v in state.items()}}, tiny.parent / "other.pt")
    code, text, _ = run(*words[:-1], tiny.parent / "other.pt")
    assert code == 0 and text.count("| mlp ") == 2 and text.count("stale") == 1
    code, text, _ = run(*words, "--name", "mine-2.0")
    assert code == 0 and "| mine-2.0 " in text
    records = [json.loads(p.read_text()) for p in (tiny.parent / "out" / "tiny" / "runs").glob("*.json")]
    assert (
        len({r["identity"]["weights"] for r in records}) == 2 and len({r["identity"]["source"] for r in records}) == 1
    )


def test_a_module_that_bounds_cannot_follow_says_so(run: Run, trained: Path, tiny: Path) -> None:
    code, text, _ = run(*words_for(trained, tiny, "Branches"))
    assert code == 0
    assert "Not applicable to Branches: crown_l2: auto-LiRPA: TraceError: symbolically traced variables" in text
    row = next(line for line in text.splitlines() if line.startswith("| Branches"))
    assert row.count("—") == 5  # two certified shares, two lower margins, the cost
    table = pd.read_csv(tiny.parent / "out" / "tiny" / "leaderboard.csv").set_index("method")
    assert table.loc["Branches", "margin_upper_l2"] > 0


def test_code_of_its_own_is_certified_where_a_trace_is_the_network(trained: Path, tiny: Path) -> None:
    options = {"weights": None, "suite": str(tiny), "out": tiny.parent / "out"}
    by_trace = evaluate_model(f"{trained / 'models.py'}:Chain", **options)  # type: ignore[arg-type]
    by_layer = evaluate_model(f"{trained / 'models.py'}:mlp", **options)  # type: ignore[arg-type]
    assert not by_trace.record.doubts.get("contradiction")
    for norm in ("l2", "linf"):
        traced, folded = (o.arrays[f"lower_{norm}"] for o in (by_trace, by_layer))
        assert (traced > 0).any() and (traced <= 1.1 * folded + 1e-6).all()


def viewing() -> nn.Module:
    class Viewing(nn.Module):
        """Writes into its input, and views what a convolution gives."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.max_pool2d(self.conv(x.sub_(0.5)), 2)
            z: Tensor = self.linear(x.view(len(x), -1))
            return z

    return Viewing()


def test_the_layout_of_the_images_is_that_of_a_new_tensor(tiny: Path) -> None:
    outcome = evaluate_model(viewing(), suite=str(tiny), out=tiny.parent / "out")
    assert outcome.record.error is None and outcome.arrays["upper_l2"].shape == (30,)


def test_randomness_is_seen(run: Run, trained: Path, tiny: Path) -> None:
    code, text, _ = run(*words_for(trained, tiny, "Noisy"))
    assert code == 0 and "batch_dependence 1/1" in text


def test_other_data_are_another_suite(run: Run, trained: Path, tiny: Path) -> None:
    digits = load_data("digits", 200, tiny.parent)
    arrays = {
        f"{letter}_{part}": values
        for part in ("train", "test")
        for split in [getattr(digits, part)]
        for letter, values in (("x", (15 * split.x).numpy()[:400, 0]), ("y", split.y.numpy()[:400]))
    }
    np.savez(tiny.parent / "my data.npz", **arrays)
    code, text, _ = run(*words_for(trained, tiny, "mlp", "--data", tiny.parent / "my data.npz"))
    assert code == 0 and "## tiny-my_data: my data.npz, with radii" in text
    assert (tiny.parent / "out" / "tiny-my_data" / "leaderboard.md").is_file()
    code, _, _ = run(*words_for(trained, tiny, "mlp", "--data", "digits"))
    assert code == 0 and (tiny.parent / "out" / "tiny" / "leaderboard.md").is_file()


def test_a_module_in_a_notebook_stays_as_it_is(tiny: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).double().train()
    outcome = evaluate_model(model, suite=str(tiny), out=tiny.parent / "out", name="mine")
    assert model.training and model[2].weight.requires_grad and model[2].weight.dtype == torch.float64
    assert outcome.record.method == "mine" and outcome.arrays["upper_l2"].shape == (30,)
    assert outcome.arrays["upper_l2"].tolist() == read_arrays(outcome.path)["upper_l2"].tolist()
    again = evaluate_model(model, suite=str(tiny), out=tiny.parent / "out", name="mine")
    assert again.resumed and not outcome.resumed


class Late(nn.Module):
    """Breaks where only an attack comes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) not in (1, 5, 64):
            raise RuntimeError("out of luck")
        z: Tensor = self.linear(x.flatten(1))
        return z


def test_a_failure_in_the_evaluation_is_a_row_that_is_tried_again(tiny: Path) -> None:
    for _ in range(2):
        outcome = evaluate_model(Late(), suite=str(tiny), out=tiny.parent / "out")
        assert outcome.record.status == "failed" and not outcome.resumed
        assert "out of luck" in (outcome.record.error or "") and outcome.arrays == {}


WRONG = [
    (("none.py:mlp",), ["none.py", "no such file"]),
    (("models.py",), ["FILE.py:NAME"]),
    (("models.py:mlpp",), ["'mlpp'", "did you mean 'mlp'"]),
    (("models.py:CONSTANT",), ["'CONSTANT'", "known: "]),
    (("broken.py:mlp",), ["broken.py, line 1"]),
    (("fails.py:mlp",), ["fails.py", "ModuleNotFoundError: No module named 'nowhere'"]),
    (("models.py:raises",), ["models.py, line ", "ValueError: no"]),
    (("models.py:wants",), ["TypeError: wants() missing", "'width'"]),
    (("models.py:number",), ["returns int, not a torch.nn.Module"]),
    (("models.py:image_out",), ["[1, 1, 8, 8] give [1, 1, 8, 8]", "[1, 10]"]),
    (("models.py:Squeezed",), ["[1, 1, 8, 8] give [10]"]),
    (("models.py:Pair",), ["returns tuple", "[B, K]"]),
    (("models.py:seven",), ["7 logits", "10 classes"]),
    (("models.py:large",), ["fails on images [1, 1, 8, 8]", "RuntimeError"]),
    (("models.py:Steps",), ["no gradient"]),
    (("models.py:softmax",), ["probabilities", "before softmax"]),
    (("models.py:mlp", "--weights", "none.pt"), ["none.pt", "no such file"]),
    (("models.py:mlp", "--weights", "whole.pt"), ["whole.pt", "refused", "state_dict()"]),
    (("models.py:mlp", "--weights", "code.pt"), ["code.pt", "refused", "Unsupported global: GLOBAL exec"]),
    (("models.py:mlp", "--weights", "garbage.pt"), ["garbage.pt"]),
    (("models.py:mlp", "--weights", "list.pt"), ["list.pt", "no tensors by name"]),
    (("models.py:mlp", "--weights", "keys.pt"), ["no key '2.weight'", "unexpected key '3.weight' (the first of 2)"]),
    (("models.py:mlp", "--weights", "shape.pt"), ["shape.pt", "2.weight"]),
    (("models.py:mlp", "--weights", "net.safetensors"), ["pip install safetensors"]),
    (("models.py:mlp", "--mean", "0.3"), ["--mean 0.3: give mean and std"]),
    (("models.py:mlp", "--mean", "a", "--std", "1"), ["--mean a:"]),
    (("models.py:mlp", "--mean", "0,0,0", "--std", "1"), ["--mean 0,0,0", "1 channels"]),
    (("models.py:mlp", "--mean", "0", "--std", "0"), ["--std 0"]),
    (("models.py:mlp", "--data", "mnis"), ["'mnis'", "did you mean 'mnist'"]),
    (("models.py:mlp", "--data", "mnist"), ["'mnist'", "mnist.npz", "no network", "data_dir"]),
    (("models.py:mlp", "--data", "none.npz"), ["none.npz", "no such data file"]),
    (("models.py:mlp", "--suite", "digit"), ["did you mean 'digits'"]),
    (("models.py:mlp", "--name", "ce"), ["--name ce"]),
    (("models.py:mlp", "--name", "a b"), ["--name a b:"]),
    (("models.py:mlp", "--out", "/dev/null/x"), ["/dev/null/x"]),
]


class Exec:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code of a pickle ran')",)


@pytest.fixture(scope="module")
def wrong(trained: Path) -> Path:
    """The folder of `trained` with broken files beside."""
    model, _ = load_model(f"{trained / 'models.py'}:mlp")
    state = model.state_dict()
    (trained / "broken.py").write_text("def mlp(:\n")
    (trained / "fails.py").write_text("import nowhere\n")
    torch.save(model, trained / "whole.pt")
    torch.save({"net": Exec()}, trained / "code.pt")
    torch.save([1, 2], trained / "list.pt")
    (trained / "garbage.pt").write_bytes(b"no weights at all")
    (trained / "net.safetensors").write_bytes(b"")
    torch.save({key.replace("2.", "3."): value for key, value in state.items()}, trained / "keys.pt")
    torch.save({**state, "2.weight": torch.zeros(10, 17)}, trained / "shape.pt")
    return trained


@pytest.mark.parametrize(("words", "expected"), WRONG, ids=" ".join)
def test_wrong_input_gives_one_line_and_exit_code_2(
    run: Run,
    wrong: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    expected: list[str],
) -> None:
    monkeypatch.chdir(wrong)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    code, out, err = run("evaluate", "--suite", tiny, "--out", tiny.parent / "out", "--model", *words)
    assert code == 2 and out == "" and err.count("\n") == 1
    for word in expected:
        assert word in err
    assert not list(tiny.parent.rglob("*.json"))


def test_safetensors_are_read_where_the_package_is(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is optional: a stand-in of its one function that is called."""
    path = tmp_path / "net.safetensors"
    path.write_bytes((trained / "net.pt").read_bytes())
    package, stand_in = ModuleType("safetensors"), ModuleType("safetensors.torch")
    package.torch = stand_in  # type: ignore[attr-defined]
    stand_in.load_file = lambda file: torch.load(io.BytesIO(file.read_bytes()))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "safetensors", package)
    monkeypatch.setitem(sys.modules, "safetensors.torch", stand_in)
    models = [load_model(f"{trained / 'models.py'}:mlp")[0] for _ in range(3)]
    assert fingerprint(models[0]) == fingerprint(models[2]), "a factory draws the same weights each time"
    load_weights(models[0], path)
    load_weights(models[1], trained / "net.pt")
    assert fingerprint(models[0]) == fingerprint(models[1]) != fingerprint(models[2])


class Doubling(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = 2 * super().forward(x)
        return out


def test_layers_are_taken_apart_only_where_that_is_the_same() -> None:
    x = torch.rand(3, 1, 4, 4)
    relu = nn.ReLU()
    first, second, last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
    shared = nn.Sequential(nn.Flatten(), nn.Sequential(first, relu, second, relu), last).eval()
    net = adapt(shared, nn.Identity(), x)
    assert len(net.body) == 6 and net.head is last
    assert torch.equal(net(x), shared(x)) and net.features(x).shape == (3, 16)
    for opaque in (Doubling(nn.Flatten(), last), nn.Sequential(Doubling(nn.Flatten(), last))):
        net = adapt(opaque.eval(), nn.Identity(), x)
        assert len(net.body) == 2 and torch.equal(net(x), 2 * last(x.flatten(1)))
    hooked = nn.Sequential(nn.Flatten(), last).eval()
    hooked.register_forward_hook(lambda module, inputs, out: 3 * out)
    assert torch.allclose(adapt(hooked, nn.Identity(), x)(x), 3 * last(x.flatten(1)))
    own = make_net("mlp", 4, (1, 4, 4), 3, torch.tensor([0.3]), torch.tensor([0.4])).eval()
    net = adapt(own, nn.Identity(), x)
    assert net.head is own.head and torch.allclose(net(x), own(x))


def test_bounds_follow_batch_norm_and_views() -> None:
    """auto-LiRPA 0.3 takes another function for batch norm, and keeps the batch of `view`: both are rewritten."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.relu(self.norm(self.conv(x)))
            z: Tensor = self.linear((x + x).view(x.size(0), -1))
            return z

    with seeded(torch.device("cpu"), "test"):
        x = torch.rand(5, 1, 4, 4)
        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3)
        models = [Block(), nn.Sequential(*layers)]
        for model in models:
            for norm in (layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)):
                norm.running_mean.normal_()  # type: ignore[union-attr]
                norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    for model in models:
        net = adapt(model.eval().requires_grad_(False), nn.Identity(), x)
        assert torch.allclose(net(x), model(x), atol=1e-6)
        for norm_name in NORMS:
            y = net(x).argmax(1)
            radius = crown(a_query(net.decision_net(), x, y, norm_name)).lower
            assert radius is not None and (radius > 0).any()
            direction = torch.randn(200, *x.shape).sign()
            size = radius.view(-1, 1, 1, 1) / (4.0 if norm_name == "l2" else 1.0)
            moved = (x + size * direction).clamp(0, 1)
            assert (model(moved.flatten(0, 1)).argmax(1).view(200, -1) == y).all()


def test_a_broken_rule_is_named_in_python_too(tiny: Path) -> None:
    with pytest.raises(MarginbenchError, match="model Linear: fails on images"):
        evaluate_model(nn.Linear(3, 10), suite=str(tiny), out=tiny.parent / "out")


def test_help_teaches(run: Run) -> None:
    code, text, _ = run("evaluate", "--help")
    assert (
        code == 0 and "nn.Sequential(nn.Flatten(), nn.Linear(64, 10))" in " ".join(text.split()) and "--weights" in text
    )
    code, text, _ = run("--help")
    assert code == 0 and "evaluate" in text and "compare" in text
