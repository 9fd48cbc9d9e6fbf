"""Measure by one probe again in the records of results/reference, after a change that touches nothing else.

python results/remeasure.py constrained_margin [--again] [DATA_DIR]

A record is made anew if its suite, as it is now, has other settings of this probe (with --again: or the same, after a
change of its code) and is otherwise the same, and if results/reference/networks has its network, which `run-all --out
results/reference` leaves there. The probe's numbers are then those of a whole evaluation today. All others stay, and
the record names the commit that measured the probe.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from marginbench.benchmarks import load_network
from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.evaluation.evaluated import Facts, frozen, probed
from marginbench.benchmarks.evaluation.partial import Found, Partial
from marginbench.benchmarks.machine.deadline import Deadline
from marginbench.benchmarks.machine.device import no_tf32
from marginbench.benchmarks.machine.seeds import derive_seed
from marginbench.benchmarks.probes.scan import Subject
from marginbench.benchmarks.records.provenance import environment
from marginbench.benchmarks.records.reader import read_arrays, read_record, record_paths
from marginbench.benchmarks.records.record import Record, SuiteFacts, write_record
from marginbench.benchmarks.records.training import NETWORKS, network_path
from marginbench.benchmarks.suites.schema import WHICH, Suite, load_suite

REFERENCE = Path(__file__).parent / "reference"


def without(probe: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a suite but for those of the probe."""
    evaluation = {key: value for key, value in settings["evaluation"].items() if key != probe}
    return {**settings, "evaluation": evaluation}


def measured(record: Record, probe: str, suite: Suite, data: Dataset, arrays: Mapping[str, Any]) -> Found:
    """What the probe finds of the record's network, as in a whole evaluation."""
    net, _ = load_network(network_path(REFERENCE / NETWORKS, str(record.identity.training)))
    test = data.test.rows(torch.from_numpy(arrays["index"]))
    seed = derive_seed(probe, suite.stream_name, record.identity.method, record.repetition)
    upper = {norm: torch.from_numpy(arrays[f"upper_{norm}"]) for norm in record.epsilon}
    facts = Facts({}, Deadline())
    with no_tf32(), frozen(net):
        subject = Subject(net, test, data.validation, data.train, record.epsilon, seed, upper)
        found = probed(probe, suite.evaluation.probes[probe], subject, {}, facts, Partial())
    return Found(found, {**facts.estimators[probe], "commit": environment(torch.device("cpu")).commit})


def renewed(record: Record, probe: str, suite: Suite, found: Found, arrays: Mapping[str, Any]) -> Record:
    """The record with what the probe has found, also in the arrays."""
    identity = replace(record.identity, suite=suite.fingerprint)
    more = found.facts["seconds"] - record.estimators[probe]["seconds"]
    return replace(
        record,
        id=identity.id,
        identity=identity,
        suite=SuiteFacts.of(suite.model_dump(mode="json", exclude=WHICH)),
        metrics=record.metrics | suite.evaluation.probes[probe].metrics(arrays, record.epsilon),
        estimators={**record.estimators, probe: found.facts},
        cost={**record.cost, "evaluation_seconds": (record.cost["evaluation_seconds"] or 0) + more},
    )


def main(probe: str, *more: str) -> None:
    again, data_dir = "--again" in more, next((word for word in more if word != "--again"), None)
    suite_of, data_of = cache(load_suite), cache(lambda name: load_suite(name).load_data(data_dir))
    known: dict[str, Found] = {}  # by training: a row stands in the folders of several suites
    for path in record_paths([REFERENCE]):
        record = read_record(path)
        suite = suite_of(record.suite.name)
        if (record.identity.suite == suite.fingerprint and not again) or probe not in suite.evaluation.probes:
            continue
        training = str(record.identity.training)
        if without(probe, suite.model_dump(mode="json", exclude=WHICH)) != without(probe, record.suite.settings):
            print(f"{path}: more than that has changed in suite {suite.name}")
        elif not network_path(REFERENCE / NETWORKS, training).exists():
            print(f"{path}: its network is not there")
        else:
            arrays = read_arrays(path)
            if training not in known:
                known[training] = measured(record, probe, suite, data_of(suite.name), arrays)
            arrays |= {name: values.numpy() for name, values in known[training].arrays.items()}
            new = renewed(record, probe, suite, known[training], arrays)
            print(write_record(path.parent, new, arrays).name, record.method, record.repetition, flush=True)
            if new.id != record.id:
                path.with_suffix(".npz").unlink()
                path.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
