"""Videos among a run's results: the texts in an MP4 that say how it was made, and how far the frames of two differ."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from graphengine.errors import FileError
from graphengine.system.opening import open_file

if TYPE_CHECKING:
    import av

FRAMES = "graphengine_frames"
"""The text that identifies the frames of a video as they were before they were compressed."""
SUM, NO_SUM = "graphengine_sum", "the sum of this file".ljust(64, ".")
"""The text that holds the SHA-256 of the whole file, with `NO_SUM` in its place: FFmpeg would paint over damage."""
SUFFIX = ".mp4"
PICTURES = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
"""What else begins like an MP4."""
MOST_PIXELS = 1 << 27
"""The most pixels of a frame, which may come from a stranger."""


def is_video(path: Path) -> bool:
    """Whether a file begins as an MP4 does; False if it cannot be read."""
    try:
        with open_file(path) as file:
            start = file.read(12)
    except OSError:
        return False
    return start[4:8] == b"ftyp" and start[8:12] not in PICTURES


def texts_of(path: Path, whole_if: str) -> dict[str, str]:
    """The texts in an MP4, by name.

    Args:
        path: The file.
        whole_if: If there is a text of this name, all frames are read too: it is refused if one is missing.

    Raises:
        FileError: It is damaged or cut short.
    """
    if not _is_whole(path):
        raise FileError(f"{path} is damaged or cut short")
    with _opened(path) as (container, stream):
        texts = dict(container.metadata)
        if SUM in texts and not _is_unchanged(path, texts[SUM]):
            raise FileError(f"{path} is damaged, or another program has changed it: its sum ({SUM}) is another")
        if whole_if in texts:
            count = sum(1 for _ in _frames(container, stream, path))
            if not count or count < stream.frames:
                raise FileError(f"{path} is damaged or cut short ({count} of {stream.frames} frames)")
    return texts


def _is_whole(path: Path) -> bool:
    """Whether the parts of an MP4 ("boxes", each with its length first) reach to the end of the file."""
    with open_file(path) as file:
        end = file.seek(0, os.SEEK_END)
        place = 0
        while place < end:
            file.seek(place)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            length = int.from_bytes(head[8:], "big") if length == 1 else length or end - place
            if len(head) < 8 or length < 8:
                return False
            place += length
    return place == end


def _is_unchanged(path: Path, told: str) -> bool:
    with open_file(path) as file:
        data = file.read()
    return hashlib.sha256(data.replace(told.encode(), NO_SUM.encode(), 1)).hexdigest() == told


def difference(one: Path, other: Path) -> int | None:
    """The largest difference of any channel of any pixel of two MP4s, 0 to 255; None if their sizes or numbers differ.

    It is 0 for the same frames before they were compressed, whatever versions of the encoder made of them.
    """
    import numpy as np

    with _opened(one) as (first, a), _opened(other) as (second, b):
        known = first.metadata.get(FRAMES)
        if known is not None and known == second.metadata.get(FRAMES):
            return 0
        if (a.width, a.height, a.frames) != (b.width, b.height, b.frames):
            return None
        largest = 0
        for left, right in zip(_frames(first, a, one), _frames(second, b, other), strict=True):
            seen = (frame.to_ndarray(format="rgb24").astype(np.int16) for frame in (left, right))
            largest = max(largest, int(np.abs(np.subtract(*seen)).max()))
        # Frames that were different may be the same after compression; they are not the same then.
        return max(largest, 1) if known is not None else largest


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    import av

    try:
        with open_file(path) as file, av.open(file, "r", format="mp4") as container:
            if not container.streams.video:
                raise FileError(f"{path} holds no pictures")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise FileError(f"{path} is damaged, or its pictures are packed in a way that is not read")
            yield container, stream
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        told = getattr(error, "strerror", None) or error
        raise FileError(f"{path} is damaged or cut short ({told})") from None


def _frames(container: av.container.InputContainer, stream: av.VideoStream, path: Path) -> Iterator[av.VideoFrame]:
    if stream.width * stream.height > MOST_PIXELS:
        raise FileError(f"{path} would unpack to more pixels than a frame of ours can have")
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise FileError(f"{path} is damaged or cut short (a frame)")
        yield frame
