"""The report in a real browser: it draws, sorts, filters, exports, and asks no network for anything."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from browser import Page, in_browser, needs_browser
from made import a_failure
from report_support import ROWS, write_rows

from marginbench.benchmarks.records.record import write_record
from marginbench.benchmarks.reports.make import report

pytestmark = needs_browser

BOARD = "document.querySelector('section.suite:not([hidden]) table.board')"
SHOWN = f"[...{BOARD}.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.dataset.row)"
DARK = (
    "(() => { const of = document.getElementById('theme'); of.value = 'dark';"
    " of.dispatchEvent(new Event('change')); })()"
)
PANELS = "[...document.querySelectorAll('section.suite:not([hidden]) figure[data-figure]')]"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_rows(folder)
    write_record(folder / "toy" / "runs", a_failure("mixup", 3), {})
    return report(folder).save(folder / "report.html")


def looks(file: Path, look: Callable[[Page], Coroutine[Any, Any, None]], **how: Any) -> None:
    """Open the file, look at it, and see that it neither complained nor asked for anything."""

    async def whole(page: Page) -> None:
        await page.show(file, **how)
        await look(page)
        await page.run("new Promise((done) => setTimeout(done, 50))")
        assert page.complaints == []
        assert [url for url in page.requests if not url.startswith(("data:", file.as_uri()))] == []

    in_browser(whole)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_every_figure_draws_and_nothing_is_wider_than_the_page(file: Path, width: int, dark: bool) -> None:
    async def look(page: Page) -> None:
        await page.until(f"{PANELS}.every((figure) => 'drawn' in figure.dataset)")
        sizes = await page.run(
            f"{PANELS}.map((figure) => {{ const of = figure.querySelector('.chart svg').getBoundingClientRect();"
            " return [figure.dataset.figure, of.width, of.height, figure.querySelectorAll('svg path').length]; })"
        )
        assert {name for name, *_ in sizes} >= {"accuracy_curves", "margin_distribution", "accuracy_tradeoff", "cost"}
        for name, *size, paths in sizes:
            assert min(size) > 100 and paths > 5, name
        assert await page.run("document.documentElement.scrollWidth <= innerWidth")
        assert await page.run("document.documentElement.dataset.theme") == ("dark" if dark else "light")
        paper = await page.run("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") is not dark

    looks(file, look, width=width, dark=dark)


def test_headers_sort_and_say_so(file: Path) -> None:
    async def look(page: Page) -> None:
        async def press(name: str) -> tuple[list[str], str]:
            header = f"{BOARD}.querySelector('th[data-name={name}]')"
            await page.run(f"{header}.querySelector('button').click()")
            return await page.run(SHOWN), await page.run(f"{header}.getAttribute('aria-sort')")

        rows, order = await press("method")
        assert (rows, order) == (sorted(ROWS), "ascending")
        assert await press("method") == (rows[::-1], "descending")
        column = f"{BOARD}.querySelector('th[data-name=margin_upper_l2]')"
        cells = f"[...{BOARD}.tBodies[0].rows].map((row) => row.cells[{column}.cellIndex].dataset)"
        rows, order = await press("margin_upper_l2")
        groups = await page.run(f"{cells}.map((cell) => Number(cell.g))")
        assert (order, rows[0], max(groups) > 1) == ("descending", "mma", True)
        assert list(zip(groups, rows, strict=True)) == sorted(zip(groups, rows, strict=True))
        shown = await page.run(f"[...{BOARD}.querySelectorAll('td.rank')].map((cell) => cell.textContent)")
        assert shown == await page.run(f"{cells}.map((cell) => `${{cell.r}} ${{cell.l}}`)")
        await page.run("document.querySelector('form.tools').elements.grouped.click()")
        values = await page.run(f"{cells}.map((cell) => Number(cell.v))")
        assert values == sorted(values, reverse=True)
        assert await page.run(f"{BOARD}.querySelectorAll('[aria-sort]').length") == 1

    looks(file, look)


def test_filters_hide_rows_and_columns(file: Path) -> None:
    async def look(page: Page) -> None:
        async def fill(name: str, value: str) -> None:
            await page.run(
                f"(() => {{ const of = document.querySelector('form.tools').elements['{name}']; of.value = '{value}';"
                " for (const what of ['input', 'change']) of.dispatchEvent(new Event(what, { bubbles: true })); })()"
            )

        await fill("search", "weak att")
        assert await page.run(SHOWN) == ["mma"]
        assert await page.run("document.querySelector('.count').textContent") == "1 of 5 rows"
        await fill("search", "")
        await fill("family", "basics")
        assert sorted(await page.run(SHOWN)) == ["ce", "mma"]
        await fill("family", "")
        shown = f"[...{BOARD}.tHead.rows[0].cells].filter((cell) => !cell.hidden && cell.dataset.norm)"
        norms = f"[...new Set({shown}.map((cell) => cell.dataset.norm))]"
        assert sorted(await page.run(norms)) == ["l2", "linf"]
        await fill("norm", "linf")
        assert await page.run(norms) == ["linf"]
        chosen = await page.run("document.querySelector('figure[data-figure=accuracy_curves] select').value")
        assert chosen == "linf"
        lines = (await page.run("boards.values().next().value.csv()")).splitlines()
        assert len(lines) == 1 + len(ROWS)
        assert {"method", "doubts", "robust_accuracy_linf", "robust_accuracy_linf_low"} <= set(lines[0].split(","))
        assert "robust_accuracy_l2" not in lines[0]
        assert sum('"<b>bold</b> & ""quoted"" \'row\'"' in line for line in lines) == 1

    looks(file, look)


def test_picked_rows_reach_the_figures(file: Path) -> None:
    async def look(page: Page) -> None:
        await page.until(f"{PANELS}.every((figure) => 'drawn' in figure.dataset)")
        before = await page.run("[...document.querySelectorAll('tr.picked')].map((row) => row.dataset.row)")
        assert sorted(before) == ["ce", "mma"]
        await page.run("document.querySelector('tr[data-row=mixup] input').click()")
        signals = (
            "[...panelOf.values()].map((panel) => panel.view.getState({ signals: (name) => name === 'picked',"
            " data: () => false }).signals.picked).filter(Boolean)"
        )
        await page.until(f"{signals}.every((names) => names.includes('mixup'))")
        assert len(await page.run(signals)) >= 5
        await page.run("document.querySelector('form.tools').elements.only.click()")
        assert sorted(await page.run(SHOWN)) == ["ce", "mixup", "mma"]

    looks(file, look)


def test_rows_have_pages_by_link_by_keyboard_and_back(file: Path) -> None:
    async def look(page: Page) -> None:
        opened = "document.querySelector('dialog[open]')?.dataset.row ?? null"
        await page.run(f"{BOARD}.querySelector('tr[data-row=\"arcface(m=0.3)\"] .name a').focus()")
        await page.press("Enter", 13)
        await page.until(f"({opened}) === 'arcface(m=0.3)'")
        text = await page.run("document.querySelector('dialog[open]').innerText")
        assert "A paper" in text and "input margin" in text and "spec" in text
        assert await page.run("document.querySelectorAll('dialog[open] .runs thead th').length") == 1 + 3
        assert await page.run(
            "(() => { const of = document.querySelector('dialog[open] .scroll:has(.runs)');"
            " return of.scrollWidth <= of.clientWidth; })()"
        ), "nothing is cut"
        await page.press("Escape", 27)
        await page.until(f"({opened}) === null && !location.hash.startsWith('#row')")
        await page.run("history.back()")
        await page.until(f"({opened}) === 'arcface(m=0.3)'")
        await page.run("document.querySelector('dialog[open]').close()")
        links = f"[...{BOARD}.querySelectorAll('.name a')]"
        await page.run(f"{links}.find((link) => link.textContent.includes('bold')).click()")
        await page.until(f"(({opened}) ?? '').startsWith('<b>bold')")

    looks(file, look)


def test_a_telephone_shows_whole_names_and_letters(file: Path) -> None:
    async def look(page: Page) -> None:
        cut = f"[...{BOARD}.tBodies[0].querySelectorAll('.name')].filter((cell) => cell.scrollWidth > cell.clientWidth)"
        assert await page.run(f"{cut}.length") == 0
        letters = f"[...{BOARD}.tBodies[0].querySelectorAll('.rank b')]"
        assert await page.run(f"{letters}.length") == len(ROWS)
        assert await page.run(f"{letters}.every((one) => one.checkVisibility() && one.offsetWidth > 4)")
        column = f"{BOARD}.querySelector('th[aria-sort]')"
        assert await page.run(f"{column}.getBoundingClientRect().right <= innerWidth"), (
            "what orders the rows is in view"
        )

    looks(file, look, width=390)


def test_a_link_opens_the_page_of_a_row(file: Path) -> None:
    async def look(page: Page) -> None:
        key = await page.run("document.querySelector('section.suite').dataset.suite")
        assert await page.run("document.querySelector('dialog[open]')") is None
        await page.run(f"location.hash = '#row={key}/mma'")
        await page.until("document.querySelector('dialog[open]')?.dataset.row === 'mma'")
        assert "A </script> attack is weak." in await page.run("document.querySelector('dialog[open]').innerText")

    looks(file, look)


def test_doubts_explain_themselves_to_the_keyboard(file: Path) -> None:
    async def look(page: Page) -> None:
        await page.run("document.querySelector('tr[data-row=mma] .flag').focus()")
        shown = await page.run("[document.getElementById('tip').hidden, document.getElementById('tip').textContent]")
        assert shown[0] is False and "A </script> attack is weak." in shown[1] and "found in 2 points" in shown[1]
        await page.press("Escape", 27)
        assert await page.run("document.getElementById('tip').hidden")

    looks(file, look)


def test_the_theme_is_a_choice_that_redraws(file: Path) -> None:
    async def look(page: Page) -> None:
        await page.until(f"{PANELS}.every((figure) => 'drawn' in figure.dataset)")
        await page.run("window.before = document.querySelector('.chart svg').outerHTML")
        await page.run(DARK)
        await page.until("(document.querySelector('.chart svg')?.outerHTML ?? before) !== before")
        assert await page.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 25, 29)"

    looks(file, look)


def test_paper_is_white_in_the_dark_theme_too(file: Path) -> None:
    async def look(page: Page) -> None:
        assert await page.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 25, 29)"
        await page.send("Emulation.setEmulatedMedia", media="print")
        assert await page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not await page.run("document.querySelector('form.tools').checkVisibility()")
        assert await page.run(f"{BOARD}.parentElement.scrollHeight <= {BOARD}.parentElement.clientHeight")

    looks(file, look, dark=True)


def test_letters_can_be_read(file: Path) -> None:
    """Contrast of at least 4.5 (WCAG 2.2, 1.4.3) of all words, in both themes."""
    script = """(() => {
        const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
        const rgb = (colour, under) => {
            for (canvas.fillStyle of [under, colour]) canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        const linear = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        const light = (rgb) => rgb.reduce((sum, part, i) => sum + linear(part / 255) * [0.2126, 0.7152, 0.0722][i], 0);
        const paper = getComputedStyle(document.body).backgroundColor;
        const below = (element) => {
            const layers = [];
            for (let at = element; at; at = at.parentElement) layers.unshift(getComputedStyle(at).backgroundColor);
            return layers.reduce((under, colour) => `rgb(${rgb(colour, under)})`, paper);
        };
        const poor = [];
        for (const element of document.querySelectorAll('body *:not(script):not(style)')) {
            const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
            if (!words || !element.checkVisibility() || element.closest('svg, .chart, .unseen')) continue;
            const under = below(element);
            const both = [light(rgb(getComputedStyle(element).color, under)), light(rgb(under, under))];
            const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
            if (contrast < 4.5) poor.push([element.className || element.tagName, element.textContent.trim(), contrast]);
        }
        return poor;
    })()"""

    async def look(page: Page) -> None:
        assert await page.run(script) == []
        await page.run(DARK)
        assert await page.run(script) == []

    looks(file, look)
