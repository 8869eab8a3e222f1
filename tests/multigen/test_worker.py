"""ServiceThread: real workers, `tiny`, callbacks, and what outlives a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from multigen.worker import ServiceThread

CONFIG = """\
model_list: models.yaml
model_dir: ./models-sd/
logging_folder: ./logs/
threads: 1
"""
MODELS = """\
base:
  small: {id: tiny, type: SD}
  wrong: {id: tiny, type: SDXL}
  gone: {id: no/such/model.safetensors, type: SD}
lora:
  style: {id: tiny-blueprint}
pipes:
  prompt2image: {name: Prompt to Image, classname: Prompt2ImPipe, need_imgs: False, needs_cnet: False}
  image2image: {name: Image to Image, classname: Im2ImPipe, need_imgs: True, needs_cnet: False}
  control: {name: Control, classname: CIm2ImPipe, need_imgs: True, needs_cnet: True}
  masked: {name: Masked, classname: MaskedIm2ImPipe, need_imgs: True, needs_cnet: False}
"""

SMALL = {"width": 64, "height": 64, "steps": 2}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "models.yaml").write_text(MODELS)
    (tmp_path / "models-sd").mkdir()
    return tmp_path / "config.yaml"


@pytest.fixture
def threads() -> Iterator[Callable[..., ServiceThread]]:
    """Makes ServiceThreads, and stops those that were started."""
    made: list[ServiceThread] = []

    def make(file: Path, start: bool = True) -> ServiceThread:
        made.append(ServiceThread(file))
        if start:
            made[-1].start()
        return made[-1]

    yield make
    for worker in made:
        worker.stop()
        if worker.ident is not None:
            worker.join(60)
            assert not worker.is_alive()


class Calls:
    """What was called back, in order."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.heard.append((name, args))

    @property
    def arguments(self) -> dict[str, Any]:
        return {f"{name}_callback": getattr(self, name) for name in ("start", "image", "finish")}

    def wait(self, count: int = 1, timeout: float = 120) -> None:
        """Until so many calls have ended."""
        end = time.monotonic() + timeout
        while [name for name, _ in self.heard].count("finish") < count:
            assert time.monotonic() < end, self.heard
            time.sleep(0.02)


def session(worker: ServiceThread, pipe: str = "prompt2image", user: str = "ann", **others: Any) -> str:
    found = worker.open_session(user=user, project="results", pipe=pipe, model="small", **others)
    return str(found["session_id"])


def test_pictures_come_with_callbacks_files_and_session_info(
    config: Path, threads: Callable[..., ServiceThread]
) -> None:
    worker, calls = threads(config), Calls()
    id = session(worker, loras=["style"])
    told = worker.queue_gen(
        session_id=id, images=None, prompt="a red circle", count=3, seeds=[2**47, 2**47 + 1, 5], lpw=True,
        scheduler="EulerAncestralDiscreteScheduler", timestep_spacing="trailing", guidance_scale=0, generator="ignored",
        **SMALL, **calls.arguments,
    )  # fmt: skip
    assert told == {"status": "success", "queue_number": 1}
    calls.wait()
    assert calls.heard[0] == ("start", ())
    assert calls.heard[-1] == ("finish", ())
    files = [args[0] for name, args in calls.heard if name == "image"]
    folder = config.parent / "_projects" / "ann" / "results"
    assert sorted(files) == [str(folder / f"{n:05d}.png") for n in range(3)]
    confs = [json.loads(Path(file).with_suffix(".txt").read_text()) for file in files]
    assert {conf["generator"] for conf in confs} == {2**47, 2**47 + 1, 5}
    assert {PIL.Image.open(file).size for file in files} == {(64, 64)}
    assert worker.get_session_info(id) == {"available_images": 3, "next_job": 0, "status": "done"}
    assert worker.get_image_count(id)["image_number"] == 3
    assert worker.get_image_pathname(id, 1) == files[1]
    assert worker.get_image_pathname(id) == str(folder)
    assert "no picture 9" in worker.get_image_pathname(id, 9)["warning"]
    assert worker.close_session(id) == {"status": "success"}


def test_the_picture_is_that_of_the_pipe(config: Path, threads: Callable[..., ServiceThread]) -> None:
    import numpy as np

    from multigen import Prompt2ImPipe

    worker, calls = threads(config), Calls()
    worker.queue_gen(
        session_id=session(worker), prompt="a blue house", nprompt="green", count=1, seeds=[7], **SMALL,
        **calls.arguments,
    )  # fmt: skip
    calls.wait()
    pipe = Prompt2ImPipe("tiny")
    pipe.setup(**SMALL)
    expected = pipe.gen({"prompt": "a blue house", "negative_prompt": "green", "seed": 7})
    found = PIL.Image.open(dict(calls.heard)["image"][0])
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 1  # another process, other threads


