"""ServiceThread: real workers with `tiny`, callbacks, sessions and their counts; one worker for all of these tests."""

from __future__ import annotations

import json
import threading
from asyncio import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes import Image
from graphengine_nodes.nodes.prompts import LONGEST

from graphengine.service.job_report import job_page
from graphengine.service.jobs.submit import files_of
from multigen.service_jobs import finish
from multigen.worker import ServiceThread
from tests.multigen.serving import PATIENCE, SMALL, Called, generate, opened, pixels, prepare, queued, wait_for


def test_pictures_come_in_the_order_of_the_seeds_with_all_that_is_documented(worker: ServiceThread) -> None:
    id, seeds = opened(worker, "order", loras=["blue"]), [2**48 + 3, 5, 2**48 + 1, 2]
    called = Called()
    told = worker.queue_gen(
        session_id=id, images=None, lpw=True, count=4, seeds=seeds, scheduler="EulerAncestralDiscreteScheduler",
        timestep_spacing="trailing", guidance_scale=0, generator="ignored", num_inference_steps=7, **SMALL,
        **called.callbacks,
    )  # fmt: skip
    assert told["status"] == "success"
    assert told["queue_number"] >= 1
    called.wait()
    folder = worker.cwd / "_projects" / "order" / "p"
    files = [str(folder / f"{n:05d}.png") for n in range(4)]
    assert called.all == [("start",), *[("image", file) for file in files], ("finish",)]
    confs = [json.loads((folder / f"{n:05d}.txt").read_text()) for n in range(4)]
    assert [conf["generator"] for conf in confs] == seeds
    assert {(conf["num_inference_steps"], conf["dtype"]) for conf in confs} == {(2, "torch.float32")}
    assert [Path(lora).name for lora, _ in confs[0]["loras"]] == ["blueprint.safetensors"]
    assert {PIL.Image.open(file).size for file in files} == {(64, 64)}
    assert worker.get_image_count(id) == {"image_number": 4, "comment": "done"}
    assert worker.get_image_pathname(id) == str(folder)
    assert [worker.get_image_pathname(id, n) for n in range(4)] == files
    info = {"available_images": 4, "next_job": 0, "status": "done"}
    assert worker.get_session_info(id) == info
    assert worker.get_image_pathname(id, 4) == {**info, "warning": "there is no picture 4"}
    assert generate(worker, id).files == [folder / "00004.png"]
    assert worker.get_image_count(id)["image_number"] == 5
    assert worker.close_session(id) == {"status": "success"}


def test_the_queue_keeps_no_bytes_of_what_is_done(worker: ServiceThread) -> None:
    id, picture = opened(worker, "bytes", "image2image"), PIL.Image.new("RGB", (64, 64), "white")
    before = worker.queue.last_change()
    generate(worker, id, images=[picture], count=3)
    jobs = {change.job for change in worker.queue.changes(before) if change.kind == "done"}
    folders = [files_of(worker.queue).folder / worker.queue.body(job)["files"] for job in jobs]
    assert len(folders) == 3
    wait_for(lambda: not any(folder.exists() for folder in folders))
    page = job_page(worker.queue, max(jobs))  # it tells where the picture is, and what took how long
    (file,) = worker.queue.get(max(jobs)).result["files"]
    assert f"<td>wrote</td><td>{file}</td>" in page
    assert "Workers</h2>" in page


def test_one_callback_that_raises_stops_nothing(worker: ServiceThread) -> None:
    heard: list[str] = []

    def wrong(*_: Any) -> None:
        heard.append("")
        raise [ZeroDivisionError, SystemExit, CancelledError][len(heard) % 3]

    id = opened(worker, "raises")
    assert generate(worker, id, count=2, start_callback=wrong, image_callback=wrong).all == [("finish",)]
    assert len(heard) == 3  # each was called once, and not again
    first = queued(worker, id, start_callback=5, image_callback="no function", finish_callback=wrong)
    assert generate(worker, id).kinds == ["start", "image", "finish"]
    wait_for(lambda: len(heard) == 4)
    assert first.all == []
    assert worker.get_image_count(id)["image_number"] == 4


def test_a_callback_may_queue_more(worker: ServiceThread) -> None:
    id, later = opened(worker, "chain"), Called()
    generate(worker, id, image_callback=lambda _: worker.queue_gen(session_id=id, **SMALL, **later.callbacks))
    later.wait()
    assert later.kinds == ["start", "image", "finish"]


def test_a_job_that_fails_is_told_and_the_next_is_done(worker: ServiceThread, tmp_path: Path) -> None:
    id, folder = opened(worker, "fails"), tmp_path / "gone"
    worker.queue.pause()
    called = queued(worker, id, gen_dir=folder, count=2)
    folder.rmdir()
    folder.write_text("a file stands where the folder was")
    worker.queue.resume()
    called.wait()
    assert called.all[-1] == ("finish", "Can't generate image due to error")
    assert called.files == []
    assert f"failed: the folder {folder} cannot be used: File exists" in (worker.cwd / "logs/multigen.log").read_text()
    assert generate(worker, id).all[-1] == ("finish",)


def test_a_job_that_is_cancelled_and_deleted_stops_no_callbacks(worker: ServiceThread) -> None:
    id = opened(worker, "cancels")
    worker.queue.pause()
    called = queued(worker, id, count=3)
    first = min(job.id for job in worker.queue.history(user="cancels"))
    worker.queue.cancel(first + 1)
    worker.queue.delete(first + 1)
    worker.queue.resume()
    called.wait()
    assert called.kinds == ["start", "image", "image", "finish"]


