"""`comfy-sdk`, the SDK of the Comfy API v2: the real one, both its clients, and what they said, said again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Server
from .conftest import Environment
from .replay import Replay

TALK = Path(__file__).parent / "comfy_sdk_talk.py"
RECORDED = TALK.with_name("comfy_sdk_0.5.0.json")


@pytest.mark.slow
def test_the_real_sdk_does_all_that_it_can(serve: Any, client_environment: Environment) -> None:
    python, server = client_environment("comfy-sdk==0.5.0", "blake3"), serve()
    (server.folder / "in" / "words.txt").write_text("words")
    recording = [RECORDED] if os.environ.get("GRAPHENGINE_RECORD") else []
    environment = {**os.environ, "COMFY_BASE_URL": server.url, "PYTHONPATH": ""}
    done = subprocess.run([python, TALK, server.url, server.folder, *recording], env=environment, capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert done.stdout.strip() == "all said", done.stderr[-3000:]
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_the_real_sdk_makes_pictures_by_classes_of_comfyui(serve: Any, client_environment: Environment) -> None:
    python, server = client_environment("comfy-sdk==0.5.0", "blake3"), serve("--backend", "local", "--device", "cpu")
    environment = {**os.environ, "PYTHONPATH": ""}
    script = TALK.with_name("comfy_sdk_picture.py")
    done = subprocess.run([python, script, server.url], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "all seen", done.stderr[-3000:]


def test_what_the_sdk_said_is_answered_as_then(server: Server) -> None:
    (server.folder / "in" / "words.txt").write_text("words")
    gates = iter([server.folder / "go-sync", server.folder / "go-async"])  # opened when progress is seen
    assert Replay(server, RECORDED, lambda: next(gates).touch()).run() > 40
