"""The documentation as a reader opens it: from a folder, in a browser, with no network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from tests import ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REQUIRED = "GRAPHENGINE_REQUIRE_BROWSER"
"""The environment variable that makes a machine without a browser fail."""
PATIENCE = 60_000
"""Milliseconds that a page may take."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built as the README says."""
    folder: Path = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture
def asked() -> list[str]:
    """The requests that left for a network."""
    return []


@pytest.fixture
def page(asked: list[str]) -> Iterator[Page]:
    """A page of a browser without a network, which writes down what was asked of one."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        sentence = f"there is no browser on this machine: install one of {', '.join(BROWSERS)}"
        if os.environ.get(REQUIRED):
            pytest.fail(sentence)
        pytest.skip(sentence)

    def answer(route: Route) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        context = browser.new_context(offline=True)
        context.set_default_timeout(PATIENCE)
        context.route("**/*", answer)
        yield context.new_page()
        browser.close()


def test_a_page_is_found_by_a_word(site: Path, page: Page, asked: list[str]) -> None:
    page.goto((site / "index.html").as_uri())
    page.locator("input.md-search__input").press_sequentially("feather_mask")
    found = page.locator("a.md-search-result__link", has_text="feather_mask").first
    expect(found).to_be_visible(timeout=PATIENCE)
    found.click()
    expect(page).to_have_url(re.compile(r"reference/nodes\.html"), timeout=PATIENCE)
    expect(page.locator("#feather_mask")).to_contain_text("feather_mask", timeout=PATIENCE)
    assert asked == []


def test_no_page_asks_a_network_for_anything(site: Path, page: Page, asked: list[str]) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 10
    for file in pages:
        page.goto(file.as_uri(), wait_until="load")
        expect(page.locator("h1").first).to_be_visible(timeout=PATIENCE)
    assert asked == []
    assert errors == []


def test_every_picture_of_every_page_is_there(site: Path) -> None:
    missing = []
    for file in site.rglob("*.html"):
        if file.name == "404.html":  # its addresses are those of a server's root
            continue
        for source in re.findall(r'<img[^>]* src="([^"]+)"', file.read_text("utf-8")):
            if not source.startswith("data:") and not (file.parent / source).is_file():
                missing.append(f"{file.relative_to(site)}: {source}")
    assert missing == []
