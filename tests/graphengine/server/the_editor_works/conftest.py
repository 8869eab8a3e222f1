"""A server with the editor, and Chromium: one of each for a module."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import NoReturn

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.graphengine.server.conftest import Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REQUIRED = "GRAPHENGINE_REQUIRE_BROWSER"
"""The environment variable that makes a machine without a browser or the frontend fail."""
PATIENCE = 300_000
"""Milliseconds that anything may take: the first run imports the libraries, on a machine that may be busy."""


def give_up(sentence: str) -> NoReturn:
    """Skip the test, or fail it where it must run."""
    if os.environ.get(REQUIRED):
        pytest.fail(sentence)
    pytest.skip(sentence)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; of a module only, since playwright runs once at a time in a thread."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        give_up(f"there is no browser on this machine: install one of {', '.join(BROWSERS)}")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the editor, without tokens."""
    if importlib.util.find_spec("comfyui_frontend_package") is None:
        give_up("the editor is not installed: pip install 'graphengine[editor]'")
    made = Server(tmp_path_factory.mktemp("editor"), "--editor")
    yield made
    assert made.stop() == 0
    assert "Traceback" not in made.log.read_text()


class Editor:
    """The editor in a page of a browser, as a person sees it."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server = page, server
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._asked(request.url))

    def _asked(self, url: str) -> None:
        if not url.startswith((self.server.url, "data:", "blob:", self.server.url.replace("http", "ws"))):
            self.elsewhere.append(url)

    def open(self) -> None:
        """Open the editor, and wait for its graph."""
        self.page.goto(f"{self.server.url}/editor/")
        self.loaded()

    def loaded(self) -> None:
        """Wait for the graph of a page that is being opened."""
        loaded = "window.app?.graph?._nodes?.length > 0 && !document.querySelector('#splash-loader')"
        self.page.wait_for_function(loaded)

    def open_file(self, name: str) -> None:
        """Open a workflow of the list, and wait until changes of it count as such."""
        self.page.get_by_test_id("workflows-tab-button").click()
        self.page.get_by_text(name).first.click()
        active = "app.extensionManager.workflow.activeWorkflow"
        self.until(f"{active}?.path === 'workflows/{name}.json' && {active}.changeTracker?.activeState?.nodes.length")
        self.until(f"{active}.changeTracker.constructor.isLoadingGraph === false")

    def run(self) -> None:
        """Press Run."""
        self.page.get_by_test_id("queue-button").click()

    def until(self, what: str) -> None:
        """Wait until an expression of JavaScript is true, in which `node(type)` is a node of the graph."""
        self.page.wait_for_function(f"(() => {{ {NODE}; return {what}; }})()")

    def ask(self, what: str) -> object:
        """The value of an expression of JavaScript, in which `node(type)` is a node of the graph."""
        return self.page.evaluate(f"(() => {{ {NODE}; return {what}; }})()")

    def point(self, what: str) -> tuple[float, float]:
        """Where on the page a point of the graph is, given as an expression for `[x, y]`."""
        x, y = self.page.evaluate(
            f"""(() => {{ {NODE}; const [x, y] = {what}, box = app.canvas.canvas.getBoundingClientRect();
            const view = app.canvas.ds; return [(x + view.offset[0]) * view.scale + box.x,
            (y + view.offset[1]) * view.scale + box.y]; }})()"""
        )
        return x, y


NODE = "const node = type => app.graph._nodes.find(one => one.type === type)"


@pytest.fixture
def editor(browser: Browser, server: Server) -> Iterator[Editor]:
    context = browser.new_context(viewport={"width": 1500, "height": 900})
    made = Editor(context.new_page(), server)
    yield made
    context.close()
    assert made.errors == []
    assert made.elsewhere == []
