"""Reading video files frame by frame: upright, all that is asked for; or refused, never cut off."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graphengine import FileError, NotRegular, Outside, open_file
from graphengine_nodes.values.video_files import NO_SUM, SUM

if TYPE_CHECKING:
    import av
    import numpy

    Array = numpy.ndarray[Any, Any]

MOST_PIXELS = 1 << 28
"""The most pixels of all frames that are read at once: 3.2 GB of memory as float32, 670 frames of 832 x 480."""


class Frames(NamedTuple):
    """Frames of a video file.

    Attributes:
        frames: uint8 [F, H, W, 3].
        fps: Frames in a second, of those that were taken.
    """

    frames: Array
    fps: float


def read_frames(path: Path, start: int = 0, count: int | None = None, every: int = 1) -> Frames:
    """Read the frames of a video file: MP4, MOV, MKV, WebM or AVI.

    Args:
        path: The file.
        start: The first frame to take, counted from 0.
        count: How many to take; None for all.
        every: Take one of so many.

    Raises:
        FileError: It is no video, cut short or damaged; it has fewer frames; they would fill the memory; their colours
            are of high dynamic range.
    """
    import numpy as np

    taken: list[Array] = []
    with opened(path) as (container, stream):
        fps = stream.average_rate or stream.guessed_rate
        if not fps:
            raise FileError(f"{path} does not say how many frames it shows in a second")
        number = -1
        for number, frame in enumerate(whole_frames(container, stream, path)):
            if number < start or (number - start) % every:
                continue
            if (len(taken) + 1) * frame.width * frame.height > MOST_PIXELS:
                raise FileError(
                    f"{path} would unpack to more than {MOST_PIXELS:,} pixels in {len(taken) + 1} frames of "
                    f"{frame.width} x {frame.height}; take fewer of them (frames, every)"
                )
            taken.append(_rgb(frame, path))
            if taken[-1].shape != taken[0].shape:
                raise FileError(f"{path} changes its size at frame {number}; cut it there")
            if len(taken) == count:
                break
    if (count is not None and len(taken) < count) or not taken:
        asked = "" if count is None else f"for {count} "
        asked += f"from frame {start}" + (f", one of every {every}" if every > 1 else "")
        raise FileError(f"{path} has {number + 1} frames, too few {asked}")
    return Frames(np.stack(taken), float(fps) / every)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a video file and its first stream of pictures; errors of FFmpeg become sentences.

    Raises:
        FileError: It is no video, or damaged.
    """
    import av

    if path.is_dir():
        raise FileError(f"{path} is a folder; give one of the videos in it")
    try:
        with open_file(path) as file:
            kind = _kind(file.read(16))
            if kind is None:
                raise FileError(f"{path} is no video that can be read; MP4, MOV, MKV, WebM and AVI can be")
            file.seek(0)
            # With the format named, FFmpeg guesses none: no playlist in a file makes it open others.
            with av.open(file, "r", format=kind) as container:
                if not container.streams.video:
                    raise FileError(f"{path} holds no pictures")
                stream = container.streams.video[0]
                if stream.codec_context is None:
                    raise FileError(f"{path} is damaged, or its pictures are packed in a way that is not read")
                told = container.metadata.get(SUM)
                if told is not None and kind == "mp4" and not _is_unchanged(path, told):
                    raise FileError(f"{path} is damaged, or another program has changed it: its sum ({SUM}) is another")
                yield container, stream
    except FileNotFoundError:
        raise FileError(f"there is no file {path}") from None
    except (NotRegular, Outside) as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        raise FileError(f"{path} is damaged or cut short ({getattr(error, 'strerror', None) or error})") from None


def _is_unchanged(path: Path, told: str) -> bool:
    """Whether an MP4 of ours is as it was written."""
    with open_file(path) as file:
        data = file.read()
    return hashlib.sha256(data.replace(told.encode(), NO_SUM.encode(), 1)).hexdigest() == told


def _kind(start: bytes) -> str | None:
    """FFmpeg's name of the format of a file that begins with these bytes; None if it is none that is read."""
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return None if start[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1") else "mp4"
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    return "avi" if start[:4] == b"RIFF" and start[8:12] == b"AVI " else None


def whole_frames(container: av.container.InputContainer, stream: av.VideoStream, path: Path) -> Iterator[av.VideoFrame]:
    """Every frame, in the order in which they are shown.

    Raises:
        FileError: One is damaged, or too large.
    """
    import PIL.Image

    limit = PIL.Image.MAX_IMAGE_PIXELS or MOST_PIXELS
    if stream.codec_context.width * stream.codec_context.height > limit:
        raise FileError(f"{path} would unpack to more than {limit:,} pixels in a frame; make it smaller first")
    stream.thread_type = "AUTO"
    for number, frame in enumerate(container.decode(stream)):
        if frame.is_corrupt:
            raise FileError(f"{path} is damaged or cut short (frame {number})")
        yield frame


PQ, HLG, UNSPECIFIED = 16, 18, 2


def _rgb(frame: av.VideoFrame, path: Path) -> Array:
    """A frame as uint8 [H, W, 3], upright."""
    import numpy as np
    from av.video.reformatter import Colorspace, Interpolation

    if frame.color_trc in (PQ, HLG):
        raise FileError(f"{path} has colours of high dynamic range (HDR), which are not read; convert it to SDR")
    unsaid = frame.colorspace == UNSPECIFIED
    # What does not say its colours has those of television, of high definition from 720 rows on.
    space = (Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601) if unsaid else None
    flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
    array = frame.to_ndarray(format="rgb24", src_colorspace=space, interpolation=flags)
    return np.ascontiguousarray(np.rot90(array, round(frame.rotation / 90)))
