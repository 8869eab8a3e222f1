"""Bars below a cell of a notebook, which a real kernel runs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.graphengine.progress.terminal import PATIENCE, ROOT

PICTURE = """\
import base64, pathlib, time
from graphengine import Context, Graph, INERT, SocketType, View, node, register_type

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")

class Dot: ...

register_type(SocketType(Dot, "Dot", view=lambda dot: View(png=PNG)))

@node(version=1, cache="never")
def painted(x: int, ctx: Context = INERT) -> int:
    step = 0
    while not pathlib.Path("go").exists():
        step = min(step + 1, 900)
        ctx.progress(step, 1000)
        if ctx.watched:
            ctx.preview(Dot())
        time.sleep(0.05)
    return x

@node(version=1, cache="never")
def lasting(x: int) -> int:
    time.sleep(0.8)
    return x

with Graph("picture-graph") as g:
    g.output("x", painted(1))
with Graph("lasting-graph") as silent:
    silent.output("x", lasting(1))
"""


LIST = """\
from graphengine.show.notebook import show_lists

class Picture:
    def _repr_png_(self): return PNG

show_lists()
[Picture(), Picture()]
"""


class Notebook(NotebookClient):
    """Runs cells in a kernel, and makes the file `go` when a bar shows what is waited for."""

    go: Path
    waits_for: str
    shown: list[dict[str, str]]

    def process_message(self, message: Any, cell: Any, index: int) -> Any:
        data = message["content"].get("data", {})
        if "text/html" in data:
            self.shown.append(data)
            if re.search(self.waits_for, data["text/html"]):
                self.go.touch()
        return super().process_message(message, cell, index)


def execute(folder: Path, waits_for: str, *cells: str) -> tuple[Any, list[dict[str, str]]]:
    """The notebook when all cells have run, and what was shown meanwhile."""
    new: Any = nbformat.v4
    notebook = new.new_notebook(cells=[new.new_code_cell(cell) for cell in cells])
    patience: Any = {"timeout": int(PATIENCE), "iopub_timeout": int(PATIENCE)}  # by default outputs have four seconds
    client = Notebook(notebook, **patience, resources={"metadata": {"path": str(folder)}})
    client.go, client.waits_for, client.shown = folder / "go", waits_for, []
    path = os.pathsep.join([str(ROOT), str(ROOT / "nodes")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "JUPYTER_PLATFORM_DIRS": "1"}
    env.pop("GRAPHENGINE_PROGRESS", None)
    client.execute(env=env)
    return client.nb, client.shown


def test_a_cell_shows_bars_and_the_latest_preview_until_it_has_ended(tmp_path: Path) -> None:
    rich = "'rich' in __import__('sys').modules"
    notebook, shown = execute(
        tmp_path, r"<img alt=.preview.", PICTURE, "g.run()", rich, "silent.run(progress=False)", LIST, "[1, 2]",
    )  # fmt: skip
    bars = re.compile(r"painted</td>.*<progress.*\d+/1000 steps · [\d.]+ steps/s")
    assert any(bars.search(data["text/html"]) for data in shown)
    assert "picture-graph" in shown[0]["text/html"]
    assert "0/1 nodes" in shown[0]["text/plain"]
    left, value = notebook.cells[1].outputs
    assert left["data"]["text/html"] == ""  # nothing is left but the value
    assert value["data"]["text/plain"] == "{'x': 1}"
    assert notebook.cells[2].outputs[0]["data"]["text/plain"] == "False"
    assert not any("lasting" in data["text/html"] for data in shown)
    assert len(notebook.cells[3].outputs) == 1
    assert notebook.cells[4].outputs[0]["data"]["text/html"].count("<img") == 2  # a list of pictures is a row
    assert "text/html" not in notebook.cells[5].outputs[0]["data"]
