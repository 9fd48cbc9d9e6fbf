"""Sentences from the command line: trained, measured, in tables and reports; BERT from a checkpoint of its own."""

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import Run
from text_support import make_checkpoint, write_rte

from marginbench.benchmarks.data.glue import TASKS
from marginbench.benchmarks.extras import ONNX, ONNX_RUNTIME
from marginbench.benchmarks.figures.draw import plot
from marginbench.benchmarks.records.reader import read_arrays, read_folders
from marginbench.benchmarks.records.record import Record
from marginbench.benchmarks.reports.make import report
from marginbench.benchmarks.runs.run_all import RunOutcome, run_all
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.training.load import load_network
from marginbench.methods import MarginbenchError
from marginbench.methods.errors import ParameterError

ABOVE_CHANCE = 0.3  # by which accuracy is to exceed that of guessing, 0.5


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> RunOutcome:
    """`text_smoke` as it is, with a method of pixels beside."""
    out = tmp_path_factory.mktemp("text")
    return run_all(
        suite="text_smoke",
        methods=["ce", "pmm", "mma"],
        out=out,
        jobs=1,
        progress=False,
        set={"evaluation.attacks": "quick", "evaluation.embedding_l2.points": 20},
    )


def done(outcome: RunOutcome) -> Iterator[Record]:
    return (record for record in outcome.records if record.status == "done")


def test_ce_and_pmm_beat_chance_by_a_margin(outcome: RunOutcome) -> None:
    accuracy = {record.method: record.metrics["clean_accuracy"] for record in done(outcome)}
    assert set(accuracy) == {"ce", "pmm"}
    assert min(accuracy.values()) > 0.5 + ABOVE_CHANCE


def test_margins_behind_the_network_are_measured_and_none_in_pixels(outcome: RunOutcome) -> None:
    for record in done(outcome):
        arrays = read_arrays(outcome.runs / f"{record.id}.json")
        right = arrays["prediction"] == arrays["label"]
        assert ((arrays["output_margin"] > 0) == right).all()
        assert ((arrays["feature_margin"] > 0) == right).all()
        assert record.metrics["embedding_l2"] > 0
        names = [*arrays, *record.metrics]
        assert not [name for name in names if name.startswith(("upper_", "lower_", "robust_", "margin_", "certified_"))]


def test_attacks_on_pixels_are_not_applicable_and_the_table_says_so(outcome: RunOutcome) -> None:
    (record, _) = done(outcome)
    assert "sentences" in record.estimators["fmn_l2"]["not_applicable"]
    page = (outcome.runs.parent / "leaderboard.md").read_text()
    assert "Attacks and certificates in pixels are not applicable" in page
    assert re.search("Not applicable to (ce, pmm|pmm, ce): fmn_linf: it is about images", page)
    header = next(line for line in page.splitlines() if line.startswith("| method"))
    assert "clean %" in header
    assert "embedding margin L2" in header
    assert "robust" not in header
    assert "pixels of [0, 1]" not in page


