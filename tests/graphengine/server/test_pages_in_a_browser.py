"""The pages as a person uses them: in a browser, with the embedded model, and with the keyboard only."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from graphengine.server.tokens import Tokens
from tests import ROOT
from tests.graphengine.sample import until

from .conftest import Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REQUIRED = "GRAPHENGINE_REQUIRE_BROWSER"
"""The environment variable that makes a machine without a browser fail."""
PATIENCE = 240_000
"""Milliseconds that a page may take."""
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
EVIL_WORKFLOW = f"""\
version: 1
title: "{EVIL}"
description: "{EVIL}"
inputs: {{text: {{type: str, default: "{EVIL}", help: "{EVIL}"}}}}
nodes: {{fails: {{node: door.fails, from: {{text: inputs.text}}}}}}
outputs: {{text: fails}}
"""

CLIP = """\
version: 1
inputs:
  image: {type: path, default: tree.png}
  number: {type: int, default: 0, max: 18446744073709551615}
nodes:
  read: {node: std.load_image, from: {path: inputs.image}}
  clip: {node: std.video_of, with: {fps: 5}, from: {image: [read, read, read]}}
  digest: {node: door.digest, from: {path: inputs.image}}
outputs: {clip: clip, digest: digest}
"""
"""A video and a text, of a picture that lies beside the workflow."""
DECIDES = """\
version: 1
inputs: {switch: {type: bool, default: null}}
nodes: {decides: {node: door.decides, from: {switch: inputs.switch}}}
outputs: {text: decides}
"""
SHEETS = """\
version: 1
inputs: {count: {type: int, default: 120}}
nodes: {sheets: {node: door.sheets, from: {count: inputs.count}}}
outputs: {sheets: sheets}
"""
BROKEN = """\
version: 1
title: Broken
nodes: {one: {node: door.nowhere}}
outputs: {text: one}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        sentence = f"there is no browser on this machine: install one of {', '.join(BROWSERS)}"
        if os.environ.get(REQUIRED):
            pytest.fail(sentence)
        pytest.skip(sentence)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        expect.set_options(timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def computed(server: Server) -> Server:
    """A server that has the model in memory."""
    flows = server.folder / "flows"
    (flows / "evil.yaml").write_text(EVIL_WORKFLOW)
    for name, text in {"clip": CLIP, "decides": DECIDES, "sheets": SHEETS, "broken": BROKEN}.items():
        (flows / f"{name}.yaml").write_text(text)
    shutil.copy(ROOT / "workflows" / "images" / "tree.png", flows)
    server.run("text_to_image", {"steps": 1, "prompt": "the first"})
    return server


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a phone, on which no script fails and nothing is refused by the policy of the page."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss())[1])
    page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    yield page
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    context.close()
    assert wrong == []
    assert wide <= 0, "the page is wider than a phone"


def opened(page: Page, server: Server, workflow: str) -> Page:
    """The page of a workflow, with its form."""
    page.goto(f"{server.url}/w/{workflow}")
    expect(page.locator("#run")).to_be_enabled()
    return page


def test_a_form_is_filled_and_its_picture_appears(computed: Server, page: Page) -> None:
    opened(page, computed, "text_to_image")
    expect(page.get_by_role("list").filter(has=page.locator(".shot")).get_by_role("button")).not_to_have_count(0)
    page.get_by_label("Prompt", exact=True).fill("a red house")
    page.get_by_role("spinbutton", name="Steps").fill("2")
    page.get_by_role("button", name="Draw a new number at each run").click()
    page.get_by_role("button", name="Run", exact=True).click()
    picture = page.get_by_alt_text("Image of this job")
    expect(picture).to_be_visible()
    page.wait_for_function("document.querySelector('figure img').naturalWidth > 0")
    assert picture.evaluate("image => image.getBoundingClientRect().width") > 200
    making = page.locator("dl.making")
    expect(making).to_contain_text("a red house")
    expect(making).to_contain_text(re.compile(r"Seed\d+ drawn"))
    assert "[object" not in page.locator("main").inner_text()
    newest = page.locator(".shot").first
    expect(newest).to_have_attribute("aria-current", "true")
    expect(newest.locator("img")).to_have_attribute("src", re.compile(r"width=256$"))
    job = page.url.partition("#job=")[2]
    drawn = computed.ask("GET", f"/v1/jobs/{job}").data["drawn"]["seed"]
    # The number is kept by a click, and the same picture is made again.
    page.get_by_role("button", name=f"drawn: {drawn}").click()
    expect(page.get_by_label("Seed")).to_have_value(str(drawn))
    # What a job was made with comes back after other values, and after the page is loaded anew.
    page.get_by_label("Prompt", exact=True).fill("another")
    page.reload()
    expect(page.get_by_alt_text("Image of this job")).to_be_visible()
    page.get_by_role("button", name="Again").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red house")
    page.locator(".shot").nth(1).click()
    expect(page.locator("dl.making")).to_contain_text("the first")


def test_progress_and_previews_are_seen_and_the_job_is_cancelled(computed: Server, page: Page) -> None:
    opened(page, computed, "text_to_image")
    page.get_by_role("spinbutton", name="Steps").fill("900")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text(re.compile(r"Sample, step \d+ of 900"))).to_be_visible()
    expect(page.get_by_alt_text("Preview")).to_have_attribute("src", re.compile("^data:image/"))
    assert page.get_by_role("progressbar").evaluate("bar => bar.max") == 900
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancelled.")).to_be_visible()
    assert computed.ask("GET", f"/v1/jobs/{page.url.partition('#job=')[2]}").data["state"] == "cancelled"


