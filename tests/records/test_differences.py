"""What may explain other bits: all that records say of an environment, but what cannot matter."""

from dataclasses import replace
from typing import Any

import pytest
from made import ENVIRONMENT, a_record

from marginbench.benchmarks.records.differences import UNKNOWN, Difference, differences, measured_elsewhere

HERE = replace(
    ENVIRONMENT,
    processor_details={"family": "25", "instructions": "AVX2"},
    interop_threads=2,
    variables={"OMP_NUM_THREADS": "1"},
    builds={"torch": "2+cpu"},
)


def test_an_environment_does_not_differ_from_itself() -> None:
    assert differences(HERE, HERE) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"processor_details": {"family": "26", "instructions": "AVX2"}}, ("processor's family", "26", "25")),
        (
            {"processor_details": {"family": "25", "instructions": "AVX512"}},
            ("processor's instructions", "AVX512", "AVX2"),
        ),
        ({"threads": 4}, ("threads", "4", "1")),
        ({"variables": {}}, ("OMP_NUM_THREADS", "none", "1")),
        ({"builds": {"torch": "2+cu132"}}, ("build of torch", "2+cu132", "2+cpu")),
        ({"versions": {"torch": "1"}}, ("torch", "1", "2")),
        ({"versions": {"torch": "2", "scipy": "1"}}, ("scipy", "1", "none")),
        ({"commit": None}, ("commit", "none", "c0ffee")),
        ({"device": "NVIDIA"}, ("device", "NVIDIA", "cpu")),
        ({"python": "3.12"}, ("python", "3.12", "3.11")),
    ],
)
def test_what_may_matter_is_named(change: dict[str, Any], found: tuple[str, str, str]) -> None:
    assert differences(replace(HERE, **change), HERE) == [Difference(*found)]


@pytest.mark.parametrize("change", [{"cores": 64}, {"interop_threads": 64}, {"host": "another"}])
def test_what_cannot_matter_is_not(change: dict[str, Any]) -> None:
    assert differences(replace(HERE, **change), HERE) == []


def test_what_an_older_record_does_not_say_is_not_called_missing() -> None:
    names = ["processor's family", "processor's instructions", "OMP_NUM_THREADS", "build of torch"]
    assert [(one.name, one.there) for one in differences(ENVIRONMENT, HERE)] == [(name, UNKNOWN) for name in names]


def test_files_that_are_in_no_commit_are_not_known_to_be_the_same() -> None:
    changed = replace(HERE, commit="c0ffee+")
    assert [one.name for one in differences(changed, changed)] == ["commit"]


def test_an_estimator_that_was_run_again_names_its_own_commit() -> None:
    facts = {"fmn_l2": {"seconds": 1.0}, "rejection": {"commit": "beef"}, "clever": {"commit": "c0ffee"}}
    record = a_record("ce", environment=HERE, estimators=facts)
    assert measured_elsewhere(record, HERE) == [Difference("commit of rejection", "beef", "c0ffee")]
