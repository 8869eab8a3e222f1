"""Video files that are written: MP4 with the texts that say how it was made, and frames without loss as PNG or WebP."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine import FileError
from graphengine_nodes.values.picture_files import encoded, png, write_whole

if TYPE_CHECKING:
    import av
    import numpy
    import torch

    Array = numpy.ndarray[Any, Any]

OTHERS = frozenset({".gif", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".jpg", ".jpeg"})
"""Suffixes of formats that are not written, so that no file says that it is one of them."""
FRAMES = "graphengine_frames"
"""The text in an MP4 that holds the digest of the frames before they were compressed (`digest_of`), by which
`graphengine rerun` says whether frames are the same."""
SUM = "graphengine_sum"
"""The text in an MP4 that holds the SHA-256 of the whole file with `NO_SUM` in its place: damage shows, which FFmpeg
would paint over."""
NO_SUM = "the sum of this file".ljust(64, ".")
THREADS = "4"
"""Threads of the encoder: a fixed number, since the compressed frames depend on it."""
MOST_SHOWN, LONGEST_SHOWN = 32, 256
"""What a view of a video has: frames, and pixels of the longer side."""


def in_8_bits(frames: torch.Tensor) -> Iterator[Array]:
    """The frames of float [F, H, W, 3] in 0..1 one by one as uint8 [H, W, 3], rounded."""
    for frame in frames:
        yield (frame.detach().cpu().float().numpy() * 255).round().clip(0, 255).astype("uint8")


def save_frames(frames: torch.Tensor, fps: float, path: Path, text: Mapping[str, str], crf: int = 17) -> list[Path]:
    """Write a video, as `Video.save`; `crf` is that of `mp4`.

    Raises:
        FileError, ValueError: As `Video.save`.
    """
    import PIL.Image

    suffix = path.suffix.lower()
    if suffix in OTHERS:
        raise ValueError(f"{path.name}: a video is written as .mp4, or without loss as .webp or as .png for each frame")
    if suffix == ".png":
        stem = path.name[: -len(suffix)]
        files = [path.with_name(f"{stem}_{number:04d}{path.suffix}") for number in range(len(frames))]
        left = next((path.with_name(name) for name in _frames_after(path, len(frames))), None)
        if left is not None:
            raise FileError(
                f"{left} is a frame of a longer video of this name: delete its frames, or take another name"
            )
        for file, frame in zip(files, in_8_bits(frames), strict=True):
            write_whole(file, encoded(PIL.Image.fromarray(frame), "png", text))
        return files
    file = path if suffix in (".mp4", ".webp") else path.with_name(f"{path.name}.mp4")
    write_whole(file, _webp(frames, fps, text, file) if suffix == ".webp" else mp4(frames, fps, text, file, crf))
    return [file]


def _frames_after(path: Path, count: int) -> list[str]:
    """The names of files in order that would follow a video's frames, as if they were more of it."""
    names = re.compile(rf"{re.escape(path.stem)}_(\d{{4,}}){re.escape(path.suffix)}")
    there = os.listdir(path.parent) if path.parent.is_dir() else []
    return sorted(name for name in there if (found := names.fullmatch(name)) and int(found[1]) >= count)


# --- MP4 --------------------------------------------------------------------------------------------------------------


