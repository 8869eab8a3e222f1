"""The editor in Chromium: the starter graph runs at the first click, mistakes stand on their node, pictures open."""

from __future__ import annotations

import base64

import PIL.Image
from playwright.sync_api import expect

from .conftest import Editor

DROP = """content => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0)), data = new DataTransfer();
    data.items.add(new File([bytes], "ours.png", {type: "image/png"}));
    document.querySelector("#graph-canvas").dispatchEvent(
        new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true, clientX: 400, clientY: 700}));
}"""
"""Drops a picture on the canvas."""


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
    content = base64.b64encode(picture.read_bytes()).decode()
    editor.page.evaluate(DROP, content)
    editor.until("node('KSampler')?.inputs?.some(input => input.name === 'positive' && input.link != null)")
