"""The editor in Chromium: the starter graph runs at the first click, mistakes stand on their node, pictures open."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import PIL.Image
import pytest
from playwright.sync_api import Browser, expect

from graphengine import load
from tests import ROOT
from tests.graphengine.cli.conftest import command
from tests.graphengine.sample import until

from .conftest import Editor

DROP = """([content, name, type]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0)), data = new DataTransfer();
    data.items.add(new File([bytes], name, {type}));
    document.querySelector("#graph-canvas").dispatchEvent(
        new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true, clientX: 400, clientY: 700}));
}"""
"""Drops a file on the canvas: its content as base64, its name and its type."""
BADGES = "node.badges.map(badge => (typeof badge === 'function' ? badge() : badge).text).filter(text => text)"
"""The texts of the badges of `node`."""


def drop(editor: Editor, path: Path, type: str) -> None:
    """Drop a file on the canvas."""
    editor.page.evaluate(DROP, [base64.b64encode(path.read_bytes()).decode(), path.name, type])


def test_the_starter_graph_runs_at_the_first_click_and_an_error_stands_on_its_node(editor: Editor) -> None:
    editor.open()
    editor.run()
    editor.until("node('SaveImage').imgs?.length === 1")
    assert editor.ask("node('SaveImage').imgs[0].naturalWidth") == 128
    assert (editor.server.folder / "out").exists()

    editor.ask("node('KSampler').disconnectInput(node('KSampler').findInputSlot('positive'))")
    editor.run()
    editor.until("node('KSampler').has_errors")
    expect(editor.page.get_by_text("positive").first).to_be_visible()
    picture = next((editor.server.folder / "out").glob("*.png"))
    with PIL.Image.open(picture) as opened:
        assert {"workflow", "prompt", "graphengine"} <= set(opened.info)

    editor.ask("app.graph.clear()")
    drop(editor, picture, "image/png")
    editor.until("node('KSampler')?.inputs?.some(input => input.name === 'positive' && input.link != null)")


def test_a_yaml_file_is_opened_changed_saved_and_run(editor: Editor) -> None:
    file = editor.server.folder / "flows" / "portrait.yaml"
    shutil.copy(ROOT / "workflows" / "text_to_image.yaml", file)
    text = "# My own.\n" + file.read_text().replace("\nnodes:\n", "\nnodes:\n  # All that is done.\n")
    file.write_text(text)
    editor.open()
    editor.open_file("portrait.yaml")
    editor.until("node('std.sample')?.inputs.some(input => input.name === 'seed' && input.link != null)")
    titles = editor.ask("app.graph._nodes.map(node => node.title)")
    assert {"prompt", "seed", "model", "sample", "image"} <= set(titles if isinstance(titles, list) else ())
    editor.run()
    editor.until("node('Output').imgs?.length === 1")

    editor.ask("(node('InputSeed').widgets.find(one => one.name === 'value').value = 7)")
    editor.page.locator("#graph-canvas").click(position={"x": 700, "y": 800})
    editor.page.keyboard.press("Control+s")
    until(lambda: "default: 7" in file.read_text())
    assert file.read_text().startswith(text.replace("seed: {type: int, default: 0,", "seed: {type: int, default: 7,"))
    shipped = load("text_to_image")
    assert load(file).inputs["seed"].default == 7
    assert list(load(file).inputs) == list(shipped.inputs)
    out = editor.server.folder / "by_hand.png"
    run = subprocess.run(
        command("run", file, "--out", out), env=editor.server.environment, cwd=editor.server.folder,
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    editor.run()
    by_cli = out if out.is_file() else next(out.rglob("*.png"))
    made = editor.server.folder / "out"
    with PIL.Image.open(by_cli) as one:
        wanted = one.tobytes()

    def is_there() -> bool:
        for path in made.glob("*.png"):  # and none in a hidden folder, where it is being written
            with PIL.Image.open(path) as other:
                if other.tobytes() == wanted:
                    return True
        return False

    until(is_there)
    editor.ask("app.graph.clear()")
    drop(editor, by_cli, "image/png")  # which knows nothing of the editor
    editor.until("node('InputSeed')?.widgets.find(one => one.name === 'value').value === 7")


@pytest.mark.slow
def test_badges_say_what_is_mapped_chosen_and_cached(editor: Editor) -> None:
    def badges(type: str) -> object:
        return editor.ask(f"(node => {BADGES})(node('{type}'))")

    editor.open()
    drop(editor, ROOT / "workflows" / "sweep.yaml", "application/yaml")
    editor.until("node('std.sample')?.inputs.some(input => input.name === 'seed' && input.link != null)")
    assert badges("std.sample") == ["each seed"]
    editor.run()
    editor.until("node('Output').imgs?.length === 4")
    assert badges("std.decode_latent") == ["each latent"]
    editor.run()
    editor.until(f"(node => {BADGES})(node('std.decode_latent')).includes('cached')")
    editor.ask("void app.graph.add(LiteGraph.createNode('flow.when'))")
    assert badges("flow.when") == ["only what is chosen"]


@pytest.mark.slow
def test_what_cannot_be_saved_is_told(editor: Editor) -> None:
    file = editor.server.folder / "flows" / "bypassed.yaml"
    shutil.copy(ROOT / "workflows" / "text_to_image.yaml", file)
    editor.open()
    editor.open_file("bypassed.yaml")
    editor.until("node('std.sample')?.inputs.some(input => input.name === 'seed' && input.link != null)")
    editor.ask("(node('std.sample').mode = 4)")
    editor.page.locator("#graph-canvas").click(position={"x": 700, "y": 800})
    editor.page.keyboard.press("Control+s")
    expect(editor.page.get_by_text("the node sample is bypassed").first).to_be_visible()
    assert file.read_bytes() == (ROOT / "workflows" / "text_to_image.yaml").read_bytes()
    drop(editor, editor.server.folder / "flows" / "misses.yaml", "application/yaml")
    editor.until("node('door.misses')")
    nested = editor.server.folder / "nested.yaml"
    nested.write_text("version: 1\nnodes: {a: {workflow: {nodes: {}}}}\n")
    drop(editor, nested, "application/yaml")
    expect(editor.page.get_by_text("a workflow used as a node").first).to_be_visible()


@pytest.mark.slow
def test_a_graph_is_changed_by_hand_saved_and_opened_again(editor: Editor, browser: Browser) -> None:
    editor.open()
    page = editor.page
    page.mouse.dblclick(250, 700)
    page.keyboard.type("std.resize_image", delay=20)
    expect(page.get_by_text("std.resize_image").or_(page.get_by_text("Resize image")).first).to_be_visible()
    page.keyboard.press("Enter")
    editor.until("node('std.resize_image')?.flags.ghost")  # it hangs on the pointer until the next click
    page.mouse.move(200, 700)
    page.mouse.move(240, 720, steps=5)
    page.mouse.down()
    page.mouse.up()
    editor.until("!node('std.resize_image').flags.ghost")
    start, end = (editor.point(f"node('{type}').getConnectionPos({side}, 0)")
                  for type, side in (("VAEDecode", "false"), ("std.resize_image", "true")))  # fmt: skip
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(end[0] + 30, end[1] - 30, steps=5)
    page.mouse.move(*end, steps=5)
    page.mouse.up()
    editor.until("node('std.resize_image').inputs[0].link != null")

    page.keyboard.press("Control+s")
    page.get_by_role("dialog").get_by_role("textbox").fill("by hand")
    page.keyboard.press("Enter")
    saved = editor.server.folder / "flows" / "by hand.json"
    until(saved.exists)
    another = Editor(browser.new_page(), editor.server)  # with nothing in its own storage
    another.open()
    assert another.ask("node('std.resize_image') == null")
    another.page.get_by_test_id("workflows-tab-button").click()
    another.page.get_by_text("by hand").first.click()
    another.until("node('std.resize_image')?.inputs[0].link != null")
    another.page.close()


@pytest.mark.slow
def test_a_run_goes_on_through_a_reload_and_is_cancelled(editor: Editor) -> None:
    editor.open()
    editor.ask("node('KSampler').widgets.find(one => one.name === 'steps').value = 2000")
    editor.run()
    editor.until("node('KSampler').progress > 0 && node('KSampler').imgs?.length === 1")  # its preview
    assert editor.ask("node('KSampler').imgs[0].naturalWidth") == 256
    drafts = "Object.keys(localStorage).filter(name => name.startsWith('Comfy.Workflow.Draft'))"
    editor.until(f"{drafts}.some(name => localStorage[name].includes(',2000,'))")  # a moment after the change
    editor.page.reload()
    editor.loaded()
    editor.until("node('KSampler').progress > 0")
    editor.page.get_by_role("button", name="Cancel current run").first.click()
    until(lambda: editor.server.ask("GET", "/editor/api/queue").data["queue_running"] == [])
    newest = editor.server.ask("GET", "/editor/api/jobs?limit=1").data["jobs"][0]
    assert newest["status"] == "cancelled"
    editor.page.get_by_test_id("queue-button").click()
    expect(editor.page.get_by_text("Job queued").first).to_be_visible()  # after what there is to say of the job before
    expect(editor.page.get_by_text("Job failed")).to_be_hidden()
