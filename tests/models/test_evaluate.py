"""`marginbench evaluate`: a model from a file stands in the tables, with the numbers that its network has."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support import Run
from torch import Tensor, nn

from marginbench.benchmarks import evaluate_model
from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.models import evaluate
from marginbench.benchmarks.models.load import fingerprint, load_model
from marginbench.benchmarks.models.weights import load_weights
from marginbench.benchmarks.nets.make import make_net
from marginbench.benchmarks.records.reader import read_arrays
from marginbench.benchmarks.runs.measure import measure
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.methods import Net, Normalise, NotApplicable
from marginbench.methods.errors import ParameterError

NORMALISED: dict[str, Any] = {"mean": [0.3], "std": [0.4]}


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
    assert code == 0 and "mlp minus ce" in text and "too few seeds" in text


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
    answers = {name for name in outcome.arrays if name.startswith("answers_")}
    assert set(arrays) == set(outcome.arrays) - answers and len(answers) == 4
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
    assert code == 0 and text.count("| mlp ") == 2 and text.count("| stale ") == text.count("- stale: ") == 1
    code, text, _ = run(*words, "--name", "mine-2.0")
    assert code == 0 and "| mine-2.0 " in text
    records = [json.loads(p.read_text()) for p in (tiny.parent / "out" / "tiny" / "runs").glob("*.json")]
    assert (
        len({r["identity"]["weights"] for r in records}) == 2 and len({r["identity"]["source"] for r in records}) == 1
    )


def test_a_module_that_bounds_cannot_follow_says_so(run: Run, trained: Path, tiny: Path) -> None:
    code, text, _ = run(*words_for(trained, tiny, "Branches"))
    assert code == 0
    assert "Not applicable to Branches: crown_l2: the code of Branches decides by the values in the image" in text
    row = next(line for line in text.splitlines() if line.startswith("| Branches"))
    assert row.count("—") == 5  # two certified shares, two lower margins, the cost
    table = pd.read_csv(tiny.parent / "out" / "tiny" / "leaderboard.csv").set_index("method")
    assert table.loc["Branches", "margin_upper_l2"] > 0


def test_code_of_its_own_is_certified_as_its_layers_are(trained: Path, tiny: Path) -> None:
    """The commonest model of all has the radii of the same layers in an nn.Sequential, and no doubt."""
    chain, mlp = (
        evaluate_model(
            f"{trained / 'models.py'}:{name}", trained / f"{name}.pt", suite=str(tiny), out=tiny.parent, **NORMALISED
        )
        for name in ("Chain", "mlp")
    )
    assert chain.record.doubts == mlp.record.doubts and "not_confirmed" not in chain.record.doubts
    assert not any("unchecked" in entry for entry in chain.record.estimators.values())
    assert set(chain.arrays) == set(mlp.arrays) and "feature_margin" in chain.arrays
    for name, array in mlp.arrays.items():
        np.testing.assert_allclose(chain.arrays[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    assert (chain.arrays["lower_linf"] > 0).any()


def test_what_float64_cannot_check_is_a_note(run: Run, trained: Path, tiny: Path) -> None:
    """Its certificate is a proof in float32; no doubt is raised by a module that computes in nothing else."""
    words = words_for(trained, tiny, "InFloat32", "--weights", trained / "Chain.pt", "--mean", "0.3", "--std", "0.4")
    code, text, _ = run(*words)
    assert code == 0 and "not_confirmed" not in text
    assert "Could not be checked in float64, of InFloat32: crown_l2: RuntimeError: " in text
    table = pd.read_csv(tiny.parent / "out" / "tiny" / "leaderboard.csv").set_index("method")
    assert table.loc["InFloat32", "margin_lower_l2"] > 0.05


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


def test_a_failure_in_the_evaluation_is_a_row_that_is_tried_again_on_demand(tiny: Path) -> None:
    model = Late()
    for fresh, resumed in ((False, False), (False, True), (True, False)):
        outcome = evaluate_model(model, suite=str(tiny), out=tiny.parent / "out", fresh=fresh)
        assert outcome.record.status == "failed" and outcome.resumed == resumed
        assert "out of luck" in (outcome.record.error or "") and outcome.arrays == {}


def test_a_record_that_cannot_be_read_is_replaced_on_demand_alone(run: Run, trained: Path, tiny: Path) -> None:
    words = words_for(trained, tiny, "mlp")
    assert run(*words)[0] == 0
    (path,) = (tiny.parent / "out" / "tiny" / "runs").glob("*.json")
    path.write_text("half")
    code, _, err = run(*words)
    assert code == 2 and err.startswith("error: without --fresh: a record that cannot be read") and path.name in err
    assert path.read_text() == "half"
    assert run(*words, "--fresh")[0] == 0 and json.loads(path.read_text())["status"] == "done"


@pytest.mark.parametrize(("given", "message"), [(0.5, "mean=0.5: give a list"), (["a"], "mean=['a']: give a list")])
def test_what_is_no_list_of_numbers_is_named(tiny: Path, given: Any, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        evaluate_model(nn.Linear(64, 10), suite=str(tiny), out=tiny.parent, mean=given, std=[1.0])
    assert message in str(caught.value)


def test_a_tilde_is_the_home_folder(trained: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    (tiny.parent / "net.pt").write_bytes((trained / "net.pt").read_bytes())
    outcome = evaluate_model(f"{trained / 'models.py'}:mlp", "~/net.pt", suite=str(tiny), out="~/out")
    assert outcome.path.is_relative_to(tiny.parent / "out")


def test_other_data_are_cut_as_the_suite_says(tiny: Path) -> None:
    suite = derive(load_suite(str(tiny)), {"data.train_size": 500})
    for name in ("mine.npz", Path("/a/mine.npz")):
        assert evaluate._with_data(suite, name).data == suite.data.model_copy(update={"name": "mine.npz"})


def test_help_teaches(run: Run) -> None:
    code, text, _ = run("evaluate", "--help")
    assert (
        code == 0 and "nn.Sequential(nn.Flatten(), nn.Linear(64, 10))" in " ".join(text.split()) and "--weights" in text
    )
    code, text, _ = run("--help")
    assert code == 0 and "evaluate" in text and "compare" in text


@pytest.mark.parametrize(("mean", "std"), [([33.3], [78.6]), ([0.0], [255.0]), ([127.5], [1.0])])
def test_statistics_of_pixels_up_to_255_are_refused(mean: list[float], std: list[float], tiny: Path) -> None:
    with pytest.raises(ParameterError, match=r"is above 1, and the images are in \[0, 1\]: divide mean and std by 255"):
        evaluate_model(nn.Linear(64, 10), suite=str(tiny), out=tiny.parent, mean=mean, std=std)
