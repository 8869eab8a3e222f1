"""Videos: reading, writing, and their frames as pictures."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Annotated

from graphengine import INERT, Context, Doc, File, Range, node
from graphengine_nodes.values.types import Image
from graphengine_nodes.values.video import FASTEST, SLOWEST, Video
from graphengine_nodes.values.video_files import save_frames
from graphengine_nodes.values.video_reading import read_frames

MOST = 100_000
"""Frames: the most that an input names."""
Every = Annotated[int, Range(1, MOST, 1), Doc("Take one frame of so many.")]


@node(version=1)
def load_video(
    path: Annotated[str | Path, File("video")],
    start: Annotated[int, Range(0, MOST, 1), Doc("The first frame to take, counted from 0.")] = 0,
    frames: Annotated[int | None, Range(1, MOST, 1), Doc("How many frames to take; default: all.")] = None,
    every: Every = 1,
) -> Video:
    """Read the frames of an MP4, MOV, MKV, WebM or AVI file, upright as it says; sound is left out.

    With `every` above 1 it shows fewer frames in a second, and lasts as long. All that is taken has 268 million pixels
    at most (`frames`, `every`).

    In ComfyUI: `LoadVideo`.

    Raises:
        FileError: It is no video, damaged or cut short, or has fewer frames; the frames would fill the memory; its
            colours are of high dynamic range.
    """
    import torch

    found = read_frames(Path(path), start, frames, every)
    return Video(torch.from_numpy(found.frames).float() / 255.0, found.fps)


@load_video.fingerprint
def _decoder(path: str | Path, start: int = 0, frames: int | None = None, every: int = 1) -> str:
    """What keys have beside the file: the version of the library that decodes it."""
    return f"av {importlib.metadata.version('av')}"


@node(version=1, output=True)
def save_video(
    video: Video,
    path: Annotated[
        str | Path,
        File("video", write=True),
        Doc("Ends in .mp4 or nothing; or, without loss, in .webp, or in .png for one file of each frame."),
    ],
    crf: Annotated[
        int, Range(1, 51, 1), Doc("How much MP4 loses (H.264's constant rate factor): 17 what nobody sees, 51 most.")
    ] = 17,
    ctx: Context = INERT,
) -> list[str]:
    """Write a video with the record of how it was made, as MP4 or as frames without loss; return the file names.

    An MP4 has sides that are even: an odd one gets a row or column more, a copy of the last. Frames take the place of
    earlier ones of the name, but not where those are more: what is left of them would look like the end of this video.

    In ComfyUI: `SaveVideo`, `SaveWEBM`.

    Raises:
        FileError: It cannot be written; no half file is left; there are frames of a longer video of the name.
        ValueError: The suffix is that of another format.
    """
    text = ctx.making("video", video)
    return [str(file) for file in save_frames(video.frames, video.fps, Path(path), text, crf)]


@node(version=1)
def frames_of(
    video: Video,
    start: Annotated[
        int, Range(-MOST, MOST, 1), Doc("The first frame, counted from 0; from the end if negative: -1 is the last.")
    ] = 0,
    count: Annotated[int | None, Range(1, MOST, 1), Doc("How many frames; default: all to the end.")] = None,
    every: Every = 1,
) -> Image:
    """Take frames of a video as a batch of pictures.

    In ComfyUI: `GetVideoComponents`.

    Raises:
        ValueError: The video has fewer frames.
    """
    first = start + len(video) if start < 0 else start
    if not 0 <= first < len(video):
        raise ValueError(f"the video has {len(video)} frames, and no frame {start}")
    most = len(range(first, len(video), every))
    if count is not None and count > most:
        asked = f"frame {start}" + (f", one of every {every}" if every > 1 else "")
        raise ValueError(f"the video has {len(video)} frames: from {asked} there are {most}, not {count}")
    last = len(video) if count is None else first + count * every
    taken = video.frames[first:last:every]
    return Image(taken if len(taken) == len(video) else taken.clone())  # a part does not hold the whole in memory


@node(version=1)
def video_of(
    image: Annotated[Image | list[Image], Doc("The frames in order, all of one size; alpha lies over white.")],
    fps: Annotated[float, Range(SLOWEST, FASTEST, 1), Doc("Frames that are shown in a second.")],
) -> Video:
    """Make a video of pictures.

    In ComfyUI: `CreateVideo`.

    Raises:
        ValueError: There are no pictures, or they are of different sizes.
    """
    import torch

    given = image if isinstance(image, list) else [image]
    sizes = sorted({f"{one.size[0]} x {one.size[1]}" for one in given if len(one)})
    if not sizes:
        raise ValueError("a video of no pictures; give at least one")
    if len(sizes) > 1:
        raise ValueError(f"sizes differ: {', '.join(sizes)}; a video has frames of one size: use resize_image")
    return Video(torch.cat([one.opaque().pixels for one in given]), fps)