def mp4(
    frames: torch.Tensor, fps: float, text: Mapping[str, str], file: Path, crf: int = 17, encoder: str | None = None
) -> bytes:
    """The bytes of an MP4 file: H.264, colours as BT.709 says, for every second pixel of every second row (yuv420p).

    Args:
        frames: float [F, H, W, 3] in 0..1. Odd sides get one more row or column, a copy of the last.
        text: Written as metadata of the file, beside `FRAMES` and `SUM`.
        file: For error messages.
        crf: How much is lost: 0 nothing but colours, 17 what nobody sees, 51 most.
        encoder: Of FFmpeg; default: `libx264`, or `mpeg4` where FFmpeg was built without it.

    Raises:
        FileError: The encoder does not take it: frames that are too large.
    """
    import av

    name = encoder or ("libx264" if "libx264" in av.codecs_available else "mpeg4")
    target = io.BytesIO()
    height, width = int(frames.shape[1]), int(frames.shape[2])
    # The tags of MP4 itself have no place for names of ours; without this option FFmpeg leaves them out.
    options = {"movflags": "use_metadata_tags"}
    try:
        with av.open(target, "w", format="mp4", options=options) as container:
            container.metadata.update({**text, FRAMES: digest_of(frames), SUM: NO_SUM})
            rate = Fraction(fps).limit_denominator(1001 if name == "libx264" else 60)  # MPEG-4 counts to 65535
            stream = container.add_stream(name, rate=rate, options=_options(name, crf))
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
            context = stream.codec_context
            context.color_range, context.colorspace = 1, 1  # limited, BT.709
            context.color_primaries, context.color_trc = 1, 1
            for number, frame in enumerate(in_8_bits(frames)):
                container.mux(stream.encode(_yuv(frame, number, 1 / rate)))
            container.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        told = f"{len(frames)} frames of {width} x {height} cannot be written as MP4 ({_words(error)})"
        raise FileError(f"{file}: {told}; write them as .png") from None
    data = target.getvalue()
    return data.replace(NO_SUM.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def _options(encoder: str, crf: int) -> dict[str, str]:
    if encoder == "libx264":
        return {"crf": str(crf), "preset": "medium", "threads": THREADS}
    quality = max(1, min(31, round(crf / 51 * 30) + 1))  # MPEG-4's own measure goes from 1 to 31
    return {"qmin": str(quality), "qmax": str(quality), "threads": "1"}


def _yuv(frame: Array, number: int, duration: Fraction) -> av.VideoFrame:
    """A frame uint8 [H, W, 3] as the encoder takes it, with even sides."""
    import av
    import numpy as np
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    odd = [(0, side % 2) for side in frame.shape[:2]]
    made = av.VideoFrame.from_ndarray(np.pad(frame, [*odd, (0, 0)], mode="edge"), format="rgb24").reformat(
        format="yuv420p",
        src_colorspace=Colorspace.ITU709, dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
        | Interpolation.FULL_CHR_H_INP,
    )  # fmt: skip
    made.pts, made.time_base = number, duration
    return made


def digest_of(frames: torch.Tensor) -> str:
    """The SHA-256 of frames in 8 bits, with their number and size."""
    found = hashlib.sha256(str(tuple(frames.shape)).encode())
    for frame in in_8_bits(frames):
        found.update(frame.tobytes())
    return found.hexdigest()


def _words(error: Exception) -> str:
    """What an error of FFmpeg says, without numbers and names of functions."""
    return str(getattr(error, "strerror", None) or error)


# --- moving pictures without loss -------------------------------------------------------------------------------------


def _webp(frames: torch.Tensor, fps: float, text: Mapping[str, str], file: Path) -> bytes:
    import PIL.Image

    from graphengine_nodes.values.picture_text import PARAMETERS, exif_with_comment

    exif = exif_with_comment(text.get(PARAMETERS), json.dumps(dict(text), ensure_ascii=False)) if text else b""
    first, *others = (PIL.Image.fromarray(frame) for frame in in_8_bits(frames))
    target = io.BytesIO()
    try:
        first.save(
            target, "WEBP", save_all=True, append_images=others, duration=_durations(len(frames), fps), loop=0,
            lossless=True, exif=exif,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        size = f"{first.width} x {first.height}"
        raise FileError(f"{file}: {size} pixels cannot be written as WebP ({error}); write them as .png") from None
    return target.getvalue()


def moving_png(frames: torch.Tensor, fps: float) -> bytes:
    """A small animated PNG of a video, which browsers and notebooks show like any picture, without a script."""
    import PIL.Image

    count = min(len(frames), MOST_SHOWN)
    chosen = [frames[len(frames) * number // count] for number in range(count)]
    pictures = [PIL.Image.fromarray(frame) for one in chosen for frame in in_8_bits(one[None])]
    for picture in pictures:
        picture.thumbnail((LONGEST_SHOWN, LONGEST_SHOWN))
    if count == 1:
        return png(pictures[0])
    target = io.BytesIO()
    durations = _durations(count, fps * count / len(frames))
    pictures[0].save(target, "PNG", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return target.getvalue()


def _durations(count: int, fps: float) -> list[int]:
    """Whole milliseconds for each of some frames, which together last as long as they should."""
    ends = [round(1000 * number / fps) for number in range(count + 1)]
    return [max(1, end - start) for start, end in itertools.pairwise(ends)]
