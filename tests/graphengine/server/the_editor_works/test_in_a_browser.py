"""The editor in Chromium: the starter graph runs at the first click, mistakes stand on their node."""

from __future__ import annotations

from playwright.sync_api import expect

from .conftest import Editor


def test_the_starter_graph_runs_at_the_first_click_and_an_error_stands_on_its_node(editor: Editor) -> None:
    editor.open()
    editor.run()
    editor.until("node('SaveImage').imgs?.length === 1")
    assert editor.ask("node('SaveImage').imgs[0].naturalWidth") == 64
    assert (editor.server.folder / "out").exists()

    editor.ask("node('KSampler').disconnectInput(node('KSampler').findInputSlot('positive'))")
    editor.run()
    editor.until("node('KSampler').has_errors")
    expect(editor.page.get_by_text("positive").first).to_be_visible()
