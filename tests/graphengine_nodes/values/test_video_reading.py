"""Video files are read from every format, or refused in a sentence: damaged, foreign, too large, of other colours."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from graphengine_nodes.values import video_reading
from graphengine_nodes.values.video_files import SUM
from graphengine_nodes.values.video_reading import read_frames

from graphengine import FileError
from graphengine.provenance.describe import CHUNK
from graphengine.results import record
from tests.graphengine_nodes.values.test_video import clip

RECORD = '{"format": 1, "workflow": {}, "inputs": {}, "output": "", "files": []}'


def written(file: Path, codec: str, pix_fmt: str, side: tuple[int, int] = (32, 24), **tags: int) -> Path:
    """A video of six grey frames, each lighter than the one before, as other tools write it."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = side
        stream.pix_fmt = pix_fmt
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for number in range(6):
            grey = np.full((side[1], side[0], 3), 20 + 30 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return file


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"), ("a.mov", "libx264", "yuv444p"), ("a.mkv", "ffv1", "bgr0"),
        ("a.webm", "libvpx-vp9", "yuv420p"), ("a.avi", "mpeg4", "yuv420p"), ("a.mp4", "libx265", "yuv420p10le"),
    ],
)  # fmt: skip
def test_every_format_is_read(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    found = read_frames(written(tmp_path / name, codec, pix_fmt))
    assert found.frames.shape == (6, 24, 32, 3)
    assert found.fps == pytest.approx(10)
    assert np.abs(found.frames.mean(axis=(1, 2, 3)) - np.arange(20, 200, 30)).max() < 3


def test_some_of_the_frames(tmp_path: Path) -> None:
    file = written(tmp_path / "a.mkv", "ffv1", "bgr0")
    found = read_frames(file, start=1, count=2, every=2)
    assert found.frames[:, 0, 0, 0].tolist() == [50, 110]
    assert found.fps == pytest.approx(5)
    assert len(read_frames(file, start=5).frames) == 1
    for start, count, every, told in (
        (6, None, 1, "too few from frame 6"), (0, 7, 1, "too few for 7 from frame 0"),
        (2, 3, 2, "too few for 3 from frame 2, one of every 2"),
    ):  # fmt: skip
        with pytest.raises(FileError, match=rf"a\.mkv has 6 frames, {told}$"):
            read_frames(file, start, count, every)


def test_a_video_that_says_so_is_turned_upright(tmp_path: Path) -> None:
    (file,) = clip(2, 32, 24).save(tmp_path / "clip.mp4")
    data = file.read_bytes().replace(SUM.encode(), b"x" * len(SUM))  # a video of another program
    unit, quarter = (1 << 16).to_bytes(4, "big"), (-1 << 16).to_bytes(4, "big", signed=True)
    none, whole = bytes(4), (1 << 30).to_bytes(4, "big")
    plain = unit + none * 3 + unit + none * 3 + whole
    assert data.count(plain) == 2  # of the file and of the track
    place = data.rindex(plain)
    turned = none + unit + none + quarter + none * 4 + whole  # by a quarter to the right
    file.write_bytes(data[:place] + turned + data[place + len(plain) :])
    found = read_frames(file).frames
    assert found.shape == (2, 32, 24, 3)
    assert np.abs(found.astype(int) - np.rot90(np.asarray(clip(2, 32, 24)), -1, (1, 2))).mean() < 4


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "picture.webp")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    (tmp_path / "empty.mp4").touch()
    for name in ("text.mp4", "picture.png", "picture.webp", "list.m3u8", "empty.mp4"):
        with pytest.raises(FileError, match=rf"{name} is no video that can be read; MP4, MOV, MKV, WebM and AVI"):
            read_frames(tmp_path / name)
    with pytest.raises(FileError, match="there is no file"):
        read_frames(tmp_path / "missing.mp4")
    with pytest.raises(FileError, match="is a folder; give one of the videos in it"):
        read_frames(tmp_path)


def test_cut_short_or_damaged(tmp_path: Path) -> None:
    (file,) = clip(12, 64, 48).save(tmp_path / "whole.mp4", {CHUNK: RECORD})
    data = file.read_bytes()
    for part in (0.01, 0.3, 0.7):  # beyond that all frames are there
        (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * part)])
        with pytest.raises(FileError, match=r"cut\.mp4 (is damaged|holds no pictures)"):
            read_frames(tmp_path / "cut.mp4")
    noise = random.Random(1)
    for _ in range(30):  # a few bytes among the frames, most of which FFmpeg would paint over
        broken = bytearray(data)
        place = noise.randrange(48, data.index(b"moov") - 20)
        broken[place : place + 16] = noise.randbytes(16)
        (tmp_path / "broken.mp4").write_bytes(broken)
        for read in (read_frames, record.read):
            with pytest.raises(FileError, match=r"broken\.mp4 is damaged"):
                read(tmp_path / "broken.mp4")


def test_another_program_that_packs_a_video_of_ours_anew(tmp_path: Path) -> None:
    (file,) = clip(4).save(tmp_path / "whole.mp4")
    for name, options in (("a.mkv", {}), ("b.mp4", {}), ("c.mp4", {"movflags": "use_metadata_tags"})):
        with av.open(str(file)) as source, av.open(str(tmp_path / name), "w", options=options) as target:
            target.metadata.update(source.metadata)
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    assert np.array_equal(read_frames(tmp_path / "a.mkv").frames, read_frames(file).frames)
    assert np.array_equal(read_frames(tmp_path / "b.mp4").frames, read_frames(file).frames)
    with pytest.raises(FileError, match=r"c\.mp4 is damaged, or another program has changed it: its sum"):
        read_frames(tmp_path / "c.mp4")


def test_high_dynamic_range_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "hdr.mp4", "libx265", "yuv420p10le", color_trc=16, colorspace=9, color_primaries=9)
    with pytest.raises(FileError, match=r"hdr\.mp4 has colours of high dynamic range \(HDR\), which are not read"):
        read_frames(file)


def test_what_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "a.mkv", "ffv1", "bgr0")
    monkeypatch.setattr(video_reading, "MOST_PIXELS", 3 * 32 * 24)
    told = r"more than 2,304 pixels in 4 frames of 32 x 24; take fewer of them \(frames, every\)"
    with pytest.raises(FileError, match=told):
        read_frames(file)
    assert len(read_frames(file, count=3).frames) == 3
    assert len(read_frames(file, every=2).frames) == 3
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(FileError, match=r"a\.mkv would unpack to more than 700 pixels in a frame"):
        read_frames(file, count=1)
