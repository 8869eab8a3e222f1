"""Every example runs as its page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import PIL.Image
import pytest
from nbclient import NotebookClient

from tests.docs.forking import PATIENCE, ROOT, environment

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in (EXAMPLES / "scripts").glob("*.py"))
LONG = {"many_jobs.py"}
"""Scripts that start workers."""


def done(server: Path, folder: Path, command: str) -> str:
    """What a command writes on standard output; it may not fail."""
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment(server, folder), capture_output=True,
        text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("script", [pytest.param(s, marks=[pytest.mark.slow] if s in LONG else []) for s in SCRIPTS])
def test_a_script(script: str, server: Path, tmp_path: Path) -> None:
    said = done(server, tmp_path, f"python {EXAMPLES / 'scripts' / script} made")
    made = list((tmp_path / "made").rglob("*.png")) if (tmp_path / "made").exists() else []
    for picture in made:
        PIL.Image.open(picture).verify()
    assert made or "sample: memory" in said or "step 4 of 4" in said


def test_the_pack_that_can_be_installed(server: Path, tmp_path: Path) -> None:
    pack = EXAMPLES / "palette_pack"
    assert "4 passed" in done(server, tmp_path, f"pytest -q -p no:cacheprovider {pack / 'tests'}")


def test_its_workflow_is_found_by_name(server: Path, tmp_path: Path) -> None:
    pack = EXAMPLES / "palette_pack" / "palette"
    done(server, tmp_path, f"graphengine run colours --packs {pack} --set steps=2 --set count=3")
    (text,) = (tmp_path / "out").glob("*.txt")
    assert re.fullmatch(r"#\w{6}( #\w{6}){0,2}\n", text.read_text())


def test_a_round_more_computes_a_round(server: Path, tmp_path: Path) -> None:
    pack = EXAMPLES / "refine_pack"
    run = f"graphengine run {pack / 'refine.yaml'} --packs {pack / 'refine'} --set steps=2 --json"
    said = done(server, tmp_path, f"{run} --set rounds=1 > first; {run} --set rounds=2")
    events = [json.loads(line) for line in said.splitlines()]
    samples = [e["reuse"] for e in events if e["kind"] == "node_finished" and e["type"] == "std.sample"]
    assert sorted(samples).count("computed") == 1
    files = [Path(file) for file in events[-1]["files"]]
    sides = [PIL.Image.open(tmp_path / file).size[0] for file in files]
    first = json.loads((tmp_path / "first").read_text().splitlines()[-1])["files"]
    assert sides[0] > PIL.Image.open(tmp_path / first[0]).size[0] > 64


def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "nodes")]))
    formats: Any = nbformat
    notebook = formats.reads((EXAMPLES / "notebooks" / "first_steps.ipynb").read_text("utf-8"), as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    patience: Any = {"timeout": int(PATIENCE), "iopub_timeout": int(PATIENCE)}  # by default outputs have four seconds
    NotebookClient(notebook, **patience, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output["data"] for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
             if "data" in output]  # fmt: skip
    assert sum("image/png" in data for data in shown) >= 2
    assert sum("text/html" in data for data in shown) >= 3


def test_every_example_is_listed() -> None:
    text = (EXAMPLES / "README.md").read_text("utf-8")
    there = {f"{path.name}/" for path in EXAMPLES.glob("*_pack")}
    there |= {f"{path.parent.name}/{path.name}" for path in EXAMPLES.glob("*/*") if path.suffix in (".py", ".ipynb")}
    assert set(re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)) == there