def test_what_is_refused(config: Path, threads: Callable[..., ServiceThread]) -> None:
    worker = threads(config, start=False)
    for wrong, message in (
        ({"pipe": "nothing"}, "there is no pipe 'nothing' in the models file; it has prompt2image"),
        ({"model": "nothing"}, "there is no model 'nothing'"),
        ({"model": "gone"}, "there is no model no/such/model.safetensors"),
        ({"model": "wrong"}, "is of type SD, not SDXL"),
        ({"loras": ["nothing"]}, "there is no LoRA 'nothing' in the models file; it has style"),
    ):
        asked = {"user": "u", "project": "p", "pipe": "prompt2image", "model": "small", **wrong}
        with pytest.raises(RuntimeError, match=message):
            worker.open_session(**asked)
    id = session(worker)
    again = worker.open_session(user="ann", project="p", pipe="prompt2image", model="small")
    assert again["session_id"] == id
    assert "open session" in again["error"]
    assert worker.queue_gen(session_id="x", prompt="a") == {"error": "session x does not exist"}
    assert worker.get_session_info("x") == {"status": "session x does not exist"}
    with pytest.raises(RuntimeError, match="no session x"):
        worker.close_session("x")
    for count in (0, -1):
        assert list(worker.queue_gen(session_id=id, prompt="a", count=count)) == ["warning"]
    assert "'five'" in worker.queue_gen(session_id=id, prompt="a", count="five")["error"]  # type: ignore[arg-type]
    outside = {"user": "../..", "project": "x", "pipe": "prompt2image", "model": "small"}
    with pytest.raises(ValueError, match="lead out of"):
        worker.queue_gen(prompt="a", session=outside)
    assert "needs images" in worker.queue_gen(session_id=session(worker, "image2image", "bob"), prompt="a")["error"]
    told = worker.queue_gen(session_id=session(worker, "control", "eve"), prompt="a", images=["x.png"])
    assert "needs a control type" in told["error"]
    worker.qlimit = 1
    told = worker.queue_gen(session_id=id, prompt="a", count=30, **SMALL)
    assert told["warning"].startswith("30 pictures are too many")
    assert worker.queue.counts()["queued"] == 20
    assert worker.queue_gen(session_id=id, prompt="a", **SMALL) == {"error": "Server is busy"}


def test_pictures_are_taken_in_every_form(config: Path, threads: Callable[..., ServiceThread]) -> None:
    import numpy as np

    worker, calls = threads(config), Calls()
    picture = PIL.Image.new("RGB", (70, 50), (30, 60, 200))
    painted = picture.copy()
    painted.paste((200, 30, 30), (10, 10, 40, 40))
    picture.save(config.parent / "in.png")
    own: dict[str, Any] = {"user": "bob", "pipe": "image2image", "model": "small", "images": [], "project": "p"}
    common = {"prompt": "a red circle", "count": 1, "steps": 2, **calls.arguments}
    worker.queue_gen(session=own, images=str(config.parent / "in.png"), strength=0.9, **common)
    worker.queue_gen(session=own, image=np.asarray(picture), strength=0.9, gen_dir=config.parent / "own", **common)
    worker.queue_gen(session_id=session(worker, "control"), images=[picture], cnet="canny", **common)
    masked = session(worker, "masked", "eve")
    worker.queue_gen(session_id=masked, images=[picture, np.asarray(painted)], strength=0.9, **common)
    calls.wait(4)
    files = [args[0] for name, args in calls.heard if name == "image"]
    assert len(files) == 4
    assert {PIL.Image.open(file).size for file in files} == {(70, 50)}
    assert str(config.parent / "own" / "00000.png") in files
    assert len(own["images"]) == 2
    assert own["status"] == "done"


