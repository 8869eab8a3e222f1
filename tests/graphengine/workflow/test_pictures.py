from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import PIL.PngImagePlugin
import pytest

from graphengine import WorkflowError, load
from tests.graphengine_comfy.formats.test_api_format import PROMPT


def picture(path: Path, **texts: str) -> Path:
    """A PNG with these texts."""
    info = PIL.PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    PIL.Image.new("RGB", (8, 8)).save(path, "PNG", pnginfo=info)
    return path


def test_a_workflow_in_a_picture_is_read_and_may_not_write_files(tmp_path: Path) -> None:
    file = picture(tmp_path / "p.png", prompt=json.dumps(PROMPT), workflow="{}")
    with pytest.raises(WorkflowError) as caught:
        load(file)
    (problem,) = caught.value.problems
    assert (problem.kind, problem.where.node) == ("writes", "n5")  # it was read: the node is known


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, "this picture holds no workflow"),
        ({"graphengine": "{}"}, "graphengine rerun"),
        ({"prompt": "{"}, "JSON"),
        ({"prompt": "[" * 100_000}, "nested"),
        ({"prompt": json.dumps({"3": {"class_type": "Nothing"}})}, "Nothing (node 3)"),
    ],
)
def test_a_picture_without_a_workflow_is_refused(tmp_path: Path, texts: dict[str, str], message: str) -> None:
    with pytest.raises(WorkflowError, match="(?s).*" + message.replace("(", r"\(").replace(")", r"\)")):
        load(picture(tmp_path / "p.png", **texts))


def test_a_damaged_picture_is_refused(tmp_path: Path) -> None:
    file = picture(tmp_path / "p.png", prompt="{}")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(WorkflowError, match="cannot be read"):
        load(file)
