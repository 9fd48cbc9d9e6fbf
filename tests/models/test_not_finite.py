"""Models whose logits are not finite, from the file to the table."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from support import Run
from torch import Tensor, nn

from marginbench.benchmarks import evaluate_model, load
from marginbench.benchmarks.data.dataset import load_data
from marginbench.benchmarks.models.evaluate import ModelOutcome
from marginbench.benchmarks.models.load import load_model
from marginbench.benchmarks.models.weights import load_weights
from marginbench.benchmarks.tables.choice import Choice
from marginbench.benchmarks.tables.frame import leaderboard
from marginbench.benchmarks.tables.render import FORMATS, render


class Torn(nn.Module):
    """NaN for images with much ink."""

    def __init__(self, net: nn.Module, limit: float) -> None:
        super().__init__()
        self.net, self.limit = net, limit

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        return torch.where(x.flatten(1).mean(1, keepdim=True) > self.limit, torch.nan, z)


class Wrong(nn.Module):
    """The least likely class."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        return -z


@pytest.fixture
def network(trained: Path) -> nn.Module:
    model, _ = load_model(f"{trained / 'models.py'}:mlp")
    load_weights(model, trained / "net.pt")
    return model


def outcome(model: nn.Module, name: str, tiny: Path) -> ModelOutcome:
    return evaluate_model(model, suite=str(tiny), out=tiny.parent / "out", name=name, mean=[0.3], std=[0.4])


def test_nan_is_wrong_stays_nan_and_comes_last(run: Run, network: nn.Module, tiny: Path) -> None:
    mean = (load_data("digits", 200, tiny.parent).test.images(slice(30)).flatten(1).mean(1) - 0.3) / 0.4
    sound = outcome(network, "sound", tiny)
    torn = outcome(Torn(network, float(mean.median())), "torn", tiny)
    broken = torn.arrays["prediction"] == -1
    assert 10 <= broken.sum() <= 20
    assert torn.record.metrics["clean_accuracy"] <= 1 - broken.mean()
    assert torn.record.metrics["margin_upper_l2"] < sound.record.metrics["margin_upper_l2"]
    assert "not finite" in torn.record.doubts["collapse"]

    values = json.loads(torn.path.read_text())["metrics"]
    assert values["output_margin"] == "nan" and values["margin_upper_l2"] > 0
    folder = tiny.parent / "out"
    frame = load(folder).set_index("method")
    assert math.isnan(frame.loc["torn", "output_margin"]) and frame.loc["sound", "output_margin"] > 0
    for sort in ("output_margin", "feature_margin", "clean_accuracy", "robust_accuracy_linf", "margin_upper_l2"):
        assert list(leaderboard(folder, sort)["method"]) == ["sound", "torn"], sort
    texts = {form: render(torn.records, form, Choice("output_margin")) for form in FORMATS}
    assert pd.isna(json.loads(texts["json"])[1]["output_margin"])
    assert "| torn " in texts["md"] and "torn" in texts["tex"] and ",inf" not in texts["csv"]
    code, text, _ = run("compare", "torn", "sound", folder)
    assert code == 0 and "torn minus sound" in text


def test_a_model_that_is_always_wrong_has_a_row_of_zeros(run: Run, network: nn.Module, tiny: Path) -> None:
    folder = tiny.parent / "out"
    outcome(network, "sound", tiny)
    found = outcome(Wrong(network), "wrong", tiny)
    assert found.record.metrics["clean_accuracy"] == 0
    row = leaderboard(folder).set_index("method").loc["wrong"]
    zero = [f"{kind}_{norm}" for kind in ("robust_accuracy", "certified_accuracy") for norm in ("l2", "linf")]
    assert all(row[name] == 0 for name in (*zero, "margin_lower_l2", "margin_upper_linf"))
    code, text, _ = run("compare", "wrong", "sound", folder)
    assert code == 0 and "wrong minus sound" in text and run("claims", folder)[0] == 0
