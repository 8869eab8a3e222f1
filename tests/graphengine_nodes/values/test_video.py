"""Videos as values: what the class refuses, its codec, its views, and what it costs to import."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from graphengine_nodes import Video

from graphengine.show.notebook import row
from graphengine.show.report import views, views_html
from graphengine.values.socket_types import socket_type


def clip(count: int = 6, width: int = 32, height: int = 24, fps: float = 8) -> Video:
    """A soft picture that moves to the left."""
    across = torch.linspace(0, 1, width)[None].expand(height, width)
    down = torch.linspace(0, 1, height)[:, None].expand(height, width)
    frames = [torch.stack([across.roll(-2 * number, 1), down, across * down], -1) for number in range(count)]
    return Video(torch.stack(frames), fps)


def test_what_is_no_video_is_refused() -> None:
    for shape in ((0, 4, 4, 3), (4, 4, 3), (2, 3, 4, 4), (2, 4, 4, 4)):
        with pytest.raises(ValueError, match=r"a Video is \[F, H, W, 3\] with one frame or more, this is \["):
            Video(torch.zeros(shape), 8)
    for fps in (0, -1, 1001, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"a Video has 0\.01 to 1000 frames in a second, this has"):
            Video(torch.zeros(1, 4, 4, 3), fps)


def test_what_a_video_says_of_itself() -> None:
    video = clip()
    assert (len(video), video.size, video.seconds, video.fps) == (6, (32, 24), 0.75, 8.0)
    assert repr(video) == "<Video [6, 24, 32, 3] 0..1 at 8 fps>"
    array = np.asarray(video)
    assert (array.shape, array.dtype) == ((6, 24, 32, 3), np.uint8)
    assert np.array_equal(np.asarray(video.pil(-1)), array[5])


def test_videos_come_back_bit_for_bit() -> None:
    kind = socket_type(Video)
    assert kind is not None
    assert kind.encode is not None
    assert kind.decode is not None
    assert kind.size is not None
    video = Video(torch.rand(3, 8, 16, 3), 24000 / 1001)
    found = kind.decode(kind.encode(video))
    assert torch.equal(found.frames, video.frames)
    assert found.fps == video.fps
    assert kind.size(video) == 3 * 8 * 16 * 3 * 4


def test_a_report_and_a_notebook_show_it_moving_without_a_script() -> None:
    video = clip(40, 300, 20)
    (view,) = views(video)
    assert view.text == "40 frames of 300 x 20, 8 in a second"
    picture = PIL.Image.open(io.BytesIO(view.png or b""))
    assert (picture.n_frames, picture.size) == (32, (256, 17))  # type: ignore[attr-defined]
    lasted = 0.0
    for number in range(32):
        picture.seek(number)
        lasted += picture.info["duration"]
    assert lasted == pytest.approx(1000 * video.seconds, abs=32)
    html = views_html(video)
    assert html.count('<img alt="40 frames of 300 x 20, 8 in a second" src="data:image/png;base64,') == 1
    assert "<script" not in html
    shown = row([video, video])
    assert shown is not None
    assert shown.count("<img") == 2
    assert PIL.Image.open(io.BytesIO(clip(1)._repr_png_())).size == (32, 24)


def test_importing_the_class_imports_nothing_heavy() -> None:
    code = "import sys, graphengine_nodes; print([m for m in ('torch', 'numpy', 'PIL', 'av') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
