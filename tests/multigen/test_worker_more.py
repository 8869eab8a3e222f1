"""ServiceThread: sessions, what is queued, what comes back; with real workers and the embedded model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import psutil
import pytest
from graphengine_nodes.checkpoints import TINY

from multigen.worker import ServiceThread

pytestmark = pytest.mark.slow  # `test_worker.py` is the short form

CONFIG = "model_list: models.yaml\nmodel_dir: ./models-sd/\nthreads: 1\ndevices: [cpu]\n"
MODELS = """
base:
  small: {id: SD/tiny, type: SD}
  named: {id: tiny, type: SD}
  absent: {id: SD/none, type: SD}
lora:
  blue: {id: blueprint.safetensors, type: SD}
  gone: {id: none.safetensors, type: SD}
pipes:
  prompt2image: {name: Prompt to Image, classname: Prompt2ImPipe, need_imgs: False, needs_cnet: False}
  image2image: {classname: Im2ImPipe, need_imgs: True}
  masked: {classname: MaskedIm2ImPipe, need_imgs: True}
  control: {classname: CIm2ImPipe, need_imgs: True, needs_cnet: True}
"""
SMALL: dict[str, Any] = {"prompt": "a red circle on a blue background", "width": 64, "height": 64, "steps": 2}


def prepare(folder: Path) -> Path:
    """A folder of a service, as a user has it."""
    (folder / "models-sd" / "SD").mkdir(parents=True)
    (folder / "models-sd" / "SD" / "tiny").symlink_to(TINY / "model")
    (folder / "models-sd" / "Lora").symlink_to(TINY / "lora")
    (folder / "models.yaml").write_text(MODELS)
    (folder / "config.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceThread]:
    made = ServiceThread(prepare(tmp_path_factory.mktemp("service")) / "config.yaml")
    made.start()
    yield made
    made.stop()
    made.join(60)
    assert not made.is_alive()


@pytest.fixture
def idle(tmp_path: Path) -> ServiceThread:
    """One that was not started: what it queues stays."""
    return ServiceThread(prepare(tmp_path) / "config.yaml")


class Called:
    """Collects what callbacks are given, and in which process and order."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self.over = threading.Event()
        self.callbacks: dict[str, Any] = {
            "start_callback": lambda: self.all.append("start"),
            "image_callback": lambda path: self.all.append(Path(path).name),
            "finish_callback": self._end,
        }

    def _end(self, *message: str) -> None:
        self.all.append(("finish", *message))
        self.over.set()


def opened(worker: ServiceThread, user: str, pipe: str = "prompt2image", **named: Any) -> str:
    return str(worker.open_session(user=user, project="p", pipe=pipe, **{"model": "small", **named})["session_id"])


def generate(worker: ServiceThread, id: str | None, **named: Any) -> list[Any]:
    called = Called()
    answer = worker.queue_gen(session_id=id, **{**SMALL, **called.callbacks, **named})
    assert answer["status"] == "success"
    assert called.over.wait(120)
    return called.all