def test_an_error_stands_at_its_field_and_goes_when_it_is_mended(computed: Server, page: Page) -> None:
    opened(page, computed, "text_to_image")
    page.get_by_role("spinbutton", name="Steps").fill("0")
    page.get_by_label("Width").fill("99999")
    page.get_by_role("button", name="Run", exact=True).click()
    steps = page.get_by_role("spinbutton", name="Steps")
    expect(steps).to_have_attribute("aria-invalid", "true")
    expect(steps).to_be_focused()
    expect(steps).to_have_accessible_description(re.compile("^0 .*1 to 1000"))
    expect(page.get_by_label("Width")).to_have_attribute("aria-invalid", "true")
    steps.fill("1")
    expect(steps).not_to_have_attribute("aria-invalid", "true")


def test_a_picture_is_dropped_and_the_default_is_left_alone(computed: Server, page: Page, tmp_path: Path) -> None:
    opened(page, computed, "image_to_image")
    page.get_by_role("spinbutton", name="Steps").fill("2")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_alt_text("Image of this job")).to_be_visible()
    Image.radial_gradient("L").convert("RGB").resize((64, 64)).save(tmp_path / "in.png")
    # A browser is given a dropped file by a script only.
    content = list((tmp_path / "in.png").read_bytes())
    dropped = page.evaluate_handle(
        "bytes => { const drop = new DataTransfer();"
        " drop.items.add(new File([new Uint8Array(bytes)], 'in.png', {type: 'image/png'})); return drop; }",
        content,
    )
    page.locator(".drop").first.dispatch_event("drop", {"dataTransfer": dropped})
    expect(page.get_by_alt_text("in.png")).to_be_visible()
    page.get_by_role("button", name="Run", exact=True).click()
    given = page.locator("dl.making img")
    expect(given).to_have_attribute("src", re.compile("^/v1/files/sha256:"))
    assert given.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    expect(page.get_by_alt_text("Image of this job")).to_be_visible()


def test_videos_play_and_texts_are_shown(computed: Server, page: Page) -> None:
    opened(page, computed, "clip")
    page.keyboard.press("Control+Enter")
    expect(page.locator("figure pre")).to_have_text(re.compile("^[0-9a-f]{64}$"))
    video = page.locator("figure video")
    assert video.evaluate("video => { video.muted = true; return video.play().then(() => video.videoWidth); }") > 0
    expect(page.get_by_role("link", name="Download")).to_have_attribute("href", re.compile("^/v1/jobs/"))
    expect(page.locator(".shot").first.locator("video")).to_have_count(1)


