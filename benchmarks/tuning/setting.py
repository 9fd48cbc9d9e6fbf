"""From the trials of a row to its setting, with its provenance."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from marginbench.benchmarks.records.choice import outcome
from marginbench.benchmarks.records.tuning import Trial, Tuning
from marginbench.benchmarks.suites.schema import Suite
from marginbench.benchmarks.training.blueprint import needs_radii
from marginbench.benchmarks.tuning.judge import Judge
from marginbench.benchmarks.tuning.options import TuneOptions
from marginbench.benchmarks.tuning.space import Space
from marginbench.benchmarks.tuning.study import Protocol, Study, describe_sampler


@dataclass(frozen=True)
class About:
    """What the settings of all rows of a call have in common."""

    options: TuneOptions
    suite: Suite
    judge: Judge
    repetition: int


def setting_of(study: Study, protocol: Protocol, space: Space, about: About) -> Tuning:
    """The choice among the first trials of a study, as many as were asked for.

    Raises:
        MarginbenchError: all trials failed.
    """
    options, judge = about.options, about.judge
    trials: Sequence[Trial] = study.ended[: options.trials]
    robust = options.objective != "validation_accuracy"
    return Tuning(
        row=protocol.row,
        **outcome(trials, options.objective, judge.floor, options.rule),
        suite=about.suite.name,
        trained_by=protocol.trained_by,
        data=protocol.data,
        revision=protocol.revision,
        source=protocol.source,
        objective=options.objective,
        norm=options.norm_asked if robust else None,
        epsilon=about.suite.evaluation.epsilon[options.norm_asked] if robust else None,
        floor=judge.floor if robust else None,
        sampler=describe_sampler(options.sampler),
        seed=options.seed,
        repetition=about.repetition,
        trained_for=dict(about.suite.trained_for) if needs_radii(space.method) else {},
        versions={name: metadata.version(name) for name in ("marginbench", "optuna", "torch")},
        space=dict(protocol.space),
        importance=study.importance(options.trials),
        history=list(trials),
    )
