"""Helpers of ServiceThread's tests: a folder as a user has it, sessions, callbacks, scripts."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from graphengine_nodes.weights.files import TINY

from multigen.worker import ServiceThread

CONFIG = "model_list: models.yaml\nmodel_dir: ./models-sd/\nlogging_folder: ./logs/\nthreads: 1\ndevices: [cpu]\n"
MODELS = """\
base:
  small: {id: SD/tiny, type: SD}
  named: {id: tiny, type: SD}
  wrong: {id: tiny, type: SDXL}
  absent: {id: SD/none.safetensors, type: SD}
lora:
  blue: {id: blueprint.safetensors, type: SD}
  style: {id: tiny-blueprint}
  large: {id: blueprint.safetensors, type: SDXL}
  gone: {id: none.safetensors, type: SD}
pipes:
  prompt2image: {name: Prompt to Image, classname: Prompt2ImPipe, need_imgs: False, needs_cnet: False}
  image2image: {name: Image to Image, classname: Im2ImPipe, need_imgs: True, needs_cnet: False}
  masked: {classname: MaskedIm2ImPipe, need_imgs: True}
  inpainting: {classname: InpaintingPipe, need_imgs: True}
  condition: {classname: Cond2ImPipe, need_imgs: True, needs_cnet: True}
  control: {classname: CIm2ImPipe, need_imgs: True, needs_cnet: True}
  controlled inpainting: {classname: CInpaintingPipe, need_imgs: True}
"""
SMALL: dict[str, Any] = {"prompt": "a red circle on a blue background", "width": 64, "height": 64, "steps": 2}
PATIENCE = 300
"""Seconds until a test gives up; nothing takes so long that works."""


def prepare(folder: Path) -> Path:
    """A folder of a service, as a user has it; its configuration."""
    (folder / "models-sd" / "SD").mkdir(parents=True)
    (folder / "models-sd" / "SD" / "tiny").symlink_to(TINY / "model")
    (folder / "models-sd" / "Lora").symlink_to(TINY / "lora")
    (folder / "models.yaml").write_text(MODELS)
    (folder / "config.yaml").write_text(CONFIG)
    return folder / "config.yaml"


class Called:
    """Collects what callbacks are given, in order."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self.over = threading.Event()
        self.callbacks: dict[str, Any] = {
            "start_callback": lambda *args: self.all.append(("start", *args)),
            "image_callback": lambda *args: self.all.append(("image", *args)),
            "finish_callback": self._end,
        }

    def _end(self, *message: str) -> None:
        self.all.append(("finish", *message))
        self.over.set()

    @property
    def files(self) -> list[Path]:
        """The pictures that were told of."""
        return [Path(call[1]) for call in self.all if call[0] == "image"]

    @property
    def kinds(self) -> list[str]:
        """Which callbacks were called."""
        return [call[0] for call in self.all]

    def wait(self) -> None:
        """Until the last one was called."""
        assert self.over.wait(PATIENCE), self.all


def opened(worker: ServiceThread, user: str, pipe: str = "prompt2image", **named: Any) -> str:
    return str(worker.open_session(user=user, project="p", pipe=pipe, **{"model": "small", **named})["session_id"])


def queued(worker: ServiceThread, id: str | None, **named: Any) -> Called:
    """What is called of pictures that are queued."""
    called = Called()
    answer = worker.queue_gen(session_id=id, **{**SMALL, **called.callbacks, **named})
    assert answer["status"] == "success"
    return called


def generate(worker: ServiceThread, id: str | None, **named: Any) -> Called:
    """What was called of pictures that were made."""
    called = queued(worker, id, **named)
    called.wait()
    return called


def wait_for(what: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def pixels(picture: Any) -> np.ndarray[Any, Any]:
    return np.asarray(PIL.Image.open(picture) if isinstance(picture, str | Path) else picture)


SCRIPT = """
from multigen.worker import ServiceThread
worker = ServiceThread('config.yaml')
worker.start()
result = worker.open_session(user='test', project="results", model='small', pipe="prompt2image", loras=['blue'])
count, seed, c = 3, 2**48, 0
def on_new_image(*args, **kwargs):
    print(args, kwargs, flush=True)
    global c
    c += 1
if 'error' not in result:
    sess_id = result['session_id']
    worker.queue_gen(session_id=sess_id, images=None, prompt="a boat", image_callback=on_new_image,
                     finish_callback=FINISH, lpw=True, width=64, height=64, steps=STEPS, timestep_spacing='trailing',
                     guidance_scale=0, scheduler='EulerAncestralDiscreteScheduler', count=count,
                     seeds=[seed + i for i in range(count)])
    print('queued', flush=True)
"""
"""The documented example, without a main guard; then its main thread ends."""


def start(
    config: Path, finish: str, steps: int = 2, more: str = "", stderr: int | None = None
) -> subprocess.Popen[str]:
    text = SCRIPT.replace("FINISH", finish).replace("STEPS", str(steps)) + more
    command = [sys.executable, "-c", text]
    return subprocess.Popen(command, cwd=config.parent, stdout=subprocess.PIPE, stderr=stderr, text=True)


def read_until(process: subprocess.Popen[str], line: str) -> list[str]:
    """What a script prints before a line."""
    assert process.stdout is not None
    found: list[str] = []
    while (printed := process.stdout.readline()) != f"{line}\n":
        assert printed, f"it ended before it printed {line}: {found}"
        found.append(printed.rstrip("\n"))
    return found
