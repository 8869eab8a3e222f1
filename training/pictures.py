"""Pictures as arrays and tensors: drawn by number, as edges, as blueprints."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from training.painting import render
from training.world import Scene, sample

Picture = NDArray[np.uint8]  # [height, width, 3], or [height, width] for edges
Style = Callable[[Picture], Picture]

PAPER = np.array((30, 66, 150), np.float32)
LINE = np.array((236, 242, 252), np.float32)


def scene(number: int) -> Scene:
    """The training scene of this number."""
    return sample(random.Random(number))


def draw(number: int) -> Picture:
    return np.asarray(render(scene(number)))


def as_tensor(pictures: Sequence[Picture] | Picture) -> torch.Tensor:
    """A batch of pictures as the VAE wants it: [count, 3, height, width] from -1 to 1."""
    return torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def plain(picture: Picture) -> Picture:
    return picture


def canny(picture: Picture) -> Picture:
    """Edges (Canny 1986) of an RGB picture as 0 and 255."""
    return np.asarray(cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 100, 200), np.uint8)


def blueprint(picture: Picture) -> Picture:
    """The picture's outlines, three pixels wide, pale on blue paper."""
    smooth = cv2.GaussianBlur(picture, (3, 3), 0).astype(np.float32)
    slopes = [np.abs(cv2.Sobel(smooth, cv2.CV_32F, *axes, ksize=3)).max(2) for axes in ((1, 0), (0, 1))]
    ink = np.clip((slopes[0] + slopes[1] - 60) / 120, 0, 1)[..., None]
    return np.asarray((PAPER * (1 - ink) + LINE * ink).round(), np.uint8)