def test_large_numbers_are_kept_to_the_last_digit(computed: Server, page: Page) -> None:
    opened(page, computed, "clip")
    page.get_by_label("Number").fill("18446744073709551557")
    page.keyboard.press("Control+Enter")
    expect(page.locator("figure pre")).to_be_visible()
    expect(page.locator("dl.making")).to_contain_text("18446744073709551557")
    given = computed.ask("GET", f"/v1/jobs/{page.url.partition('#job=')[2]}/inputs").data["inputs"]
    assert given == {"number": 18446744073709551557}
    page.reload()
    page.get_by_role("button", name="Again").click()
    expect(page.get_by_label("Number")).to_have_value("18446744073709551557")


def test_no_text_of_a_workflow_is_read_as_html(computed: Server, page: Page) -> None:
    opened(page, computed, "evil")
    expect(page.get_by_role("heading", level=1)).to_have_text(EVIL)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="is not lucky")).to_contain_text(EVIL)
    page.goto(computed.url)
    expect(page.get_by_role("heading", name=EVIL)).to_be_visible()
    expect(page.locator("#ended b", has_text="Evil").first).to_be_visible()
    assert page.locator("main script, main img[onerror]").count() == 0


def test_the_keyboard_is_enough(computed: Server, page: Page) -> None:
    opened(page, computed, "greet")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "in-text":
            break
    page.keyboard.type("typed")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("link", name=re.compile(r"greet_sheet.*\.html"))).to_be_visible()


def test_the_queue_is_paused_moved_and_cancelled(computed: Server, page: Page) -> None:
    page.goto(computed.url)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(page.get_by_role("link", name="Editor")).to_be_hidden()
    for text in ("first", "second"):
        computed.ask("POST", "/v1/workflows/greet/jobs", {"inputs": {"text": text}})
    rows = page.locator("#jobs li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("first")
    rows.nth(1).get_by_role("button", name="Move up").click()
    expect(rows.first).to_contain_text("second")
    rows.nth(1).get_by_role("button", name="Cancel").click()
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Resume").click()
    expect(rows).to_have_count(0)
    ended = page.locator("#ended li").first
    expect(ended).to_contain_text("second")
    ended.get_by_role("link", name="Again").click()
    expect(page.get_by_label("Text")).to_have_value("second")


def test_what_is_not_chosen_is_decided_by_the_node(computed: Server, page: Page) -> None:
    opened(page, computed, "decides")
    said = page.locator("figure pre")
    for choice, text in (("automatic", "decided here"), ("no", "False"), ("yes", "True")):
        page.get_by_label("Switch", exact=True).select_option(choice)
        page.get_by_role("button", name="Run", exact=True).click()
        expect(said).to_have_text(text)


def test_a_form_that_is_being_sent_is_not_sent_again(computed: Server, page: Page) -> None:
    opened(page, computed, "decides")
    sent, waiting = list[str](), list[Route]()
    page.route("**/v1/workflows/decides/jobs", lambda route: (sent.append(route.request.url), waiting.append(route)))
    for _ in range(5):
        page.keyboard.press("Control+Enter")
    button = page.locator("#run")
    expect(button).to_have_text("Sending …")
    expect(button).to_be_disabled()
    while not waiting:  # the button says so before the request is made
        page.wait_for_timeout(20)  # lets the browser's events come
    waiting[0].continue_()
    expect(page.locator("figure pre")).to_have_text("decided here")
    expect(button).to_have_text("Run")
    assert len(sent) == 1


@pytest.mark.parametrize("height", [400, 700])
def test_the_result_is_brought_into_view(computed: Server, page: Page, height: int) -> None:
    def top() -> float:
        box = page.locator("#result").bounding_box()
        assert box is not None
        return box["y"]

    page.set_viewport_size({"width": 1280, "height": height})
    opened(page, computed, "text_to_image")
    page.get_by_role("spinbutton", name="Steps").fill("1")
    page.locator("#run").scroll_into_view_if_needed()
    assert top() < 0  # above what is seen
    page.locator("#run").click()
    until(lambda: top() >= 0)
    expect(page.get_by_alt_text("Image of this job")).to_be_in_viewport()


def test_of_many_pictures_the_first_are_shown(computed: Server, page: Page) -> None:
    opened(page, computed, "sheets")
    page.get_by_role("button", name="Run", exact=True).click()
    pictures = page.get_by_alt_text("Sheets of this job")
    expect(pictures).to_have_count(48)
    expect(pictures.first).to_have_attribute("src", re.compile(r"width=512$"))
    page.get_by_role("button", name="Show all 120").click()
    expect(pictures).to_have_count(120)
    page.get_by_text("Download 120 files").click()
    expect(page.locator(".files a")).to_have_count(120)


def test_a_workflow_that_cannot_be_run_says_so(computed: Server, page: Page) -> None:
    page.goto(computed.url)
    card = page.locator("#workflows li", has_text="Broken")
    expect(card).to_contain_text("no installed pack has a node called door.nowhere")
    page.goto(f"{computed.url}/w/broken")
    expect(page.get_by_role("alert")).to_contain_text("no installed pack has a node called door.nowhere")
    expect(page.locator("#run")).to_be_disabled()


def test_the_focus_stays_at_a_row_that_is_moved(computed: Server, page: Page) -> None:
    page.goto(computed.url)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    jobs = [computed.ask("POST", "/v1/workflows/greet/jobs", {"inputs": {"text": f"row {n}"}}).data for n in range(3)]
    rows = page.locator("#jobs li")
    expect(rows).to_have_count(3)
    up = rows.filter(has_text="row 2").get_by_role("button", name="Move up")
    up.focus()
    page.keyboard.press("Enter")
    expect(rows.nth(1)).to_contain_text("row 2")
    expect(up).to_be_focused()
    computed.ask("POST", f"{jobs[0]['urls']['self']}/cancel")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("row 2")
    expect(rows.first.get_by_role("link")).to_be_focused()  # the first row has no button to move it up
    page.get_by_role("button", name="Resume").click()
    expect(rows).to_have_count(0)


def test_a_page_outlives_a_restart_of_its_server(browser: Browser, tmp_path: Path) -> None:
    server = Server(tmp_path)
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    try:
        page = opened(context.new_page(), server, "gate")
        file = tmp_path / "open"
        page.get_by_label("File").fill(str(file))
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.get_by_text("step 1 of 2")).to_be_visible()
        assert page.title().startswith("▸ ")
        server.stop()
        expect(page.get_by_role("status")).to_contain_text("The server does not answer")
        file.touch()
        server = Server(tmp_path, "--port", server.port)
        expect(page.locator("figure pre")).to_have_text("through")
        assert not page.title().startswith("▸ ")
    finally:
        context.close()
        server.stop()