def test_a_dictionary_as_session_is_kept_up_to_date(worker: ServiceThread, tmp_path: Path) -> None:
    original = PIL.Image.new("RGB", (70, 50), "white")
    original.save(tmp_path / "original.png")
    painted = np.asarray(original).copy()
    painted[16:48, 16:48] = (255, 0, 0)
    session: dict[str, Any] = {"user": "d", "pipe": "masked", "model": "small", "images": None}
    setup = {"prompt": "a house", "width": None, "height": None, "strength": 0.5, "session": session}
    generate(worker, None, **setup, gen_dir=tmp_path / "mine", images=[str(tmp_path / "original.png"), painted])
    mask = painted[..., 0] != painted[..., 1]
    generate(worker, None, **setup, gen_dir=str(tmp_path / "mine"), original_image=original, mask=mask)
    assert session["images"] == [str(tmp_path / "mine" / f"0000{n}.png") for n in (0, 1)]
    assert session["status"] == "done"
    assert {PIL.Image.open(file).size for file in session["images"]} == {(70, 50)}
    assert pixels(session["images"][0])[:4, :4].min() == 255


def test_configuration_and_models_are_as_they_are_then(worker: ServiceThread, tmp_path: Path) -> None:
    """What a script changes in `.config` and `.models` counts from the next session, or job, on."""
    mine = ServiceThread(worker.cwd / "config.yaml")  # its jobs are run by the other one
    mine.start()
    try:
        id = opened(mine, "changing", loras=["blue"])
        first = generate(mine, id, seeds=[3]).files[0]
        moved = tmp_path / "others"
        (moved / "Lora").mkdir(parents=True)
        mine.config["model_dir"] = str(moved)
        with pytest.raises(RuntimeError, match=rf"no model SD/tiny.*looked for in {moved} first"):
            mine.queue_gen(session_id=id, **SMALL)
        (moved / "SD").symlink_to(worker.cwd / "models-sd" / "SD")
        with pytest.raises(RuntimeError, match=r"blueprint\.safetensors"):
            mine.queue_gen(session_id=id, **SMALL)
        mine.models["lora"]["blue"] = {"id": str(worker.cwd / "models-sd" / "Lora" / "blueprint.safetensors")}
        second = generate(mine, id, seeds=[3]).files[0]
        mine.models["pipes"]["mine"] = {"classname": "Prompt2ImPipe"}
        mine.models["base"]["mine"] = {"id": "tiny", "type": "SD"}
        third = generate(mine, opened(mine, "changed", "mine", model="mine"), seeds=[3]).files[0]
        assert np.array_equal(pixels(first), pixels(second))
        assert not np.array_equal(pixels(first), pixels(third))  # without the LoRA
        assert json.loads(second.with_suffix(".txt").read_text())["model_id"] == str(moved / "SD" / "tiny")
        assert "mine" in mine.pipes
    finally:
        mine.stop()
        mine.join(PATIENCE)


def test_two_share_a_configuration(worker: ServiceThread) -> None:
    second = ServiceThread(worker.cwd / "config.yaml")
    second.start()
    mine = queued(worker, opened(worker, "mine"), count=2)
    yours = queued(second, opened(second, "yours"), count=2, prompt="a blue house")
    for calls, user in ((mine, "mine"), (yours, "yours")):
        calls.wait()
        assert calls.kinds == ["start", "image", "image", "finish"]
        assert [file.parent.parent.name for file in calls.files] == [user] * 2
    last = queued(second, opened(second, "last"), seeds=[5])
    wait_for(lambda: last.all)  # it runs in the other one, and is told of before this one has ended
    second.stop()
    second.join(PATIENCE)
    assert last.kinds == ["start", "image", "finish"]


def test_no_two_pictures_get_one_number(tmp_path: Path) -> None:
    """Whoever queues at once, and however the folder is called."""
    file = prepare(tmp_path / "service")
    made = [ServiceThread(file) for _ in range(3)]
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    together = threading.Barrier(3)

    def queue_some(one: ServiceThread, folder: Path) -> None:
        id = opened(one, folder.name)
        together.wait()
        for _ in range(4):
            one.queue_gen(id, **SMALL, count=2, seeds=[1, 2], gen_dir=folder)

    folders = [tmp_path / "real", tmp_path / "link", tmp_path / "real" / ".." / "real"]
    threads = [threading.Thread(target=queue_some, args=pair) for pair in zip(made, folders, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(job.facts["next"] for job in made[0].queue.waiting()) == list(range(1, 25))


@pytest.mark.slow
def test_the_longest_prompt(worker: ServiceThread) -> None:
    id = opened(worker, "long")
    called = generate(worker, id, prompt=("a red circle, " * 8_000)[:LONGEST])
    assert called.kinds == ["start", "image", "finish"]


def test_several_pictures_of_one_job(worker: ServiceThread) -> None:
    called = generate(worker, opened(worker, "several"), num_images_per_prompt=2, seeds=[1, 2], count=2)
    assert [file.name for file in called.files] == [f"0000{n}.png" for n in range(4)]


def test_what_a_process_left_half_written_is_written_whole_under_its_name(tmp_path: Path) -> None:
    job = {"folder": str(tmp_path), "number": 3, "conf": {"prompt": "a house", "generator": 7}}
    picture, others = {"image": Image(torch.zeros(1, 64, 64, 3))}, tmp_path / "00003.txt"
    for killed in ("before", "after its text", "after its picture"):
        if killed == "after its text":
            (tmp_path / "00003.png").unlink()
        assert finish(job, picture) == [str(tmp_path / "00003.png")]
        assert sorted(file.name for file in tmp_path.iterdir()) == ["00003.png", "00003.txt"]
    (tmp_path / "00003.png").unlink()
    others.write_text("somebody's")
    assert finish(job, picture) == [str(tmp_path / "00003_1.png")]
    assert others.read_text() == "somebody's"