def test_a_callback_that_raises_and_a_job_that_fails_stop_nothing(
    config: Path, threads: Callable[..., ServiceThread]
) -> None:
    worker, calls = threads(config), Calls()
    id = session(worker)

    def bad(*args: Any) -> None:
        raise ZeroDivisionError

    worker.queue_gen(session_id=id, prompt="a", seeds=[1], **SMALL, image_callback=bad, finish_callback=calls.finish)
    worker.queue_gen(session_id=id, prompt="a", seeds=[2], width=64, height=64, steps=2, scheduler="EDMEulerScheduler",
                     timestep_spacing="trailing", **calls.arguments)  # fmt: skip
    worker.queue_gen(session_id=id, prompt="a", seeds=[3], **SMALL, **calls.arguments)
    calls.wait(3)
    assert ("finish", ("Can't generate image due to error",)) in calls.heard or len(worker.sessions[id]["images"]) == 3
    assert calls.heard[-1] == ("finish", ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_dir: x\n", "model_list must be the path"),
        ("model_list: m.yaml\nmodel_dir: x\nqueue_limit: many\n", "config.yaml:3: queue_limit is 'many'"),
        ("model_list: [\n", "config.yaml:2"),
        ("model_list: none.yaml\nmodel_dir: x\n", "none.yaml cannot be read"),
        ("- a\n", "must hold keys"),
    ],
)
def test_a_broken_config_names_file_line_and_key(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(RuntimeError) as caught:
        ServiceThread(config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("id: tiny, type: SD}", "type: SD}", "models.yaml:2: base.small needs an id"),
        ("type: SDXL", "type: SD3", "models.yaml:3: type of base.wrong must be one of SD, SDXL, FLUX"),
        ("classname: Prompt2ImPipe", "classname: Prompt", "classname of pipes.prompt2image must be one of"),
    ],
)
def test_a_broken_models_file_does_so_too(config: Path, old: str, new: str, message: str) -> None:
    file = config.parent / "models.yaml"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(RuntimeError) as caught:
        ServiceThread(config)
    assert message in str(caught.value)


SCRIPT = """
from multigen.worker import ServiceThread
worker = ServiceThread("config.yaml")
worker.start()
result = worker.open_session(user="test", project="results", model="small", pipe="prompt2image", loras=["style"])
def image(path):
    print(path, flush=True)
def finish(*args):
    print("finished", *args, flush=True)
    if STOP:
        worker.stop()
print(worker.queue_gen(session_id=result["session_id"], prompt="a red circle", count=COUNT, seeds=range(COUNT),
                       width=64, height=64, steps=STEPS, image_callback=image, finish_callback=finish), flush=True)
"""


def script(config: Path, count: int, steps: int = 2, stop: bool = True) -> subprocess.Popen[str]:
    """A script without a main guard, whose main thread ends at once."""
    text = SCRIPT.replace("COUNT", str(count)).replace("STEPS", str(steps)).replace("STOP", str(stop))
    (config.parent / "script.py").write_text(text)
    return subprocess.Popen([sys.executable, "script.py"], cwd=config.parent, stdout=subprocess.PIPE, text=True)


def test_a_script_whose_main_thread_ends_gets_its_pictures_twice(config: Path) -> None:
    for round in range(2):
        out, _ = script(config, 2).communicate(timeout=120)
        names = sorted(line.rpartition("/")[2] for line in out.splitlines() if line.endswith(".png"))
        assert names == [f"{2 * round + n:05d}.png" for n in range(2)]
        assert out.splitlines()[-1] == "finished"


def test_jobs_of_a_killed_process_are_done_after_new_ones(
    config: Path, threads: Callable[..., ServiceThread], caplog: pytest.LogCaptureFixture
) -> None:
    process = script(config, 4, steps=60)
    assert process.stdout is not None
    assert "success" in process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    calls = Calls()
    worker = threads(config, start=False)
    old = [job.id for job in worker.queue.history()]
    worker.queue_gen(session_id=session(worker), prompt="a", count=1, **SMALL, **calls.arguments)
    assert len(old) == 4
    for number in old[2:]:
        worker.queue.cancel(number)
    worker.start()
    calls.wait()
    jobs = worker.queue.wait(*old[:2], timeout=120)
    assert [job.state for job in jobs] == ["done", "done"]
    assert all(Path(job.result["files"][0]).exists() for job in jobs)


def test_ctrl_c_ends_a_script_that_never_stops_it(config: Path) -> None:
    process = script(config, 1, stop=False)
    assert process.stdout is not None
    while process.stdout.readline() != "finished\n":
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(30) is not None


def test_two_share_a_configuration(config: Path, threads: Callable[..., ServiceThread]) -> None:
    first, second = threads(config), threads(config)
    mine, yours = Calls(), Calls()
    first.queue_gen(session_id=session(first), prompt="a", count=2, **SMALL, **mine.arguments)
    second.queue_gen(session_id=session(second), prompt="a blue house", count=2, **SMALL, **yours.arguments)
    mine.wait()
    yours.wait()
    for calls in (mine, yours):
        assert [name for name, _ in calls.heard] == ["start", "image", "image", "finish"]
    files = {args[0] for calls in (mine, yours) for name, args in calls.heard if name == "image"}
    assert len(files) == 4