def test_a_method_of_pixels_has_a_row_with_its_reason_and_is_no_failure(outcome: RunOutcome) -> None:
    assert outcome.failed == 0
    with (outcome.runs.parent / "leaderboard.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows["mma"]["error"].startswith("not applicable to sentences: ")
    assert (rows["mma"]["n"], rows["mma"]["failed"]) == ("0", "0")
    assert rows["mma"]["clean_accuracy"] == ""  # and never 0
    page = (outcome.runs.parent / "leaderboard.md").read_text()
    assert "FAILED" not in page


def test_the_order_is_by_accuracy_where_there_are_no_radii(outcome: RunOutcome) -> None:
    page = (outcome.runs.parent / "leaderboard.md").read_text()
    assert "Ordered by clean %" in page


def test_two_rows_are_compared_by_what_was_measured(outcome: RunOutcome, run: Run) -> None:
    code, out, err = run("compare", "pmm", "ce", outcome.runs.parent)
    assert code == 0, err
    assert "| clean %" in out and "robust" not in out
    code, out, err = run("margins", outcome.runs.parent)
    assert code == 0 and "Nothing can be said: fewer than 3 methods" in out, err


def test_a_report_and_figures_know_what_was_not_measured(outcome: RunOutcome) -> None:
    folder = outcome.runs.parent
    page = report(folder).html
    assert "500 test sentences" in page
    assert "in pixels" in page
    drawable = "accuracy_tradeoff, cost, feature_margins, intervals, learning_curves"
    with pytest.raises(MarginbenchError, match=f"nothing is measured in pixels; what can be drawn: {drawable}$"):
        plot("margin_distribution", folder)
    for name in ("feature_margins", "cost", "intervals", "learning_curves"):
        assert "clean" in str(plot(name, folder).to_dict()["title"]) or name in ("feature_margins", "learning_curves")
    with pytest.raises(ParameterError, match=r"no row of suite .* has it; they have clean_accuracy"):
        plot("cost", folder, column="robust_accuracy_l2")
    with pytest.raises(MarginbenchError, match=r"sentences have no robust accuracy; name a column: .*embedding_l2"):
        plot("accuracy_tradeoff", folder)
    with pytest.raises(ParameterError, match=r"is on the other axis; name another column: .*embedding_l2"):
        plot("accuracy_tradeoff", folder, column="clean_accuracy")
    assert plot("accuracy_tradeoff", folder, column="embedding_l2") is not None


def test_an_order_by_what_sentences_do_not_have_is_refused(outcome: RunOutcome, run: Run) -> None:
    code, _, err = run("leaderboard", outcome.runs.parent, "--by", "robust_accuracy_l2")
    assert code == 2 and err.startswith("error: --by robust_accuracy_l2: no row of these records has it; they have ")
    code, out, _ = run("leaderboard", outcome.runs.parent, "--by", "embedding_l2")
    assert code == 0 and "Ordered by embedding margin L2" in out


def test_a_network_of_sentences_is_exported(outcome: RunOutcome, run: Run, tmp_path: Path) -> None:
    """Its bundle gives the same logits, and its graph, where there is an exporter, those of ONNX Runtime."""
    record = next(done(outcome))
    path = outcome.networks / f"{record.identity.training}.json"
    code, out, err = run("export", path, "-o", tmp_path / "mine")
    assert code == 0, err
    (net, _), (again, info) = load_network(path), load_network(tmp_path / "mine.toml")
    assert info.method == record.method
    x = load_suite("text_smoke").load_data().test.images(slice(5))
    with torch.no_grad():
        assert torch.equal(net(x), again(x))
    if ONNX.missing:
        assert f"no .onnx: it needs packages: {ONNX.advice}" in out
    elif not ONNX_RUNTIME.missing:
        assert "logits agree with those of ONNX Runtime" in out
    assert "token ids" in (tmp_path / "mine.toml").read_text()


def test_what_is_not_installed_is_told_before_any_worker_starts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("marginbench.benchmarks.runs.workers.Worker", None)
    advice = "pip install 'marginbench[text]', or uv sync --extra text"
    for words in (("run-all", "--jobs", "2"), ("run-all", "--dry-run"), ("tune", "--jobs", "2", "--trials", "1")):
        code, _, err = run(*words, "--suite", "text_smoke", "--out", tmp_path / "out")
        assert code == 2 and err.splitlines()[-1] == f"error: network 'bert_tiny': needs transformers: {advice}"
    assert not (tmp_path / "out").exists()


def test_a_kept_network_reads_sentences_again(outcome: RunOutcome) -> None:
    record = next(done(outcome))
    training = record.identity.training
    assert training is not None
    net, _ = load_network(training, outcome.runs.parent.parent)
    net.requires_grad_(False)
    test = load_suite("text_smoke").load_data().test
    arrays = read_arrays(outcome.runs / f"{record.id}.json")
    features = net.features(test.images(slice(None)))
    logits = net.head(features)
    assert logits.argmax(1).tolist() == arrays["prediction"].tolist()
    gaps = torch.where(test.y == 1, 1, -1) * (logits[:, 1] - logits[:, 0])
    apart = (net.head.weight[1] - net.head.weight[0]).norm() * features.norm(dim=1).max()  # of all sentences
    torch.testing.assert_close(torch.from_numpy(arrays["output_margin"]), gaps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(arrays["feature_margin"]), gaps / apart, rtol=1e-4, atol=1e-5)


def test_the_suite_of_table_two_has_the_recipe_of_the_paper() -> None:
    suite = load_suite("pmm_table2")
    recipe = suite.training
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (3, 32, 2e-5)
    assert (recipe.optimiser_class.__name__, recipe.weight_decay) == ("AdamW", 0.01)
    assert suite.network.checkpoint == "bert-base-uncased"
    assert suite.methods is not None
    assert suite.methods[:2] == ("ce", "pmm(alpha_start=1e-5,alpha_end=1e-5)")
    for task in TASKS:
        assert derive(suite, {"data.name": task}).data.name == task


def test_a_dry_run_says_what_is_missing_and_how_to_get_it(run: Run, tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    sets.mkdir()
    words = ("run-all", "--suite", "pmm_table2", "--dry-run", "--out", tmp_path / "out", "--data-dir", sets)
    code, _, complaint = run(*words, "--set", "data.name=mrpc")
    assert code == 2
    assert f"no train.tsv and dev.tsv in {sets / 'MRPC'}: copy GLUE's folder MRPC there" in complaint
    assert f"hf download bert-base-uncased --local-dir {sets / 'bert-base-uncased'}" in complaint
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with RTE, MRPC and a checkpoint."""
    folder = tmp_path_factory.mktemp("sets")
    rte = write_rte(folder)
    make_checkpoint(folder / "bert-base-uncased")
    (folder / "MRPC").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        _, *lines = (rte / name).read_text().splitlines()
        fields = [line.split("\t") for line in lines]
        rows = [f"{int(f[3] == 'entailment')}\t1\t2\t{f[1]}\t{f[2]}\n" for f in fields]
        header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        (folder / "MRPC" / name).write_text(header + "".join(rows))
    return folder


def fine_tuned(sets: Path, out: Path, **more: object) -> RunOutcome:
    settings = {"data.validation": 20, "training.epochs": 1, "evaluation.embedding_l2": {"points": 4, "steps": 5}}
    settings["training.warm_up"] = 0.1
    return run_all(
        suite="pmm_table2", seeds=1, out=out, data_dir=sets, jobs=1, progress=False, set={**settings, **more}
    )


def test_table_two_runs_from_a_checkpoint_in_the_layout_of_the_hub(sets: Path, tmp_path: Path) -> None:
    outcome = fine_tuned(sets, tmp_path / "out", **{"data.name": "mrpc"})
    assert outcome.failed == 0
    records = list(done(outcome))
    assert [record.method for record in records].count("ce") == 1
    assert len(records) == 3
    for record in records:
        assert {"f1", "clean_accuracy", "embedding_l2"} <= set(record.metrics)
        assert "matthews" not in record.metrics
        assert record.metrics["points"] == 40
    page = (outcome.runs.parent / "leaderboard.md").read_text()
    assert "F1 %" in page
    kept = json.loads(next(outcome.networks.glob("*.json")).read_text())
    assert kept["identity"]["recipe"]["network"] == {"name": "bert", "checkpoint": "bert-base-uncased"}
    assert not read_folders([outcome.runs]).problems


def test_it_starts_from_the_weights_of_the_checkpoint(sets: Path, tmp_path: Path) -> None:
    tiny = {"training.learning_rate": 1e-9, "training.weight_decay": 0.0, "training.no_decay": None}
    outcome = fine_tuned(sets, tmp_path / "out", **tiny)
    import safetensors.torch

    weights = safetensors.torch.load_file(sets / "bert-base-uncased" / "model.safetensors")
    trained = safetensors.torch.load_file(next(outcome.networks.glob("*.safetensors")))
    key = "encoder.layer.1.output.dense.weight"
    assert trained[f"body.1.model.{key}"].sub(weights[f"bert.{key}"]).abs().max() < 1e-6
    words = weights["bert.embeddings.word_embeddings.weight"]
    assert trained["body.0.words.weight"].sub(words).abs().max() < 1e-6


def test_the_checkpoint_belongs_to_the_identity_of_a_run(sets: Path, tmp_path: Path) -> None:
    suite = derive(load_suite("pmm_table2"), {"data.validation": 20})
    first = suite.load_data(sets).fingerprint
    other = tmp_path / "sets"
    write_rte(other)
    weights = make_checkpoint(other / "bert-base-uncased") / "model.safetensors"
    assert suite.load_data(other).fingerprint == first
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert suite.load_data(other).fingerprint != first
