"""Videos as values: frames and how many of them are shown in a second, without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine_nodes.values.types import tensor_line

if TYPE_CHECKING:
    import numpy
    import PIL.Image
    import torch

SLOWEST, FASTEST = 0.01, 1000.0
"""Frames in a second: fewer or more than these are refused."""


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Video:
    """A video: frames of one size, without sound.

    Attributes:
        frames: float32 [F, H, W, 3], RGB in 0..1, on the CPU; at least one.
        fps: Frames that are shown in a second, 0.01 to 1000.
    """

    frames: torch.Tensor
    fps: float

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or not len(self.frames):
            raise ValueError(f"a Video is [F, H, W, 3] with one frame or more, this is {list(self.frames.shape)}")
        if not SLOWEST <= self.fps <= FASTEST:
            raise ValueError(f"a Video has {SLOWEST:g} to {FASTEST:g} frames in a second, this has {self.fps:g}")
        object.__setattr__(self, "fps", float(self.fps))

    def __len__(self) -> int:
        return int(self.frames.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as PIL orders them."""
        return int(self.frames.shape[2]), int(self.frames.shape[1])

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self) / self.fps

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> numpy.ndarray[Any, Any]:
        """uint8 [F, H, W, 3], rounded."""
        import numpy as np

        from graphengine_nodes.values.video_files import in_8_bits

        return np.asarray(np.stack(list(in_8_bits(self.frames))), dtype=dtype)

    def pil(self, index: int = 0) -> PIL.Image.Image:
        """One frame as a PIL picture: 8 bits, rounded; from the end if `index` is negative."""
        import PIL.Image

        from graphengine_nodes.values.video_files import in_8_bits

        (frame,) = in_8_bits(self.frames[index][None])
        return PIL.Image.fromarray(frame)

    def save(self, path: str | Path, text: Mapping[str, str] | None = None) -> list[Path]:
        """Write files; the suffix decides the format. `text` is written into them.

        - `.mp4` or no suffix: one MP4 file, H.264 (MPEG-4 where there is no encoder for it). It keeps the frames only
          roughly. Odd sides get one more row or column, a copy of the last, since colours are stored for 2 x 2 pixels.
        - `.png`: one file for each frame, `name_0000.png`, `name_0001.png`, ..., without loss.
        - `.webp`: one animated file without loss; frames that are equal to the one before become one with it.

        Raises:
            FileError: It cannot be written; no half file is left; there are frames of a longer video of the name.
            ValueError: The suffix is that of another format.
        """
        from graphengine_nodes.values.video_files import save_frames

        return save_frames(self.frames, self.fps, Path(path), text or {})

    def __repr__(self) -> str:
        return f"<Video {tensor_line(self.frames)} at {self.fps:g} fps>"

    def _repr_png_(self) -> bytes:
        from graphengine_nodes.values.video_files import moving_png

        return moving_png(self.frames, self.fps)