def test_a_token_that_may_only_read_sees_no_buttons(browser: Browser, tmp_path: Path) -> None:
    known = Tokens(tmp_path / "tokens.json")
    tokens = {"reader": known.add("reader", read_only=True), "greeter": known.add("greeter", workflows=("greet",))}
    server = Server(tmp_path, "--token-file", tmp_path / "tokens.json")
    try:
        for name, token in tokens.items():
            context = browser.new_context()
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            page.goto(f"{server.url}/w/fails")
            page.get_by_label("Token").fill(token)
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_have_text("Your token may not run this workflow.")
            expect(page.locator("#run")).to_be_disabled()
            page.goto(server.url)
            expect(page.locator("#queue-words")).to_have_text("Nothing waits.")
            expect(page.get_by_role("button", name="Pause")).to_be_visible(visible=name == "greeter")
            cards = page.locator("#workflows li")
            expect(cards).to_have_count(1 if name == "greeter" else len(server.ask(
                "GET", "/v1/workflows", Authorization=f"Bearer {token}").data["workflows"]))  # fmt: skip
            context.close()
    finally:
        server.stop()


def test_a_token_opens_the_pages(browser: Browser, tmp_path: Path) -> None:
    token = Tokens(tmp_path / "tokens.json").add("ann")
    server = Server(tmp_path, "--token-file", tmp_path / "tokens.json")
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    try:
        page = context.new_page()
        page.goto(f"{server.url}/w/greet")
        page.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("This token is not known here.")
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{server.url}/w/greet")
        expect(page.get_by_label("Text")).to_be_visible()
        server.token = token
        job = server.run("greet", {"text": "of ann"})
        page.goto(server.url)
        expect(page.locator("#ended li")).to_contain_text("of ann")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        # The way to a job leads through the login.
        page.goto(f"{server.url}/w/greet#job={job['id']}")
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        expect(page.locator("dl.making")).to_contain_text("of ann")
    finally:
        context.close()
        server.stop()
