from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.PngImagePlugin
import pytest

from graphengine.workflow.files import from_document
from tests.graphengine.cli.conftest import Done, environment

PROMPT: dict[str, Any] = {
    "3": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 24, "batch_size": 1, "color": 255}},
    "57:8": {"class_type": "ImageInvert", "inputs": {"image": ["3", 0]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["57:8", 0], "filename_prefix": "x"}},
}


@pytest.fixture
def command(tmp_path: Path) -> Any:
    """Run `graphengine` in a process of its own."""

    def run(*words: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "graphengine.cli", *words], cwd=tmp_path, env=environment(tmp_path), text=True,
            capture_output=True, timeout=120,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def test_a_prompt_runs_and_its_literals_are_set(tmp_path: Path, command: Any) -> None:
    (tmp_path / "from_comfyui.json").write_text(json.dumps(PROMPT))
    done = command("validate", "from_comfyui.json")
    assert (done.code, done.out) == (0, "from_comfyui.json: ok\n"), done.err
    done = command("run", "from_comfyui.json", "--set", "3.width=32", "--set", "n3.color=0")
    assert done.code == 0, done.err
    with picture_in(tmp_path / "out") as made:
        assert (made.size, made.convert("RGB").getpixel((0, 0))) == ((32, 24), (255, 255, 255))


@pytest.mark.parametrize(
    ("set", "message"),
    [
        ("3.widht=3", "comfy.EmptyImage has no input widht; did you mean width"),
        ("3.width=wide", "n3.width"),
        ("9.images=3", "n9.images: it gets its value from n57_8"),
        ("4.width=3", "has no input 4.width"),
    ],
)
def test_what_cannot_be_set_is_said(tmp_path: Path, command: Any, set: str, message: str) -> None:
    (tmp_path / "p.json").write_text(json.dumps(PROMPT))
    done = command("run", "p.json", "--set", set)
    assert done.code == 2
    assert message in done.err


def test_a_failure_names_the_node_of_the_file(tmp_path: Path, command: Any) -> None:
    wrong = PROMPT | {"9": PROMPT["9"] | {"_meta": {"title": "Keep it"}}}
    wrong["9"]["inputs"] = PROMPT["9"]["inputs"] | {"filename_prefix": "../x"}
    (tmp_path / "p.json").write_text(json.dumps(wrong))
    for options in ((), ("--json",)):
        done = command("run", "p.json", *options)
        assert done.code == 1
        assert "node n9 (comfy.SaveImage), node 9 of the file, 'Keep it', failed: ValueError: filename" in done.err
    assert "node 9 of the file, 'Keep it'" in json.loads(done.out.splitlines()[-1])["error"]


def test_a_picture_of_comfyui_runs(tmp_path: Path, command: Any) -> None:
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("prompt", json.dumps(PROMPT))
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "picture.png", pnginfo=info)
    done = command("run", "picture.png", "--out", "made")
    assert done.code == 0, done.err
    with picture_in(tmp_path / "made") as made:
        assert made.size == (16, 24)


def test_a_workflow_is_written_as_a_prompt_that_runs(tmp_path: Path, command: Any) -> None:
    (tmp_path / "p.json").write_text(json.dumps(PROMPT))
    done = command("workflows", "p.json", "--copy", "q.json", "--as", "comfyui")
    assert (done.code, done.out) == (0, "q.json\n"), done.err
    assert json.loads((tmp_path / "q.json").read_text()) == PROMPT
    done = command("workflows", "p.json", "--copy", "q.json", "--as", "comfyui")
    assert done.code == 3
    assert "--force" in done.err
    done = command("workflows", "text_to_image", "--copy", "t.json", "--as", "comfy")
    assert done.code == 2
    assert "did you mean ComfyUI" in done.err
    assert command("workflows", "text_to_image", "--copy", "t.json", "--as", "ComfyUI").code == 0
    done = command("validate", "t.json")
    assert (done.code, done.out) == (0, "t.json: ok\n"), done.err


def picture_in(folder: Path) -> PIL.Image.Image:
    (file,) = folder.glob("*.png")
    return PIL.Image.open(file)


def test_problems_name_nodes_by_their_ids_in_the_file() -> None:
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny"}}
    encoder = {"class_type": "CLIPTextEncode", "inputs": {"text": "a house", "clip": ["57:4", 2]}}
    shown = {"class_type": "PreviewAny", "inputs": {"source": ["57:6", 0]}}
    graph = from_document({"57:4": loader, "57:6": encoder, "9": shown}, name="wrong")
    (problem,) = graph.problems()
    assert str(problem) == "n57_6.clip: wants CLIP, gets VAE from n57_4.VAE (it is node 57:6 of the file)"
