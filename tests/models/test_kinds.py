"""Models as strangers bring them: each is evaluated as what it is."""

import sys
import threading
import warnings
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from model_support import Following, called, images, mlp, with_compiled_forward
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from marginbench.benchmarks import evaluate_model
from marginbench.benchmarks.certificates._record import Unbounded
from marginbench.benchmarks.data.dataset import Dataset, Split
from marginbench.benchmarks.models.check import check_model
from marginbench.benchmarks.models.load import load_model
from marginbench.benchmarks.models.plain import Untraced, copied, ready
from marginbench.benchmarks.models.weights import load_weights
from marginbench.methods import MarginbenchError

pytestmark = pytest.mark.usefixtures("the_compiler_is_reset")


def on_hidden(change: Callable[..., Any], *words: Any) -> nn.Module:
    model = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older forms are deprecated
        change(model[1], *words)
        return called(model)


class Casting(nn.Module):
    """Logits in another type; the layers inside have it already, or get it from autocast."""

    def __init__(self, kind: torch.dtype, how: str) -> None:
        super().__init__()
        self.kind, self.how = kind, how
        self.layers = mlp().to(kind if how == "weights" else torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "weights":
            z: Tensor = self.layers(x.to(self.kind))
        elif self.how == "autocast":
            with torch.autocast("cpu", self.kind):
                z = self.layers(x)
        else:
            z = self.layers(x).to(self.kind)
        return z


class Mixed(nn.Module):
    """A body in float32, a head in float64."""

    def __init__(self) -> None:
        super().__init__()
        layers = mlp()
        self.body, self.head = layers[:3], layers[3].double()

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(self.body(x).double())
        return z


class Remembering(nn.Module):
    """Keeps what it computed, as attribution and distillation do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()
        self.seen: dict[str, list[Tensor]] = {"features": []}

    def forward(self, x: Tensor) -> Tensor:
        features = self.layers[:3](x)
        self.seen["features"] = [features]
        z: Tensor = self.layers[3](features)
        return z


class Deep(nn.Module):
    """A compiled part, and one that is spread over devices."""

    def __init__(self) -> None:
        super().__init__()
        layers = mlp()
        self.body = torch.compile(layers[:3], backend="eager")
        self.head = nn.DataParallel(layers[3])

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(self.body(x))
        return z


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(mlp())  # type: ignore[no-any-return]


def compiled_in_place() -> nn.Module:
    model = mlp()
    model.compile(backend="eager")
    return model


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return mlp()


class Hooked(nn.Module):
    """Keeps a feature by a closure, and another in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.kept = mlp(), {}
        kept = self.kept

        def keep(module: nn.Module, args: Any, out: Tensor) -> None:
            self.feature = out

        self.net[1].register_forward_hook(keep)
        self.net[2].register_forward_hook(lambda module, args, out: kept.update(v=out))

    def forward(self, x: Tensor) -> Tensor:
        self.net[:3](x)
        return self.net[3](self.feature.relu() / 2 + self.kept["v"] / 2)  # type: ignore[no-any-return]


KINDS: dict[str, Callable[[], nn.Module]] = {
    "float64 weights": lambda: mlp().double(),
    "float64 logits": lambda: Casting(torch.float64, "logits"),
    "float64 inside": lambda: Casting(torch.float64, "weights"),
    "bfloat16 weights": lambda: mlp().bfloat16(),
    "bfloat16 logits": lambda: Casting(torch.bfloat16, "logits"),
    "bfloat16 inside": lambda: Casting(torch.bfloat16, "weights"),
    "half logits": lambda: Casting(torch.float16, "logits"),
    "autocast": lambda: Casting(torch.bfloat16, "autocast"),
    "mixed": Mixed,
    "bfloat16, following": lambda: Following().bfloat16(),
    "bfloat16, masked": lambda: Following(mask=-1e4).bfloat16(),
    "half, following": lambda: Following().half(),
    "float64, following": lambda: Following().double(),
    "weight norm, old form": lambda: on_hidden(weight_norm),
    "weight norm": lambda: on_hidden(parametrizations.weight_norm),
    "spectral norm, old form": lambda: on_hidden(spectral_norm),
    "spectral norm": lambda: on_hidden(parametrizations.spectral_norm),
    "pruned": lambda: on_hidden(prune.l1_unstructured, "weight", 0.3),
    "orthogonal": lambda: on_hidden(parametrizations.orthogonal),
    "remembering": lambda: called(Remembering()),
    "TorchScript": scripted,
    "compiled": lambda: torch.compile(mlp(), backend="eager"),  # type: ignore[return-value]
    "compiled in place": compiled_in_place,
    "compiled forward": with_compiled_forward,
    "parts compiled": Deep,
    "DataParallel": lambda: nn.DataParallel(mlp()),
    "both": lambda: nn.DataParallel(torch.compile(mlp(), backend="eager")),  # type: ignore[arg-type]
    "inference mode": in_inference_mode,
    "hooks that are closures": Hooked,
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_evaluated(kind: str, tiny: Path) -> None:
    given = KINDS[kind]()
    given.eval()
    numbers = next(given.parameters()).dtype
    x = images()
    with torch.no_grad():
        wanted = given(x.to(numbers) if kind in ("float64 weights", "bfloat16 weights") else x).float()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    given.train()

    found = ready(copied(given, "model"), x, "model")
    with torch.no_grad():
        out = found(x)
    assert out.dtype == torch.float32
    rounded = {"bfloat16 weights", "bfloat16 logits", "bfloat16 inside", "autocast"}
    assert torch.allclose(out, wanted, atol=2e-2 if kind in rounded else 1e-5)
    casts = {
        "float64 logits",
        "float64 inside",
        "bfloat16 logits",
        "bfloat16 inside",
        "half logits",
        "autocast",
        "mixed",
        "bfloat16, following",
        "half, following",
        "bfloat16, masked",
    }
    assert isinstance(found, Untraced) == (kind in casts | {"TorchScript"})

    outcome = evaluate_model(given, suite=str(tiny), out=tiny.parent / "out", name="mine")
    assert outcome.record.error is None and outcome.arrays["upper_l2"].shape == (30,)
    assert given.training and given.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())
    certified = "lower_l2_crown" in outcome.arrays
    assert not (certified and kind in casts), "bounds are of float32 networks"
    assert certified or kind in casts | {"remembering", "TorchScript", "parts compiled"}


class Noisy(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.1 * torch.randn_like(weight)


def test_weights_that_are_drawn_in_each_call_are_not_frozen() -> None:
    given = on_hidden(lambda layer: parametrize.register_parametrization(layer, "weight", Noisy()))
    found = ready(copied(given, "model"), images(), "model")
    assert not torch.allclose(found(images()), found(images())), "doubts speak of it"


REASONS = {
    "bfloat16 inside": "the model computes in bfloat16, and bounds are for float32: give it without casts",
    "autocast": "the model computes in bfloat16, and bounds are for float32: give it without casts",
    "bfloat16, following": "the model computes in bfloat16, and bounds are for float32: give it without casts",
    "half logits": "the model computes in float16, and bounds are for float32: give it without casts",
    "TorchScript": "the model is TorchScript, into which bounds do not see: give the nn.Module",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_certificate_that_is_missing_has_a_reason(kind: str, tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = evaluate_model(KINDS[kind](), suite=str(tiny), out=tiny.parent / "out", name="mine")
    assert outcome.record.estimators["crown_l2"]["not_applicable"].startswith(REASONS[kind])
    assert "Traceback" not in capfd.readouterr().err


def test_nothing_that_records_a_model_sees_into_one_that_casts() -> None:
    found = ready(copied(KINDS["bfloat16 inside"](), "model"), images(), "model")
    for record in (make_fx(found), partial(torch.jit.trace, found), lambda x: torch.fx.symbolic_trace(found)):
        with pytest.raises(Unbounded, match="the model computes in bfloat16"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record(images())


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Late(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(10), nn.LazyBatchNorm1d())

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.layers(x)
        return z


class Listing(nn.Module):
    """Holds a base model for `torch.func` in a list, so that its weights are no parameters of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.bases = mlp(), [nn.Linear(64, 10, device="meta")]

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.layers(x) / len(self.bases)
        return z


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "lazy": (Late, "model mine: layers.1.weight has no values before the module is first called: load weights"),
    "meta": (lambda: mlp().to("meta"), "model mine: 1.weight is on the device meta, without values: load weights,"),
    "meta in a list": (
        Listing,
        r"model mine: bases\[0\].weight is on the device meta.* in no state dict: .*functional_call.* in a tuple",
    ),
    "lock": (Locked, "model mine: cannot be copied .TypeError: cannot pickle '_thread.lock' object.: keep locks"),
    "dict": (lambda: Returning(lambda z: {"logits": z}), "returns dict.*tensor of float logits"),
    "integers": (lambda: Returning(lambda z: z.argmax(1)), "returns torch.int64"),
}


class Returning(nn.Module):
    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layers, self.change = mlp(), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.layers(x))


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_in_one_line(kind: str, tiny: Path) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(MarginbenchError, match=message) as error:
        evaluate_model(make(), suite=str(tiny), out=tiny.parent / "out", name="mine")
    assert "\n" not in str(error.value)


def test_a_lazy_layer_takes_its_shape_from_the_weights(tiny: Path) -> None:
    finished = Late()
    finished(images())
    torch.save(finished.state_dict(), tiny.parent / "net.pt")
    outcome = evaluate_model(Late(), tiny.parent / "net.pt", suite=str(tiny), out=tiny.parent / "out")
    assert outcome.record.error is None and outcome.record.method == "Late"


def test_a_model_on_meta_gets_its_values_from_the_weights(tmp_path: Path) -> None:
    torch.save({name: tensor.double() for name, tensor in mlp().state_dict().items()}, tmp_path / "net.pt")
    with torch.device("meta"):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.LazyLinear(10))
    model.register_buffer("scale", torch.ones(2, device="meta"), persistent=False)
    load_weights(model, tmp_path / "net.pt")
    with pytest.raises(MarginbenchError, match="scale is on the device meta, without values, and in no state dict"):
        ready(model, images(), "model net")
    del model.scale
    assert torch.equal(ready(model, images(), "model net")(images()), mlp()(images()))


def test_a_torchscript_file_is_a_model(tiny: Path) -> None:
    path = tiny.parent / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(scripted(), path)
    outcome = evaluate_model(str(path), suite=str(tiny), out=tiny.parent / "out")
    plain = evaluate_model(mlp(), suite=str(tiny), out=tiny.parent / "out", name="plain")
    assert outcome.record.method == "net" and outcome.record.error is None
    assert outcome.arrays["answers_logits"] == pytest.approx(plain.arrays["answers_logits"], abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_frozen_torchscript_is_measured_as_what_was_frozen(tiny: Path) -> None:
    frozen, path = torch.jit.freeze(torch.jit.script(mlp().eval())), tiny.parent / "net.pt"
    torch.jit.save(torch.jit.optimize_for_inference(torch.jit.script(mlp().eval())), path)
    given: tuple[Any, ...] = (mlp(), frozen, str(path))
    outcomes = [evaluate_model(m, suite=str(tiny), out=tiny.parent / "out", name="m", fresh=True) for m in given]
    assert not any(outcome.record.error for outcome in outcomes)
    for name in ("answers_logits", "upper_l2"):
        plain, *others = (outcome.arrays[name] for outcome in outcomes)
        assert all(found == pytest.approx(plain, abs=1e-5) for found in others)
    assert not hasattr(frozen, "training"), "the model is left as it was"


def test_an_onnx_file_is_a_model_where_the_package_is(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is optional: a stand-in of its one function that is called."""
    path = tiny.parent / "net.onnx"
    path.write_bytes(b"a graph")
    stand_in = ModuleType("onnx2torch")
    stand_in.__spec__ = ModuleSpec("onnx2torch", None)
    stand_in.convert = lambda file: mlp() if Path(file) == path else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnx2torch", stand_in)
    model, _ = load_model(str(path))
    assert torch.equal(model(images()), mlp()(images()))
    stand_in.convert = F.relu  # type: ignore[attr-defined]
    with pytest.raises(
        MarginbenchError, match=r"model .*net\.onnx: cannot be read \(TypeError.*\): export it with opset_version=17"
    ):
        load_model(str(path))
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(MarginbenchError, match=r"net\.onnx: needs a package: .*\[onnx\].*; or give FILE\.py"):
        load_model(str(path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("net.pt", b"", "is empty"),
        ("net.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer.*git lfs pull"),
        ("net.pt", b"\n<!DOCTYPE html><html>", "is a web page"),
        ("net.pt", b"PK\x03\x04 and no more", "is cut off"),
        ("net.h5", b"\x89HDF", r"neither TorchScript nor ONNX: write FILE\.py:FACTORY"),
    ],
)
def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MarginbenchError, match=f"model .*{name}: .*{words}") as error:
        load_model(f"{tmp_path / name}")
    assert "\n" not in str(error.value)
    with pytest.raises(MarginbenchError, match="no such file"):
        load_model(f"{tmp_path}/none.pt")


def test_one_logit_for_two_classes_is_refused_with_what_to_return() -> None:
    split = Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), 255)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).eval()
    with pytest.raises(
        MarginbenchError, match=r"gives 1 logit; .* 2 classes: .* return torch\.cat\(\[0 \* z, z\], 1\)$"
    ):
        check_model(net, Dataset(split, split, split, 2, "two"), "model net")
