"""What a tuning found, as text for a terminal."""

import shlex

from marginbench.benchmarks.plugins import loaded_files
from marginbench.benchmarks.records.tuning import Trial, Tuning, in_words
from marginbench.benchmarks.runs.options import RunOptions
from marginbench.benchmarks.runs.progress import clock
from marginbench.benchmarks.tuning.options import TuneOptions
from marginbench.benchmarks.tuning.tune import TuneOutcome


def summary(outcome: TuneOutcome, options: TuneOptions) -> str:
    """The settings as a table, where they are, and how they are run."""
    from tabulate import tabulate

    header = ("row", "trials", "distinct", "failed", "default", "chosen", "trial", "setting", "time")
    lines = []
    if outcome.settings:
        lines += [tabulate([_row(tuning) for tuning in outcome.settings], header, tablefmt="github"), ""]
    lines += [f"{row}: no setting: {why}" for row, why in outcome.hopeless.items()]
    if outcome.elsewhere:
        lines.append(
            f"Tuned by other processes: {', '.join(outcome.elsewhere)}. Run the command again when they ended."
        )
    if outcome.settings:
        lines += [
            f"Settings: {outcome.files[0].parent}/ROW.toml",
            f"Run them beside the defaults: {_command(outcome, options.run)}",
        ]
    return "\n".join(lines)


def _command(outcome: TuneOutcome, run: RunOptions) -> str:
    words = ["marginbench", "run-all", "--suite", str(run.suite)]
    for setting in run.set:
        words += ["--set", setting]
    for file in loaded_files():
        words += ["--plugin", str(file)]
    if run.data_dir is not None:
        words += ["--data-dir", str(run.data_dir)]
    words += ["--methods", ",".join(tuning.row for tuning in outcome.settings)]
    return shlex.join([*words, "--out", str(run.out), "--tuned", str(outcome.folder)])


def _row(tuning: Tuning) -> tuple[object, ...]:
    default, chosen = tuning.history[0], tuning.history[tuning.chosen]
    counts = tuning.trials, tuning.distinct, tuning.failed
    setting = in_words(tuning.method, tuning.recipe)
    return tuning.row, *counts, _reached(default), _reached(chosen), tuning.chosen, setting, clock(tuning.seconds)


def _reached(trial: Trial) -> str:
    """Clean accuracy, and robust accuracy behind it where that was measured."""
    values = [value for value in (trial.clean_accuracy, trial.robust_accuracy) if value is not None]
    return " / ".join(f"{value:.1%}" for value in values) or "failed"
