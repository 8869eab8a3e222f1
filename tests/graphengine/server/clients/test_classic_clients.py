"""The clients of ComfyUI's classic API: comfy-script, comfyapi, comfy-api-simplified and comfy-cli, unmodified."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.graphengine.sample import until

from ..conftest import PIXEL, Server
from .conftest import Environment

TALKS = Path(__file__).parent / "classic_talks.py"
LIBRARIES = {
    "simplified": ("comfy-api-simplified==1.6.0",),
    "manager": ("comfyapi==2.0.1",),
    "script": ("comfy-script[client]==0.6.1", "tqdm", "wrapt", "networkx"),
}
PICTURE: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 7, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
    }, "_meta": {"title": "KSampler"}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny"}, "_meta": {"title": "Checkpoint"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1},
          "_meta": {"title": "Empty"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red circle", "clip": ["4", 1]},
          "_meta": {"title": "Positive"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}, "_meta": {"title": "Negative"}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}, "_meta": {"title": "Decode"}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]},
          "_meta": {"title": "Save Image"}},
}  # fmt: skip
"""Text to image as ComfyUI's examples have it, by the embedded model."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has made a picture: clients that wait for a limited time do not wait for torch."""
    made = Server(tmp_path_factory.mktemp("tiny"))
    (made.folder / "prompt.json").write_text(json.dumps(PICTURE))
    id = made.ask("POST", "/prompt", {"prompt": PICTURE}).data["prompt_id"]
    until(lambda: made.ask("GET", f"/history/{id}").data, 300)
    [entry] = made.ask("GET", f"/history/{id}").data.values()
    assert entry["status"]["completed"], entry
    yield made
    assert made.stop() == 0
    assert "Traceback" not in made.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_makes_a_picture(tiny: Server, client_environment: Environment, library: str, tmp_path: Path) -> None:
    python = client_environment(*LIBRARIES[library])
    done = subprocess.run(
        [python, TALKS, library, tiny.url, tiny.folder / "prompt.json"], cwd=tmp_path, capture_output=True, text=True,
        timeout=300, env={**os.environ, "PYTHONPATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip().endswith("[true]"), done.stdout + done.stderr[-3000:]


@pytest.mark.slow
def test_comfy_cli_runs_and_fetches_a_job(tiny: Server, client_environment: Environment, tmp_path: Path) -> None:
    python = client_environment("comfy-cli==1.23.0")
    environment = {
        **os.environ, "PYTHONPATH": "", "HOME": str(tmp_path), "DO_NOT_TRACK": "1", "COMFY_CLI_NO_REMOTE_REFRESH": "1",
        "COMFY_LOCAL_URL": tiny.url, "COMFY_WHERE": "local",
    }  # fmt: skip
    comfy, place = python.parent / "comfy", ("--host", "127.0.0.1", "--port", str(tiny.port))

    def run(*arguments: object, good: bool = True) -> dict[str, Any]:
        done = subprocess.run(
            [comfy, "--skip-prompt", "--json", *map(str, arguments)], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.stdout.strip(), done.stderr[-3000:]
        told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        assert told["ok"] is good, told
        data: dict[str, Any] = told["data"] if good else told["error"]
        return data

    subprocess.run([comfy, "--skip-prompt", "tracking", "disable"], env=environment, check=True, capture_output=True)
    names = {row["name"] for row in run("nodes", "ls")["rows"]}
    assert {"KSampler", "SaveImage", "std.sample", "door.page"} <= names
    assert run("nodes", "show", "KSampler")["id"] == "KSampler"
    prompt = tiny.folder / "prompt.json"
    assert run("validate", "--workflow", prompt, *place)["valid"]
    ran = run("run", "--workflow", prompt, "--wait", *place)
    assert ran["status"] == "completed"
    id = ran["prompt_id"]
    assert id in {job["prompt_id"] for job in run("jobs", "ls")["jobs"]}
    assert run("jobs", "status", id)["status"] == "completed"
    assert run("jobs", "watch", id)["status"] == "completed"
    [file] = run("download", id, "-o", tmp_path / "got")["files"]
    assert Path(file["path"]).read_bytes().startswith(b"\x89PNG")
    gate = {
        "1": {"class_type": "door.gate", "inputs": {"text": "x", "file": str(tiny.folder / "never")}},
        "2": {"class_type": "door.tell", "inputs": {"text": ["1", 0]}},
    }
    (tmp_path / "gate.json").write_text(json.dumps(gate))
    waiting = run("run", "--workflow", tmp_path / "gate.json", *place)["prompt_id"]
    assert run("jobs", "cancel", waiting)["found"]
    assert run("jobs", "wait", waiting, good=False)["code"] == "cancelled"
    (tmp_path / "cat.png").write_bytes(PIXEL)
    assert run("upload", tmp_path / "cat.png")["uploads"][0]["cloud_name"] == "cat.png"
    assert (tiny.folder / "in" / "cat.png").read_bytes() == PIXEL
    assert run("system-stats")["system"]["python_version"]
    run("free")
