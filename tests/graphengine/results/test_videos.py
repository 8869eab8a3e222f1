"""The texts in MP4s are read, and their frames compared, without any pack."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest

from graphengine.errors import FileError
from graphengine.provenance.describe import CHUNK
from graphengine.results import record, videos


def film(file: Path, grey: int = 100, count: int = 8, side: int = 32, **texts: str) -> Path:
    """A grey video, lighter to the right."""
    with av.open(str(file), "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata.update(texts)
        stream = container.add_stream("mpeg4", rate=Fraction(8), options={"qmin": "1", "qmax": "1"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = side, 32, "yuv420p"
        for _ in range(count):
            pixels = np.full((32, side, 3), grey, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return file


def test_what_is_a_video(tmp_path: Path) -> None:
    assert videos.is_video(film(tmp_path / "a.mp4"))
    picture = tmp_path / "a.avif"
    PIL.Image.new("RGB", (16, 16)).save(picture)
    assert not videos.is_video(picture)  # which begins in the same way
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert not videos.is_video(tmp_path / "a.png")
    assert not videos.is_video(tmp_path / "missing.mp4")


def test_the_record_in_an_mp4(tmp_path: Path) -> None:
    text = '{"format": 1, "workflow": {}, "inputs": {"prompt": "树"}, "output": "", "files": []}'
    file = film(tmp_path / "a.mp4", **{CHUNK: text, "parameters": "p", "other": "o"})
    assert record.read(file)["inputs"] == {"prompt": "树"}
    assert record.texts_of(file) == {CHUNK: text, "parameters": "p"}
    with pytest.raises(FileError, match=r"b\.mp4 does not carry how it was made"):
        record.read(film(tmp_path / "b.mp4"))


def test_an_mp4_that_is_cut_or_damaged_is_refused(tmp_path: Path) -> None:
    file = film(tmp_path / "a.mp4", **{CHUNK: "{}" * 500})
    data = file.read_bytes()
    for length in (30, 200, len(data) // 2, len(data) - 600, len(data) - 1):
        (tmp_path / "cut.mp4").write_bytes(data[:length])
        with pytest.raises(FileError, match=r"cut\.mp4 is damaged"):
            record.read(tmp_path / "cut.mp4")
    place = data.index(b"mdat") + 60
    (tmp_path / "broken.mp4").write_bytes(data[:place] + bytes(200) + data[place + 200 :])
    with pytest.raises(FileError, match=r"broken\.mp4 is damaged or cut short"):
        record.read(tmp_path / "broken.mp4")


def test_how_far_two_videos_differ(tmp_path: Path) -> None:
    one = film(tmp_path / "a.mp4")
    assert videos.difference(one, film(tmp_path / "b.mp4")) == 0
    found = videos.difference(one, film(tmp_path / "c.mp4", grey=110))
    assert found is not None
    assert 8 <= found <= 12
    assert videos.difference(one, film(tmp_path / "d.mp4", count=9)) is None
    assert videos.difference(one, film(tmp_path / "e.mp4", side=64)) is None


def test_frames_are_the_same_by_what_they_were_before_compression(tmp_path: Path) -> None:
    mark = {videos.FRAMES: "abc"}
    one, other = film(tmp_path / "a.mp4", **mark), film(tmp_path / "b.mp4", grey=102, **mark)
    assert videos.difference(one, other) == 0
    changed = film(tmp_path / "c.mp4", **{videos.FRAMES: "abd"})
    assert videos.difference(one, changed) == 1  # compressed to the same frames
