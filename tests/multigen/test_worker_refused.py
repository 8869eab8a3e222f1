"""ServiceThread refuses wrong calls with a sentence, and leaves nothing of them in the queue or on the disk."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from graphengine.errors import FileError, GraphEngineError
from graphengine.service.jobs.submit import files_of
from multigen.worker import ServiceThread
from tests.multigen.serving import SMALL, opened


def test_sessions(idle: ServiceThread) -> None:
    id = opened(idle, "u", loras=["blue", "style"])
    again = idle.open_session(user="u", project="q", pipe="prompt2image", model="small")
    assert again == {"error": "u has an open session already", "session_id": id}
    assert opened(idle, "v", loras="style") != id
    assert opened(idle, "w", loras=None, model="named") in idle.sessions
    assert idle.close_session(id) == {"status": "success"}
    with pytest.raises(RuntimeError, match=f"no session {id}"):
        idle.close_session(id)
    assert idle.get_session_info(id) == {"status": f"session {id} does not exist"}
    assert idle.get_image_count(id) == {"image_number": 0, "comment": f"session {id} does not exist"}
    assert idle.get_image_pathname(id, 0) == {"status": f"session {id} does not exist"}
    for nonsense in ([], None, {"id": 1}):
        assert idle.get_session_info(nonsense) == {"status": f"session {nonsense} does not exist"}
        assert idle.get_image_count(nonsense)["image_number"] == 0
        with pytest.raises(RuntimeError, match="there is no session"):
            idle.close_session(nonsense)
    assert idle.get_image_pathname(opened(idle, "n"), "1")["warning"] == "there is no picture '1'"
    assert idle.queue_gen(session_id=id, **SMALL) == {"error": f"session {id} does not exist"}
    assert idle.queue_gen(**SMALL) == {"error": "session None does not exist"}
    assert opened(idle, "u", model="named")


@pytest.mark.parametrize(
    ("named", "what"),
    [
        ({"model": "other"}, "no model 'other' in the models file; it has small, named"),
        ({"model": None}, "no model None"),
        ({"model": "absent"}, r"no model SD/none.safetensors.*models-sd first"),
        ({"model": "wrong"}, "is of type SD, not SDXL"),
        ({"loras": ["other"]}, "no LoRA 'other' in the models file; it has blue, style"),
        ({"loras": ["gone"]}, "none.safetensors"),
        ({"loras": ["large"]}, "the LoRA 'large' is for SDXL, not for 'small'"),
        ({"pipe": "other"}, "no pipe 'other' in the models file; it has prompt2image"),
        ({"pipe": ["prompt2image"]}, "no pipe"),
    ],
)
def test_what_is_unknown_raises_at_once(idle: ServiceThread, named: dict[str, Any], what: str) -> None:
    with pytest.raises(RuntimeError, match=what):
        opened(idle, "u", **named)
    assert idle.sessions == {}
    session = {"user": "u", "project": "p", "pipe": "prompt2image", "model": "small", **named}
    with pytest.raises(RuntimeError, match=what):
        idle.queue_gen(session=session, **SMALL)
    assert sum(idle.queue.counts().values()) == 0


@pytest.mark.parametrize(("user", "project"), [("../x", "p"), ("u", "../v"), ("u", "/tmp"), ("/tmp", "p"), ("..", "")])
def test_no_way_out_of_the_projects(idle: ServiceThread, user: str, project: str) -> None:
    with pytest.raises(ValueError, match="lead out"):
        idle.open_session(user=user, project=project, pipe="prompt2image", model="small")
    session = {"user": user, "project": project, "pipe": "prompt2image", "model": "small"}
    with pytest.raises(ValueError, match="lead out"):
        idle.queue_gen(session=session, **SMALL)


def test_counts(idle: ServiceThread) -> None:
    id = opened(idle, "u")
    for count in (0, -1):
        assert idle.queue_gen(session_id=id, **SMALL, count=count) == {
            "warning": f"count is {count}: nothing to generate"
        }
    for wrong in ("five", None, 2.5, True):
        told = idle.queue_gen(session_id=id, **SMALL, count=wrong)  # type: ignore[arg-type]
        assert told == {"error": f"count is {wrong!r}, but must be a number of pictures"}
    answer = idle.queue_gen(session_id=id, **SMALL, count=21)
    assert (answer["status"], answer["queue_number"]) == ("success", 1)
    assert answer["warning"] == "21 pictures are too many at once, 20 are generated"
    assert len(idle.queue.waiting()) == 20
    assert idle.queue_gen(session_id=id, **SMALL, count=20) == {"status": "success", "queue_number": 2}


@pytest.mark.parametrize(
    ("seeds", "kept"),
    [
        (range(10**6), [0, 1, 2]),
        (itertools.count(2**47), [2**47, 2**47 + 1, 2**47 + 2]),
        (np.arange(5), [0, 1, 2]),
        ([4, 5], [4, 5, 4]),
        (7, [7, 7, 7]),
        ([2**64 - 1] * 3, [2**64 - 1] * 3),
    ],
)
def test_seeds(idle: ServiceThread, seeds: Any, kept: list[int]) -> None:
    idle.queue_gen(session_id=opened(idle, "u"), **SMALL, count=3, seeds=seeds)
    jobs = sorted(job.id for job in idle.queue.waiting())
    assert [idle.queue.body(job)["inputs"]["seed"]["json"] for job in jobs] == kept


def test_a_limit_of_the_queue(idle: ServiceThread) -> None:
    id = opened(idle, "u")
    for _ in range(15):
        assert idle.queue_gen(session_id=id, **SMALL)["status"] == "success"
    idle.qlimit = 16
    assert idle.queue_gen(session_id=id, **SMALL, count=5)["status"] == "success"
    assert idle.queue_gen(session_id=id, **SMALL) == {"error": "Server is busy"}
    other = ServiceThread(idle.cwd / "config.yaml")  # the limit is of the queue, whoever filled it
    other.qlimit = 16
    assert other.queue_gen(session_id=opened(other, "v"), **SMALL) == {"error": "Server is busy"}


def test_a_limit_in_the_configuration(idle: ServiceThread) -> None:
    file = idle.cwd / "config.yaml"
    file.write_text(file.read_text() + "queue_limit: 1\n")
    limited = ServiceThread(file)
    id = opened(limited, "u")
    assert limited.queue_gen(session_id=id, **SMALL)["status"] == "success"
    assert limited.queue_gen(session_id=id, **SMALL) == {"error": "Server is busy"}


def test_paused_jobs_count_and_their_numbers_are_taken(idle: ServiceThread) -> None:
    idle.queue.pause()
    idle.qlimit, id = 2, opened(idle, "u")
    answers = [idle.queue_gen(session_id=id, **SMALL, count=2) for _ in range(3)]
    assert answers[2] == {"error": "Server is busy"}
    assert [job.facts["next"] for job in idle.queue.history()] == [4, 3, 2, 1]


def test_a_configuration_that_was_changed_to_something_incomplete(idle: ServiceThread) -> None:
    id = opened(idle, "u")
    for section, entry, what in (
        ("base", {"id": "tiny"}, "the model 'small' of the models file has no type"),
        ("pipes", {}, "the pipe 'prompt2image' of the models file has no classname"),
        ("pipes", {"classname": "Zzz"}, "the pipe 'prompt2image' of the models file has an unknown classname: 'Zzz'"),
    ):
        before, name = idle.models[section], "small" if section == "base" else "prompt2image"
        idle.models[section] = {name: entry}
        with pytest.raises(RuntimeError, match=what):
            idle.queue_gen(session_id=id, **SMALL)
        idle.models[section] = before
    del idle.models["lora"]
    with pytest.raises(RuntimeError, match="there is no LoRA 'a' in the models file; it has none"):
        opened(idle, "v", loras=["a"])


def test_a_configuration_by_a_path_with_dots(idle: ServiceThread) -> None:
    other = ServiceThread(idle.cwd / "models-sd" / ".." / "config.yaml")
    assert other.queue_gen(session_id=opened(other, "u"), **SMALL)["status"] == "success"


def test_what_a_pipe_needs(idle: ServiceThread) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    image, control = opened(idle, "i", "image2image"), opened(idle, "c", "control")
    for images in (None, [], [None]):
        told = idle.queue_gen(session_id=image, **SMALL, images=images)
        assert told == {"error": "the pipe image2image needs images"}
    for given in ({"images": picture}, {"images": [picture]}, {"image": picture}, {"fimage": picture}):
        assert idle.queue_gen(session_id=image, **SMALL, **given)["status"] == "success"  # type: ignore[arg-type]
    told = idle.queue_gen(session_id=control, **SMALL, images=[picture])
    assert told == {"error": "the pipe control needs a control type: cnet"}
    told = idle.queue_gen(session_id=control, **SMALL, images=[picture], cnet="canny", cnet_ids=["tiny-canny"])
    assert told["status"] == "success"


DEEP: list[Any] = []
DEEP.append(DEEP)
WHITE = PIL.Image.new("RGB", (64, 64), "white")
WRONG: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("prompt2image", {"seeds": [1.5]}, ValueError, "a seed is 1.5, but must be a whole number"),
    ("prompt2image", {"seeds": "five"}, ValueError, "a seed is 'five', but must be a whole number"),
    ("prompt2image", {"seeds": [-1]}, ValueError, "a seed is -1, but must be 0 to 2^64 - 1"),
    ("prompt2image", {"seeds": [2**64]}, ValueError, "must be 0 to 2^64 - 1"),
    ("prompt2image", {"prompt": None}, ValueError, "prompt is None"),
    ("prompt2image", {"prompt": object()}, ValueError, "prompt is <object"),
    ("prompt2image", {"nprompt": 5}, ValueError, "negative_prompt is 5"),
    ("prompt2image", {"prompt": "a" * 11_000_000}, ValueError, "prompt has 11,000,000 characters, and 100,000 are"),
    ("prompt2image", {"nprompt": "a" * 200_000}, ValueError, "negative_prompt has 200,000 characters"),
    ("prompt2image", {"steps": 0}, ValueError, "steps is 0, but must be at least 1"),
    ("prompt2image", {"clip_skip": 11}, ValueError, "clip_skip is 11, but must be 0 to 10"),
    ("prompt2image", {"steps": [5]}, ValueError, "steps is [5], but must be at least 1"),
    ("prompt2image", {"clip_skip": "x"}, ValueError, "clip_skip is 'x', but must be 0 to 10"),
    ("prompt2image", {"gen_dir": 5}, ValueError, "gen_dir is 5, but must be a path or a name"),
    ("prompt2image", {"loras": 5}, ValueError, "a LoRA is 5, but must be a path or a name"),
    ("prompt2image", {"loras": [object()]}, ValueError, "a LoRA is <object"),
    ("prompt2image", {"loras": [["a"]]}, ValueError, "a LoRA is ['a'], but must be a path, or one with its multiplier"),
    ("prompt2image", {"loras": [("a", "b")]}, ValueError, "the multiplier of a LoRA is ('b',), but must be a number"),
    ("prompt2image", {"width": "wide"}, ValueError, "width: 'wide'"),
    ("prompt2image", {"guidance_scale": object()}, ValueError, "guidance_scale: <object"),
    ("prompt2image", {"scheduler": "Euler"}, ValueError, "there is no scheduler 'Euler'"),
    ("prompt2image", {"eta": object()}, GraphEngineError, "object has no form"),
    ("prompt2image", {"cross_attention_kwargs": {"x": object()}}, GraphEngineError, "object has no form"),
    ("prompt2image", {"loras": ["none.safetensors"]}, GraphEngineError, "there is no LoRA none.safetensors"),
    ("image2image", {"images": "none.png"}, FileError, "there is no file none.png"),
    ("image2image", {"images": "cut.png"}, FileError, "cut.png is damaged or cut short"),
    ("image2image", {"images": "text.png"}, FileError, "text.png is no picture that can be read"),
    ("image2image", {"images": [object()]}, ValueError, "a object is no picture"),
    ("image2image", {"images": [io.BytesIO(b"x")]}, ValueError, "a BytesIO is no picture"),
    ("image2image", {"images": np.array([[None]])}, ValueError, "an array of object is no picture"),
    ("image2image", {"images": np.zeros((8, 8), complex)}, ValueError, "an array of complex128 is no picture"),
    ("prompt2image", {"prompt": DEEP}, ValueError, "a template that is nested too deeply, or holds itself"),
    ("image2image", {"images": np.zeros((3, 4, 5, 6, 7))}, ValueError, "is no picture"),
    ("image2image", {"mask": WHITE}, ValueError, "setup needs a picture"),
    ("image2image", {"images": WHITE, "strength": 2}, ValueError, "strength is 2, but must be 0 to 1"),
    ("image2image", {"images": WHITE, "strength": []}, ValueError, "strength is [], but must be 0 to 1"),
    ("image2image", {"images": WHITE, "scale": "x"}, ValueError, "scale is ['x'], but must be a number or several"),
    ("image2image", {"images": WHITE, "scale": [64]}, ValueError, "scale is [64], but must be a number, or [width"),
    ("condition", {"images": [WHITE], "cnet": 5}, ValueError, "a kind of control (cnet, ctypes) is 5, but must be a"),
    ("condition", {"images": [WHITE], "cnet": "canny", "cnet_ids": [5]}, ValueError, "a ControlNet (cnet_ids"),
    ("condition", {"images": [WHITE], "cnet": "canny", "cscales": [None]}, ValueError, "cscales is [None], but must"),
    ("masked", {"images": [WHITE]}, ValueError, "setup needs a mask"),
    ("masked", {"images": [WHITE, WHITE.resize((8, 8))]}, ValueError, "the painted picture is 8 x 8"),
    ("controlled inpainting", {"images": [WHITE], "cnet_ids": ["tiny-canny"]}, ValueError, "setup needs a mask"),
    ("condition", {"images": [WHITE], "cnet": "pose"}, GraphEngineError, "control_v11p_sd15_openpose"),
    ("condition", {"images": [WHITE], "cnet": "canny", "cnet_ids": ["tiny"]}, GraphEngineError, "ControlNet"),
]


@pytest.mark.parametrize(("pipe", "named", "kind", "what"), WRONG, ids=[f"{p}-{[*n]}-{w}" for p, n, _, w in WRONG])
def test_bad_input_is_one_sentence_and_nothing_is_queued(
    idle: ServiceThread, pipe: str, named: dict[str, Any], kind: type[Exception], what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(idle.cwd)
    WHITE.save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:80])
    Path("text.png").write_text("no picture")
    id = opened(idle, "u", pipe, model="named")
    with pytest.raises(kind) as caught:
        idle.queue_gen(session_id=id, **{"prompt": "a", "steps": 2, "count": 2, **named})
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sum(idle.queue.counts().values()) == 0
    assert not list(files_of(idle.queue).folder.glob("*/*"))
    assert idle.get_session_info(id) == {"available_images": 0, "next_job": 0, "status": "not started"}


def test_what_is_no_session(idle: ServiceThread) -> None:
    with pytest.raises(RuntimeError, match="session is 5, but must be a dictionary with user, pipe and model"):
        idle.queue_gen(session=5, **SMALL)  # type: ignore[arg-type]
    session = {"user": "u", "pipe": "prompt2image", "model": "small"}
    with pytest.raises(ValueError, match="gen_dir is 5"):
        idle.queue_gen(session={**session, "gen_dir": 5}, **SMALL)
    with pytest.raises(RuntimeError, match="no LoRA 5"):
        idle.queue_gen(session={**session, "loras": 5}, **SMALL)
    one = {**session, "images": "a.png"}
    assert idle.queue_gen(session=one, **SMALL)["status"] == "success"
    assert one["images"] == ["a.png"]  # pictures are added to it


def test_what_setup_ignores_is_left_out(idle: ServiceThread) -> None:
    id, more = opened(idle, "u"), {"generator": object(), "num_inference_steps": 7, "foo": object(), "strength": object}
    assert idle.queue_gen(session_id=id, **SMALL, **more)["status"] == "success"
    [job] = idle.queue.waiting()
    document = json.dumps(idle.queue.body(job.id)["workflow"])
    assert '"steps": 2' in document
    assert "foo" not in document


def test_a_picture_of_many_jobs_lies_on_the_disk_once(idle: ServiceThread) -> None:
    id = opened(idle, "u", "image2image")
    idle.queue_gen(session_id=id, prompt="a", steps=2, images=PIL.Image.new("RGB", (512, 512)), count=20)
    files = list(files_of(idle.queue).folder.glob("*/*"))
    assert len(files) == 20
    assert len({file.stat().st_ino for file in files}) == 1


def test_a_folder_that_cannot_be(idle: ServiceThread, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"the folder .*file cannot be used"):
        idle.queue_gen(session_id=opened(idle, "u"), **SMALL, gen_dir=tmp_path / "file")
    assert sum(idle.queue.counts().values()) == 0


def test_what_waits_stays_on_disk(idle: ServiceThread) -> None:
    id = opened(idle, "u")
    idle.queue_gen(session_id=id, **SMALL, count=3)
    assert idle.get_session_info(id) == {"available_images": 0, "next_job": 0, "status": "running"}
    idle.stop()
    idle.start()
    idle.join()
    assert [job.user for job in ServiceThread(idle.cwd / "config.yaml").queue.waiting()] == ["u"] * 3
