"""The trials of one row: an optuna study in a journal file.

A trial is asked for when the one before has ended, so that what is drawn depends on the row, the number of the trial
and the values of the earlier ones alone: not on the number of processes, nor on interruptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marginbench.benchmarks.extras import TUNE
from marginbench.benchmarks.machine.files import digest, write_atomically
from marginbench.benchmarks.machine.seeds import derive_seed
from marginbench.benchmarks.records.tuning import Trial
from marginbench.benchmarks.tuning.options import Sampler
from marginbench.benchmarks.tuning.space import Space
from marginbench.methods import MarginbenchError

if TYPE_CHECKING:
    import optuna

FACTS = "marginbench"  # attribute of a study and of a trial
STARTUP = 8  # the number of the first trial by TPE: the default and those drawn at random come before it
MOST_SEEDS_OF_SAMPLERS = 2**32


@dataclass(frozen=True)
class Protocol:
    """What a study depends on: with another one it is another study."""

    row: str
    trained_by: str  # digest of the suite's recipe
    judged_by: str  # fingerprint of the suite on validation images
    data: str
    revision: int
    source: str | None
    objective: str
    norm: str
    floor: float | None
    directions: int
    sampler: Sampler
    seed: int
    space: Mapping[str, str]  # in words
    default: Mapping[str, Any]

    @property
    def id(self) -> str:
        return digest(asdict(self))


class Study:
    """The study of a row. Only the process that holds the row's lock may write to it.

    The file holds trials that have ended: an interrupted one is drawn again, and is the same.

    Raises:
        MarginbenchError: optuna is missing, or the file is no journal.
    """

    def __init__(self, path: Path, protocol: Protocol, space: Space) -> None:
        self._protocol, self._space = protocol, space
        self._study = _open(path, protocol)

    @property
    def ended(self) -> list[Trial]:
        """The trials that have ended, in their order."""
        return [Trial(**trial.user_attrs[FACTS]) for trial in self._trials()]

    def next(self) -> tuple[int, dict[str, Any]]:
        """The number of the next trial, and its point of the space. Trial 0 is the default."""
        import optuna

        known = self._trials()
        if not known or not self._space.axes:
            return len(known), dict(self._space.default)
        directions, sampler = self._study.directions, self._sampler(len(known))
        scratch = optuna.create_study(directions=directions, sampler=sampler)  # in memory
        scratch.add_trials(known)
        return len(known), dict(scratch.ask(self._space.distributions()).params)

    def tell(self, trial: Trial, point: Mapping[str, Any], values: Sequence[float]) -> None:
        """Add a trial that has ended. One that failed has values too: it counts, and the sampler learns from it."""
        import optuna

        facts, distributions = {FACTS: asdict(trial)}, self._space.distributions()
        ended = optuna.trial.create_trial(
            params=dict(point), distributions=distributions, values=list(values), user_attrs=facts
        )
        self._study.add_trial(ended)

    def importance(self, most: int) -> dict[str, float]:
        """Shares of the variance of the value that are due to each axis, by fANOVA; none where it cannot say.

        Where there are two values it is the robust accuracy.

        Args:
            most: trials that count, from the first on.
        """
        import optuna

        trials = self._trials()[:most]
        if not self._space.axes or len({trial.values[-1] for trial in trials}) < 2:
            return {}
        some = optuna.create_study(direction="maximize")
        for trial in trials:
            of = {"params": trial.params, "distributions": trial.distributions, "value": trial.values[-1]}
            some.add_trial(optuna.trial.create_trial(**of))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self._protocol.seed)
        found = optuna.importance.get_param_importances(some, evaluator=evaluator)
        return {name: round(float(share), 4) for name, share in found.items()}

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return list(self._study.get_trials(deepcopy=False))

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        import optuna

        words = "tune", self._protocol.row, self._protocol.seed, number
        seed = derive_seed(*words) % MOST_SEEDS_OF_SAMPLERS
        if self._protocol.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=False)


def describe_sampler(sampler: Sampler) -> str:
    """As provenance says it."""
    return f"TPE from trial {STARTUP} on" if sampler == "tpe" else "random"


def _open(path: Path, protocol: Protocol) -> optuna.Study:
    optuna = loaded_optuna()
    path.parent.mkdir(parents=True, exist_ok=True)
    _mend(path)
    try:
        directions = ["maximize"] * protocol.directions
        study = optuna.create_study(
            storage=_storage(path), study_name=protocol.row, directions=directions, load_if_exists=True
        )
    except (ValueError, KeyError, OSError) as error:
        raise _unreadable(path, error) from None
    if not study.user_attrs:
        study.set_user_attr(FACTS, asdict(protocol))
    return study


def _mend(path: Path) -> None:
    """Drop a last line that was cut when its process was killed: the next one would be written behind it."""
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n") and content:
        write_atomically(path, content[: content.rfind(b"\n") + 1])


def ended_in(path: Path) -> int:
    """How many trials of the study in a journal have ended.

    Raises:
        MarginbenchError: it cannot be read.
    """
    try:
        return max((len(study.get_trials(deepcopy=False)) for study in _studies(_storage(path))), default=0)
    except (ValueError, KeyError, OSError) as error:
        raise _unreadable(path, error) from None


def protocol_in(path: Path) -> dict[str, Any]:
    """The protocol of the study in a journal, as a table; empty where none was begun.

    Raises:
        MarginbenchError: it cannot be read.
    """
    try:
        return next((dict(study.user_attrs.get(FACTS, {})) for study in _studies(_storage(path))), {})
    except (ValueError, KeyError, OSError) as error:
        raise _unreadable(path, error) from None


def _storage(path: Path) -> Any:
    optuna = loaded_optuna()
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


def _studies(storage: Any) -> list[optuna.Study]:
    import optuna

    names = optuna.get_all_study_names(storage)
    return [optuna.load_study(study_name=name, storage=storage) for name in names]


def _unreadable(path: Path, error: Exception) -> MarginbenchError:
    return MarginbenchError(f"{path}: cannot be read as a journal of optuna ({error}): delete it")


def loaded_optuna() -> Any:
    """The library, which is an extra.

    Raises:
        MarginbenchError: it is not installed.
    """
    TUNE.check("tuning")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
