"""Video files that are written: their colours, sides, texts and times, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes import Video
from graphengine_nodes.values.video_files import FRAMES, NO_SUM, SUM, digest_of, mp4
from graphengine_nodes.values.video_reading import read_frames

from graphengine import FileError
from graphengine.results import record, videos
from tests.graphengine_nodes.values.test_video import clip

TEXT = {"graphengine": json.dumps({"prompt": "ünïcode 树\n=;#\\"}, ensure_ascii=False) * 2000, "parameters": "a\nb: c"}


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_colours_and_times_come_back(tmp_path: Path, encoder: str) -> None:
    video = clip(12, 64, 48, 12.5)
    patches = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)]
    for number, colour in enumerate(patches):
        video.frames[:, 32:, number * 10 : number * 10 + 10] = torch.tensor(colour) / 255
    file = tmp_path / "clip.mp4"
    file.write_bytes(mp4(video.frames, video.fps, {}, file, encoder=encoder))
    found = read_frames(file)
    assert found.fps == 12.5
    assert found.frames.shape == (12, 48, 64, 3)
    middles = found.frames[6, 42, 5:60:10].astype(int)
    assert np.abs(middles - np.array(patches)).max() <= 12
    assert np.abs(found.frames[:, :28].astype(int) - np.asarray(video)[:, :28]).mean() < 6


@pytest.mark.parametrize("fps", [0.5, 16, 23.976, 24000 / 1001, 29.97, 30000 / 1001, 60])
def test_frames_in_a_second_are_exact(tmp_path: Path, fps: float) -> None:
    (file,) = clip(2, fps=fps).save(tmp_path / "clip")
    assert file.name == "clip.mp4"
    assert read_frames(file).fps == fps


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 4), (33, 17)])
def test_odd_sides_get_a_copy_of_the_last_row_or_column(tmp_path: Path, width: int, height: int) -> None:
    video = Video(torch.linspace(0.2, 0.8, height)[None, :, None, None].expand(3, -1, width, 3), 8)
    (file,) = video.save(tmp_path / "odd.mp4")
    found = read_frames(file).frames
    assert found.shape == (3, height + height % 2, width + width % 2, 3)
    assert np.abs(found[:, :height, :width].astype(int) - np.asarray(video)).mean() < 4
    assert np.abs(found[:, -1].astype(int) - found[:, -2]).max() < 12 if height % 2 else True
    assert np.abs(found[:, :, -1].astype(int) - found[:, :, -2]).max() < 12


def test_an_mp4_holds_all_texts_and_says_which_frames_it_was_made_of(tmp_path: Path) -> None:
    video = clip()
    (file,) = video.save(tmp_path / "clip.mp4", TEXT)
    with av.open(str(file)) as container:
        found = dict(container.metadata)
        assert {name: found[name] for name in TEXT} == TEXT
        assert found[FRAMES] == digest_of(video.frames)
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert (videos.FRAMES, videos.SUM, videos.NO_SUM) == (FRAMES, SUM, NO_SUM)  # what `rerun` looks for
    assert record.texts_of(file) == TEXT
    other = Video(video.frames.flip(0), 8)
    assert digest_of(other.frames) != digest_of(video.frames)


def test_frames_as_png_files_lose_nothing(tmp_path: Path) -> None:
    video = clip(11)
    files = video.save(tmp_path / "clip.png", TEXT)
    assert [file.name for file in files] == [f"clip_{number:04d}.png" for number in range(11)]
    for file, frame in zip(files, np.asarray(video), strict=True):
        assert np.array_equal(np.asarray(PIL.Image.open(file)), frame)
        assert record.texts_of(file) == TEXT


def test_an_animated_webp_loses_nothing(tmp_path: Path) -> None:
    video = clip(5, fps=16)
    (file,) = video.save(tmp_path / "clip.webp", TEXT)
    picture = PIL.Image.open(file)
    lasted = 0
    for number, frame in enumerate(np.asarray(video)):
        picture.seek(number)
        assert np.array_equal(np.asarray(picture.convert("RGB")), frame)
        lasted += picture.info["duration"]
    assert picture.n_frames == 5  # type: ignore[attr-defined]
    assert lasted == round(1000 * video.seconds)
    assert record.texts_of(file) == TEXT


def test_what_is_not_written(tmp_path: Path) -> None:
    for suffix in (".gif", ".mov", ".mkv", ".jpg"):
        with pytest.raises(ValueError, match=r"a video is written as \.mp4, or without loss as \.webp or as \.png"):
            clip().save(tmp_path / f"clip{suffix}")
    wide = Video(torch.zeros(1, 2, 20_000, 3), 8)
    with pytest.raises(FileError, match=r"1 frames of 20000 x 2 cannot be written as MP4 \(.*\); write them as \.png"):
        wide.save(tmp_path / "wide.mp4")
    with pytest.raises(FileError, match="20000 x 2 pixels cannot be written as WebP"):
        wide.save(tmp_path / "wide.webp")
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"):
        clip().save(tmp_path / "file" / "clip.mp4")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]  # no half file is left
