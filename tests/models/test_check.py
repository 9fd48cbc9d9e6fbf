"""Wrong models, weights and options are refused in one line."""

import sys
from pathlib import Path

import pytest
import torch
from data_support import save_images
from support import Run
from torch import nn

from marginbench.benchmarks import evaluate_model
from marginbench.benchmarks.models.load import load_model
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError

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
    (("models.py:twelve",), ["12 logits", "10 classes: return the logits of these alone"]),
    (("models.py:large",), ["fails on images [1, 1, 8, 8]", "RuntimeError"]),
    (("models.py:Steps",), ["no gradient"]),
    (("models.py:Apart",), ["no gradient"]),
    (("models.py:Heaviside",), ["derivative for aten::heaviside is not implemented", "an operation that has a deriv"]),
    (("models.py:Weak",), ["reaches back to the model that was copied (feature)", "a hook"]),
    (("models.py:weak_reads",), ["reaches back to the model that was copied (scale)", "a hook"]),
    (("models.py:softmax",), ["probabilities", "sums to 1", "before softmax"]),
    (("models.py:Percent",), ["probabilities", "sums to 100", "before softmax"]),
    (("models.py:Sigmoids",), ["probabilities", "lies in [0, 1]", "before softmax, sigmoid"]),
    (("models.py:mlp", "--weights", "none.pt"), ["none.pt", "no such file"]),
    (("models.py:mlp", "--weights", "whole.pt"), ["whole.pt", "refused", "state_dict()"]),
    (("models.py:mlp", "--weights", "code.pt"), ["code.pt", "refused", "Unsupported global: GLOBAL"]),
    (("models.py:mlp", "--weights", "garbage.pt"), ["garbage.pt"]),
    (("models.py:mlp", "--weights", "list.pt"), ["list.pt", "holds a list, and no single state dict"]),
    (("models.py:mlp", "--weights", "keys.pt"), ["no key '2.weight', '2.bias'", "unexpected key '3.weight', '3.bias'"]),
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
    (trained / "net.safetensors").write_bytes(bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}")
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


def test_a_broken_rule_is_named_in_python_too(tiny: Path) -> None:
    with pytest.raises(MarginbenchError, match="model Linear: fails on images"):
        evaluate_model(nn.Linear(3, 10), suite=str(tiny), out=tiny.parent / "out")


@pytest.mark.parametrize(
    ("settings", "shape", "files"),
    [((), [1, 3, 8, 8], "8x8"), (("data.size=12",), [1, 3, 12, 12], "8x8")],
)
def test_images_that_do_not_fit_the_model_are_named_with_their_files(
    tiny: Path, tmp_path: Path, settings: tuple[str, ...], shape: list[int], files: str
) -> None:
    save_images(tmp_path / "flowers", {str(name): 30 for name in range(10)}, (8, 8))
    net = nn.Sequential(nn.Flatten(), nn.Linear(27, 10))
    with pytest.raises(MarginbenchError) as caught:
        evaluate_model(net, data=str(tmp_path / "flowers"), suite=str(tiny), out=tmp_path / "out", set=settings)
    words = f"fails on images {shape}, of files of {files} pixels (--set data.size=N scales them to NxN): "
    assert words in str(caught.value)


def test_what_is_no_module_is_named(tiny: Path) -> None:
    with pytest.raises(ParameterError, match=r"model='function': should be FILE\.py:FACTORY or a torch\.nn\.Module"):
        evaluate_model(lambda x: x, suite=str(tiny), out=tiny.parent / "out")  # type: ignore[arg-type]
    with pytest.raises(MarginbenchError, match=r"none\.pt: no such file"):
        evaluate_model(tiny.parent / "none.pt", suite=str(tiny), out=tiny.parent / "out")
