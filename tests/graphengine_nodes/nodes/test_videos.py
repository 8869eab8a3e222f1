"""Videos in graphs: loaded, taken apart, put together, saved; written by runs and jobs; made again from their files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import graphengine_nodes as std
import numpy as np
import PIL.Image
import pytest
import torch

from graphengine import FileError, Graph, WorkflowError, load
from graphengine.provenance.describe import chunks
from graphengine.results import record
from graphengine.results.outputs import OutputWriter
from graphengine.service.jobs.job import State
from graphengine.service.service import Service
from graphengine.service.workers.inline import InlineRunner
from tests.graphengine.cli.conftest import Run, cli  # noqa: F401
from tests.graphengine_nodes.values.test_video import clip

SLIDE = """\
version: 1
inputs:
  picture: {type: str, default: given.png}
  width: {type: int, default: 24}
nodes:
  whole: {node: load_image, from: {path: inputs.picture}}
  left: {node: crop_image, with: {height: 24, left: 0, top: 0}, from: {image: whole, width: inputs.width}}
  right: {node: crop_image, with: {height: 24, left: 8, top: 0}, from: {image: whole, width: inputs.width}}
  clip: {node: video_of, with: {fps: 6}, from: {image: [left, right]}}
outputs: {clip: clip}
"""
"""A video without a model: a window that slides over a picture."""


def slide(folder: Path) -> Path:
    picture = PIL.Image.fromarray(np.asarray(clip(1, 40, 24))[0])
    picture.save(folder / "given.png")
    (folder / "slide.yaml").write_text(SLIDE)
    return folder / "slide.yaml"


def test_frames_of_a_video() -> None:
    video = clip(7)

    def taken(**options: int) -> list[int]:
        found = std.frames_of(video, **options)
        return [int((video.frames == frame).all((1, 2, 3)).nonzero()) for frame in found.pixels]

    assert taken() == [0, 1, 2, 3, 4, 5, 6]
    assert taken(start=-1) == [6]
    assert taken(start=1, count=2) == [1, 2]
    assert taken(start=1, every=3) == [1, 4]
    assert taken(start=0, count=3, every=3) == [0, 3, 6]
    assert std.frames_of(video, 2, 1).pixels.untyped_storage().nbytes() == 32 * 24 * 3 * 4
    for options, told in (
        ({"start": 7}, "the video has 7 frames, and no frame 7"),
        ({"start": -8}, "the video has 7 frames, and no frame -8"),
        ({"start": 2, "count": 6}, "the video has 7 frames: from frame 2 there are 5, not 6"),
        ({"start": 1, "count": 3, "every": 3}, "from frame 1, one of every 3 there are 2, not 3"),
    ):
        with pytest.raises(ValueError, match=told):
            std.frames_of(video, **options)


def test_a_video_of_pictures() -> None:
    video = clip(5)
    assert torch.equal(std.video_of(std.frames_of(video), 8).frames, video.frames)
    parts = [std.frames_of(video, 0, 2), std.frames_of(video, 2)]
    assert torch.equal(std.video_of(parts, 8).frames, video.frames)
    clear = std.Image(torch.zeros(2, 4, 4, 3), torch.zeros(2, 4, 4))
    assert std.video_of(clear, 2.5).frames.min() == 1  # over white
    with pytest.raises(
        ValueError, match="sizes differ: 32 x 24, 4 x 4; a video has frames of one size: use resize_image"
    ):
        std.video_of([std.frames_of(video), clear], 8)
    for nothing in ([], std.Image(torch.zeros(0, 4, 4, 3))):
        with pytest.raises(ValueError, match="a video of no pictures; give at least one"):
            std.video_of(nothing, 8)


def test_a_video_is_loaded_and_saved(tmp_path: Path) -> None:
    video = clip(12, 64, 48, 12.5)
    (name,) = std.save_video(video, tmp_path / "clip")
    assert name == str(tmp_path / "clip.mp4")
    found = std.load_video(name)
    assert (len(found), found.size, found.fps) == (12, (64, 48), 12.5)
    assert (found.frames - video.frames).abs().mean() < 0.02
    some = std.load_video(name, start=2, frames=3, every=4)
    assert torch.equal(some.frames, found.frames[2::4])
    assert some.fps == 3.125
    noise = std.Video(torch.rand(4, 48, 64, 3), 8)
    sizes = [Path(*std.save_video(noise, tmp_path / "noise.mp4", crf=crf)).stat().st_size for crf in (17, 51)]
    assert sizes[1] < sizes[0] / 2
    files = std.save_video(video, tmp_path / "clip.png")
    assert len(files) == len(std.save_video(video, tmp_path / "clip.png")) == 12
    before = Path(files[0]).read_bytes()
    with pytest.raises(FileError, match=r"clip_0004.png is a frame of a longer video of this name: delete its frames"):
        std.save_video(noise, tmp_path / "clip.png")
    assert Path(files[0]).read_bytes() == before


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda: std.resize_image(std.load_video("a.mp4"), 8, 8), "frames_of makes pictures of a video"),
        (lambda: std.image_grid(std.load_video("a.mp4")), "frames_of makes pictures of a video"),
        (lambda: std.image_size(clip()), "frames_of makes pictures of a video"),  # a value, no link
        (lambda: std.save_video(std.load_image("a.png"), "b.mp4"), "video_of makes a video of pictures"),
        (lambda: std.save_video(std.mask_rectangle(8, 8), "b.mp4"), ""),
    ],
)
def test_what_is_linked_wrongly_is_told_with_the_node_that_helps(wrong: Callable[[], object], hint: str) -> None:
    with Graph(), pytest.raises(WorkflowError) as caught:
        wrong()
    (problem,) = caught.value.problems
    assert problem.kind in ("type mismatch", "wrong type")
    assert problem.hint == hint


@pytest.mark.parametrize(
    ("wrong", "socket"),
    [
        (lambda: std.load_video("a.mp4", every=0), "every"),
        (lambda: std.load_video("a.mp4", start=-1), "start"),
        (lambda: std.frames_of(std.load_video("a.mp4"), count=0), "count"),
        (lambda: std.video_of(std.load_image("a.png"), 0), "fps"),
        (lambda: std.save_video(std.load_video("a.mp4"), "b.mp4", crf=52), "crf"),
    ],
)
def test_numbers_out_of_range_are_told_before_a_run(wrong: Callable[[], object], socket: str) -> None:
    with Graph(), pytest.raises(WorkflowError) as caught:
        wrong()
    assert [(one.kind, one.where.socket) for one in caught.value.problems] == [("out of range", socket)]


def test_a_saved_video_says_how_it_was_made(tmp_path: Path) -> None:
    slide(tmp_path)
    with Graph() as graph:
        frames = std.load_image(str(tmp_path / "given.png"))
        graph.output("names", std.save_video(std.video_of([frames, frames], 4), str(tmp_path / "saved.mp4")))
        graph.output("more", std.save_video(std.video_of([frames, frames], 4), str(tmp_path / "saved.png")))
    graph.run()
    for file in (tmp_path / "saved.mp4", tmp_path / "saved_0001.png"):
        found = record.read(file)
        assert "video_of" in json.dumps(found["workflow"])
        assert [one["name"] for one in found["files"]] == ["given.png"]


def test_a_run_writes_its_videos_and_rerun_makes_them_again(cli: Run, tmp_path: Path) -> None:  # noqa: F811
    slide(tmp_path)
    done = cli("run", "slide.yaml", "--report", "page.html")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "out/slide_clip_00000.mp4"
    assert std.load_video(tmp_path / "out/slide_clip_00000.mp4").size == (24, 24)
    page = (tmp_path / "page.html").read_text()
    assert 'alt="2 frames of 24 x 24, 6 in a second" src="data:image/png;base64,' in page
    assert "<script" not in page
    (tmp_path / "slide.yaml").unlink()
    again = cli("rerun", "out/slide_clip_00000.mp4", "--out", "again", "--no-cache")
    assert again.code == 0, again.err
    assert again.out == "again/slide_clip_00000.mp4\nthe pixels are the same\n"
    assert again.err == ""


def test_rerun_says_what_is_not_the_same(tmp_path: Path) -> None:
    """A video whose frames were others, and one frame of a video."""
    graph = load(slide(tmp_path))
    made = graph(picture=str(tmp_path / "given.png"), width=20)
    writer = OutputWriter(tmp_path / "out", "slide")
    bound = {"picture": str(tmp_path / "given.png"), "width": 20}
    text = chunks(graph, bound, "clip", made, {})
    other = std.Video(made.frames.flip(0), 6)
    (changed,) = writer.save("clip", other, lambda value, path, text: value.save(path, text), text)
    files = other.save(tmp_path / "frame.png", text)
    for file, told in (
        (changed, r"the pixels are not the same: they differ by up to \d+ of 255"),
        (files[1], "the whole video was made again; a single frame of it is not compared"),
    ):
        command = [sys.executable, "-m", "graphengine.cli", "rerun", str(file), "--out", str(tmp_path / "again")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert re.fullmatch(told, done.stdout.splitlines()[1]), done.stdout


def test_the_videos_of_a_job_appear_once_and_whole(tmp_path: Path) -> None:
    graph = load(slide(tmp_path))
    with Service(tmp_path / "queue.sqlite", InlineRunner()) as service:
        number = service.submit(graph, {"picture": str(tmp_path / "given.png")}, out=tmp_path / "out")
        (job,) = service.wait(number, timeout=600)
        assert job.state is State.DONE, job.error
        assert torch.equal(service.outputs(number)["clip"].frames, graph(picture=str(tmp_path / "given.png")).frames)
    (file,) = (tmp_path / "out").iterdir()
    assert file.name == "job_clip_00000.mp4"
    assert job.result["files"] == [str(file)]
    assert record.read(file)["output"] == "clip"
    assert len(std.load_video(file)) == 2
