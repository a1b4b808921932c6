"""The report and the comparison in a browser: on a phone and a desk, in both colour schemes, without network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayfactory.__main__ import main
from rayfactory.analysis.report_page import report_page
from rayfactory.config import Config

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; make browser installs it")

SIZES = [360, 1440]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Debian's own build; as root it needs the flag.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(run_dir: Path, shop_config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the file of each page."""
    out = tmp_path_factory.mktemp("pages")
    assert main(["task=report", f"run_dir={run_dir}", f"output={out}"]) == 0
    data_dir = f"data_dir={shop_config.data_dir}"
    assert main(["task=compare", f"runs=['{run_dir}','{run_dir}']", f"output={out}", data_dir]) == 0
    return {name: out / f"{name}.html" for name in ("report", "compare")}


def opened(browser: Any, path: Path, width: int, scheme: str) -> tuple[Any, list[str]]:
    """Return a page, and what its console says as it goes on."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else said.append(request.url))
    page.goto(path.as_uri())
    return page, said


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("name", ["report", "compare"])
def test_page_opens_fits_and_is_accessible(browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str):
    from axe_playwright_python.sync_playwright import Axe

    page, said = opened(browser, pages[name], width, scheme)
    for summary in page.locator("main details > summary").all()[:12]:
        summary.click()
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    violations = [each for each in Axe().run(page).response["violations"] if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"]) for each in violations] == []
    assert said == []
    page.context.close()


def test_sample_is_searched_filtered_and_read_with_the_keyboard(browser: Any, pages: dict[str, Path]):
    page, said = opened(browser, pages["report"], 1440, "light")
    rows = json.loads(page.locator("#sample").text_content())
    count = page.locator("#count")
    assert count.text_content() == f"{len(rows)} of {len(rows)} queries; page 1 of {-(-len(rows) // 20)}"
    assert page.locator("#found > li").count() == 20
    page.locator("#search").fill("Customer JOIN")
    found = [row for row in rows if "customer" in row["sql"].lower() and "join" in row["sql"].lower()]
    assert str(count.text_content()).startswith(f"{len(found)} of ")
    page.locator("#construct").select_option("window")
    found = [row for row in found if "window" in row["constructs"]]
    assert str(count.text_content()).startswith(f"{len(found)} of ")
    page.locator("#search").fill("")
    page.locator("#construct").select_option("")
    page.locator("#order").select_option("num_tokens")
    longest = max(rows, key=lambda row: (row["num_tokens"], -row["query_id"]))
    summary = page.locator("#found summary").first
    assert str(summary.text_content()).startswith(f"{longest['query_id']} · ")
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("#found details[open] pre").first.text_content() == longest["formatted"]
    page.locator("#after").focus()
    page.keyboard.press("Enter")
    assert "page 2 of" in str(count.text_content())
    page.locator("#joins").select_option("4")
    assert str(count.text_content()).startswith(f"{sum(row['num_joins'] >= 4 for row in rows)} of ")
    assert said == []
    page.context.close()


def test_nothing_in_a_query_is_run(browser: Any, pages: dict[str, Path], tmp_path: Path):
    evil = "SELECT '<img src=x onerror=\"document.title = 1\"></script><script>document.title = 2</script>' FROM a"
    report = pages["report"]
    measures = json.loads(report.with_suffix(".json").read_text())
    for pair in measures["nearest_pairs"]:
        pair["formatted"] = evil
    page, _ = opened(browser, report, 1440, "light")
    rows = json.loads(page.locator("#sample").text_content())[:3]
    page.context.close()
    (tmp_path / "evil.html").write_text(report_page(measures, [row | {"sql": evil, "formatted": evil} for row in rows]))
    page, said = opened(browser, tmp_path / "evil.html", 1440, "light")
    page.locator("#found summary").first.click()
    assert page.locator("#found details[open] pre").first.text_content() == evil
    assert page.title() == "shop run: 130 queries"
    assert page.locator("main img").count() == 0
    assert said == []
    page.context.close()
