"""Promise: workflow files are read and mean what they meant; a picture says how it was made, and is made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import pytest

from graphengine import DiskStore, load
from graphengine.results.record import graph_of, read
from graphengine.workflow.files import to_document

from .make import run

MADE = Path(__file__).parent / "made"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the files that were written before."""
    shutil.copytree(MADE, tmp_path / "made")
    return tmp_path / "made"


@pytest.mark.parametrize("name", ["everything.yaml", "everything.json"])
def test_a_workflow_file_means_what_it_meant(folder: Path, values: Any, jobs: Any, name: str) -> None:
    graph = load(folder / "workflows" / name)
    assert graph.problems() == []
    assert graph.key == json.loads((folder / "graphs.json").read_text())["everything"]
    assert graph == jobs.everything()
    disk = DiskStore(folder / "workflows" / "results")
    for output, value in graph.run().items():
        entry = disk.get(values.key_of(output))
        assert entry is not None, output
        assert values.same(entry.value, value), output


def test_it_is_written_as_it_was(folder: Path, jobs: Any) -> None:
    graph = load(folder / "workflows" / "everything.json")
    before = json.loads((folder / "workflows" / "everything.json").read_text())
    assert to_document(graph, values_folder=folder / "workflows", stem="everything", pin=True) == before


def test_a_picture_carries_the_graph_that_made_it(folder: Path) -> None:
    record = read(folder / "made.png")
    graph, inputs = graph_of(record, {})
    assert graph == load(folder / "workflows" / "text_to_image.yaml")
    assert inputs == {"steps": 2, "width": 16, "height": 16, "seed": 5}


def test_a_picture_is_made_again(folder: Path) -> None:
    again = ("-m", "graphengine.cli", "rerun", folder / "made.png", "--json", "--no-cache", "--out", folder / "out")
    told = json.loads(run(*again).splitlines()[-1])
    assert told["kind"] == "rerun"
    assert not [sentence for sentence in told["differs"] if "weights" in sentence]
    made, before = (numpy.asarray(PIL.Image.open(file)).astype(int) for file in (told["files"][0], folder / "made.png"))
    assert abs(made - before).max() <= 3  # another processor or torch may round otherwise
