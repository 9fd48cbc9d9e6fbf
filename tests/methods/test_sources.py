"""Where defaults come from: a place in a paper, the authors' code, or a measurement that can be repeated."""

import re

import pytest

from marginbench.methods import get, names

PLACE = re.compile(r"\b(sections?|equations?|table|appendix|abstract|et al\. \d{4}|[A-Z]\w+:)|\b(authors|paper)' ?s?")
MEASURED = re.compile(r"validation images.*\d (values|seeds).*(commit [0-9a-f]{7}|see deviations)")


def names_a_source(text: str) -> bool:
    return bool(PLACE.search(text) or MEASURED.search(text))


@pytest.mark.parametrize("key", names())
def test_a_default_says_where_it_comes_from(key: str) -> None:
    for name, field in get(key).model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        assert names_a_source(str(extra["source"])), f"{key}.{name}: {extra['source']!r} names no source"


@pytest.mark.parametrize(
    "text",
    [
        "chosen",
        "choice",
        "chosen: no value in the sources at hand",
        "chosen on validation images of the digits",
        "chosen: see deviations",
        "validation images of the digits, 4 values, 2 seeds",
    ],
)
def test_a_bare_word_is_no_source(text: str) -> None:
    assert not names_a_source(text)