def wait_for(what: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_pictures_come_in_the_order_of_the_seeds(worker: ServiceThread) -> None:
    id, seeds = opened(worker, "order"), [2**48 + 3, 5, 2**48 + 1, 2]
    found = generate(worker, id, count=4, seeds=seeds, generator=None, num_inference_steps=7, lpw=True)
    assert found == ["start", "00000.png", "00001.png", "00002.png", "00003.png", ("finish",)]
    folder = Path(worker.get_image_pathname(id))
    assert folder == worker.cwd / "_projects" / "order" / "p"
    confs = [json.loads((folder / f"0000{n}.txt").read_text()) for n in range(4)]
    assert [conf["generator"] for conf in confs] == seeds
    assert confs[0]["num_inference_steps"] == 2
    assert confs[0]["dtype"] == "torch.float32"
    assert worker.get_image_count(id) == {"image_number": 4, "comment": "done"}
    assert worker.get_image_pathname(id, 3) == str(folder / "00003.png")
    assert worker.get_image_pathname(id, 4)["warning"]
    assert generate(worker, id, count=1)[1] == "00004.png"
    assert worker.get_session_info(id) == {"available_images": 5, "next_job": 0, "status": "done"}


def test_sessions(idle: ServiceThread) -> None:
    id = opened(idle, "u", loras=["blue"])
    again = idle.open_session(user="u", project="q", pipe="prompt2image", model="small")
    assert again["session_id"] == id
    assert "error" in again
    assert idle.close_session(id) == {"status": "success"}
    with pytest.raises(RuntimeError, match="no session"):
        idle.close_session(id)
    assert idle.get_session_info(id) == {"status": f"session {id} does not exist"}
    assert "error" in idle.queue_gen(session_id=id, **SMALL)
    assert opened(idle, "u", model="named")


@pytest.mark.parametrize(
    ("named", "what"),
    [
        ({"model": "other"}, "no model 'other'"),
        ({"model": "absent"}, "SD/none"),
        ({"loras": ["other"]}, "no LoRA 'other'"),
        ({"loras": ["gone"]}, "none.safetensors"),
        ({"pipe": "other"}, "no pipe 'other'"),
    ],
)
def test_what_is_unknown_raises_at_once(idle: ServiceThread, named: dict[str, Any], what: str) -> None:
    with pytest.raises(RuntimeError, match=what):
        opened(idle, "u", **named)
    assert idle.sessions == {}


@pytest.mark.parametrize(("user", "project"), [("../x", "p"), ("u", "../v"), ("u", "/tmp"), ("/tmp", "p"), ("..", "")])
def test_no_way_out_of_the_projects(idle: ServiceThread, user: str, project: str) -> None:
    with pytest.raises(ValueError, match="lead out"):
        idle.open_session(user=user, project=project, pipe="prompt2image", model="small")


def test_counts(idle: ServiceThread) -> None:
    id = opened(idle, "u")
    assert list(idle.queue_gen(session_id=id, **SMALL, count=0)) == ["warning"]
    assert list(idle.queue_gen(session_id=id, **SMALL, count=-1)) == ["warning"]
    assert "five" in idle.queue_gen(session_id=id, **SMALL, count="five")["error"]  # type: ignore[arg-type]
    answer = idle.queue_gen(session_id=id, **SMALL, count=21)
    assert (answer["status"], answer["queue_number"]) == ("success", 1)
    assert "20" in answer["warning"]
    assert len(idle.queue.waiting()) == 20
    with pytest.raises(ValueError, match="seed"):
        idle.queue_gen(session_id=id, **SMALL, seeds=[1.5])
    with pytest.raises(ValueError, match="seed"):
        idle.queue_gen(session_id=id, **SMALL, seeds=[-1])


def test_a_limit_of_the_queue(idle: ServiceThread) -> None:
    id = opened(idle, "u")
    for _ in range(15):
        assert idle.queue_gen(session_id=id, **SMALL)["status"] == "success"
    idle.qlimit = 16
    assert idle.queue_gen(session_id=id, **SMALL, count=5)["status"] == "success"
    assert idle.queue_gen(session_id=id, **SMALL) == {"error": "Server is busy"}


def test_what_a_pipe_needs(idle: ServiceThread) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    image, control = opened(idle, "i", "image2image"), opened(idle, "c", "control")
    for images in (None, [], [None]):
        assert "needs images" in idle.queue_gen(session_id=image, **SMALL, images=images)["error"]
    for given in ({"images": picture}, {"images": [picture]}, {"image": picture}, {"fimage": picture}):
        assert idle.queue_gen(session_id=image, **SMALL, **given)["status"] == "success"  # type: ignore[arg-type]
    assert "control type" in idle.queue_gen(session_id=control, **SMALL, images=[picture])["error"]
    answer = idle.queue_gen(session_id=control, **SMALL, images=[picture], cnet="canny", cnet_ids=["tiny-canny"])
    assert answer["status"] == "success"


def test_masked_pictures_and_a_dictionary_as_session(worker: ServiceThread, tmp_path: Path) -> None:
    original = PIL.Image.new("RGB", (64, 64), "white")
    original.save(tmp_path / "original.png")
    painted = np.asarray(original).copy()
    painted[16:48, 16:48] = (255, 0, 0)
    session: dict[str, Any] = {"user": "d", "pipe": "masked", "model": "small", "images": []}
    setup = {"prompt": "a house", "steps": 2, "strength": 0.5, "session": session, "gen_dir": tmp_path / "mine"}
    images = [str(tmp_path / "original.png"), painted]
    generate(worker, None, **{**setup, "images": images, "width": None, "height": None})
    generate(worker, None, **{**setup, "original_image": original, "mask": painted[..., 0] != painted[..., 1],
                              "width": None, "height": None})  # fmt: skip
    assert session["images"] == [str(tmp_path / "mine" / f"0000{n}.png") for n in (0, 1)]
    assert session["status"] == "done"
    corner = np.asarray(PIL.Image.open(session["images"][0]))[:4, :4]
    assert corner.min() == 255


def test_a_callback_that_raises_and_a_job_that_fails(worker: ServiceThread, tmp_path: Path) -> None:
    def wrong(*_: Any) -> None:
        raise RuntimeError("of the caller")

    id = opened(worker, "r")
    assert generate(worker, id, image_callback=wrong, start_callback=wrong) == [("finish",)]
    called = Called()
    folder = tmp_path / "gone"
    worker.queue_gen(session_id=id, **SMALL, **called.callbacks, gen_dir=folder)
    folder.rmdir()
    folder.write_text("a file stands where the folder was")
    assert called.over.wait(60)
    assert called.all[-1] == ("finish", "Can't generate image due to error")
    assert generate(worker, id)[-1] == ("finish",)


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
    worker.queue_gen(session_id=result['session_id'], images=None, prompt="a boat", image_callback=on_new_image,
                     finish_callback=FINISH, lpw=True, width=64, height=64, steps=2, timestep_spacing='trailing',
                     guidance_scale=0, scheduler='EulerAncestralDiscreteScheduler', count=count,
                     seeds=[seed + i for i in range(count)])
"""


def start(folder: Path, finish: str = "worker.stop") -> subprocess.Popen[str]:
    text = SCRIPT.replace("FINISH", finish)
    return subprocess.Popen([sys.executable, "-c", text], cwd=folder, stdout=subprocess.PIPE, text=True)


def below(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_example_twice_and_no_process_is_left(tmp_path: Path, how: signal.Signals) -> None:
    folder = prepare(tmp_path)
    first = start(folder)  # its callback stops it
    out, _ = first.communicate(timeout=120)
    assert [line.split("/")[-1][:9] for line in out.splitlines()] == ["00000.png", "00001.png", "00002.png"]
    second = start(folder, "lambda *_: print('over', flush=True)")  # never stops by itself
    assert second.stdout is not None
    while second.stdout.readline().strip() != "over":
        assert second.poll() is None
    workers = below(second)
    assert workers
    second.send_signal(how)
    second.wait(20)
    assert psutil.wait_procs(workers, 20)[1] == []
    assert len(list((folder / "_projects" / "test" / "results").glob("*.png"))) == 6


def test_another_takes_over_and_its_own_come_first(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    left = ServiceThread(folder / "config.yaml")
    left.queue_gen(session_id=opened(left, "left"), **SMALL, count=2)
    script = start(folder, "None")
    wait_for(lambda: len(left.queue.running()) == 5)
    script.kill()
    script.wait()
    ours = Called()
    taking = ServiceThread(folder / "config.yaml")
    taking.start()
    taking.queue_gen(session_id=opened(taking, "ours"), **SMALL, **ours.callbacks)
    assert ours.over.wait(120)
    wait_for(lambda: len(list((folder / "_projects" / "test" / "results").glob("*.png"))) == 3)
    wait_for(lambda: len(list((folder / "_projects" / "left" / "p").glob("*.png"))) == 2)
    wait_for(lambda: "its callbacks are lost" in (folder / "logs" / "multigen.log").read_text())
    begun = [change.job for change in taking.queue.changes() if change.kind == "running"][5:]
    assert begun[-3:] == [3, 4, 5]  # of the process that is gone; the others' callers live
    taking.stop()
    taking.join(60)
