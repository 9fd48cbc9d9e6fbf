"""What a report holds, read without a browser: one whole file, escaped, small, and honest about what is missing."""

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made import a_failure, a_record
from report_support import ROWS, write_rows
from typer.testing import CliRunner

from marginbench.benchmarks import report
from marginbench.benchmarks.cli import main  # noqa: F401  adds the commands
from marginbench.benchmarks.cli.app import app
from marginbench.benchmarks.records import reader
from marginbench.benchmarks.records.record import Record, write_record
from marginbench.benchmarks.reports import make
from marginbench.benchmarks.reports.make import as_json, in_script
from marginbench.methods.errors import MarginbenchError, ParameterError

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "digits"


class Elements(HTMLParser):
    """Names, attributes and ids of all elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_rows(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return report(folder).html


def test_nothing_is_fetched_and_every_id_is_there_once(page: str) -> None:
    elements = Elements(page).found
    fetched = [at for _, at in elements if (at.get("src") or at.get("href") or "#")[:1] != "#" and "srcset" not in at]
    assert {(at.get("src") or at.get("href") or "")[:5] for at in fetched} <= {"data:"}
    ids = [at["id"] for _, at in elements if "id" in at]
    assert len(ids) == len(set(ids)) > len(ROWS)


def test_arrays_are_read_for_the_comparisons_and_once_more_for_all_figures(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Counter[Path] = Counter()
    read = reader._array_bytes

    def counted(path: Path, record: Record) -> bytes:
        opened[path] += 1
        return read(path, record)

    monkeypatch.setattr(reader, "_array_bytes", counted)
    report(folder, features=[])
    assert len(opened) > len(ROWS) and set(opened.values()) == {2}


def test_every_row_has_its_line_and_its_page(page: str) -> None:
    elements = Elements(page).found
    for kind in ("tr", "dialog"):
        assert sorted(at["data-row"] or "" for tag, at in elements if tag == kind and "data-row" in at) == sorted(ROWS)


def test_specifications_hold_no_theme_and_the_numbers_of_the_rows(page: str) -> None:
    specs = [json.loads(text) for text in re.findall(r'class="spec"[^>]*>(.*?)</script>', page, re.DOTALL)]
    assert len(specs) >= 10
    for spec in specs:
        assert "config" not in spec and spec["width"] == "container"
    assert any(ROWS[3] in json.dumps(spec, ensure_ascii=False).replace("\\", "") for spec in specs)


def test_scripts_cannot_be_ended_from_inside() -> None:
    text = "a </script> b </SCRIPT> c /x<\\/script/ </td>"
    assert in_script(text) == "a <\\/script> b <\\/SCRIPT> c /x<\\/script/ </td>"
    assert json.loads(as_json({"a": text})) == {"a": text}
    assert "<" not in as_json({"a": text})


def test_what_is_missing_failed_or_stale_is_said(tmp_path: Path) -> None:
    write_rows(tmp_path, ("ce", "mma"))
    runs = tmp_path / "toy" / "runs"
    write_record(runs, a_failure("mma", 3), {})
    write_record(runs, a_failure("pmm"), {})
    older = a_record("mma", 0, finished="2025-01-01T00:00:00+00:00", identity={"fields": {"spec": "older"}})
    write_record(runs, replace(older), {})
    (runs / f"{'0' * 64}.json").write_text("{")
    text = re.sub(r"<script.*?</script>|<[^>]*>", " ", report(tmp_path).html, flags=re.DOTALL)
    text = re.sub(r"\s+", " ", text)
    assert "2 runs failed" in text and "RuntimeError: no | luck" in text
    assert "1 older record is compared with nothing" in text and "stale" in text
    assert "Files that could not be read" in text and "not a complete JSON object" in text
    assert "pmm: 0" in text


def test_both_ends_of_margins_are_shown_side_by_side(page: str) -> None:
    shown = [at["data-name"] for tag, at in Elements(page).found if tag == "th" and "data-shown" in at]
    place = shown.index("margin_lower_l2")
    assert shown[place : place + 4] == [f"margin_{end}_{norm}" for norm in ("l2", "linf") for end in ("lower", "upper")]


def test_pages_of_rows_name_columns_as_the_table_does(page: str) -> None:
    dialogs = re.findall(r"<dialog.*?</dialog>", page, re.DOTALL)
    text = " ".join(re.sub(r"<[^>]*>", " ", dialog) for dialog in dialogs)
    assert "on the front, clean accuracy" in text and "robust % L2 0.5" in text
    assert not re.search(r"(robust|certified|clean)[_ ]accuracy[_ ]l(2|inf)|repetition", text)


def test_networks_that_were_not_kept_are_one_sentence(page: str) -> None:
    text = " ".join(re.sub(r"<(?!/?code)[^>]*>", " ", page).split())
    (said,) = re.findall(r"From kept networks (.*?) Which", text)
    command = (
        r'<code class="code">marginbench run-all --suite toy --methods ce,mma --seeds 1 --out \S+ --only train</code>'
    )
    assert re.fullmatch(
        rf"Maps of features and adversarial examples need networks that were kept: networks of ce and mma are not in"
        rf" \S+: {command} trains them again\.",
        said,
    )


def test_suites_stand_apart(tmp_path: Path) -> None:
    write_rows(tmp_path, ("ce", "mma"))
    write_rows(tmp_path, ("ce", "mma"), identity={"suite": "e" * 64})
    sections = [
        at["data-suite"] for tag, at in Elements(report(tmp_path).html).found if tag == "section" and "data-suite" in at
    ]
    assert sorted(filter(None, sections)) == ["all", "e" * 8, "f" * 8]


def test_a_single_seed_says_that_nothing_is_known(tmp_path: Path) -> None:
    write_rows(tmp_path, ("ce", "mma"), seeds=1)
    html = report(tmp_path).html
    assert "Which differences are real is not known" in html
    assert "data-low" not in re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)


def test_wrong_input_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(MarginbenchError, match="no records"):
        report(tmp_path)
    with pytest.raises(ParameterError, match="no such row: did you mean 'mma'"):
        report(folder, features=["mm"])


def test_a_report_displays_itself_and_is_saved(tmp_path: Path, folder: Path) -> None:
    page = report(folder, features=[])
    assert page.save(tmp_path / "a.html").read_text("utf-8") == page.html
    ((tag, at),) = Elements(page._repr_html_()).found
    assert (tag, at["srcdoc"]) == ("iframe", page.html)


def test_the_command_writes_into_the_folder(folder: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(folder), "--features", "none"])
    assert done.exit_code == 0, done.output
    assert f"wrote {folder / 'report.html'}" in done.output
    assert "From kept networks" not in (folder / "report.html").read_text("utf-8")


def test_a_page_that_cannot_be_written_is_not_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "report", lambda *_, **__: pytest.fail("the page was made"))
    done = CliRunner().invoke(app, ["report", str(folder), "-o", str(Path(__file__) / "page.html")])
    assert done.exit_code == 2, done.output
    assert "-o " in done.output and "cannot be made" in done.output


def test_a_large_suite_stays_below_three_megabytes() -> None:
    page = report(REFERENCE)
    assert page.html.count("<tr data-row=") >= 50
    assert len(page.html.encode()) < 3e6
