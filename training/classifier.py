"""A small classifier of kinds of things, trained on the world; the evaluation judges generated pictures with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from training import checks
from training.checks import Box
from training.draws import Draws
from training.errors import reading
from training.loop import Loss, Options, Recipe, Task, train
from training.painting import render
from training.pictures import Picture, as_tensor
from training.work import Work
from training.world import KINDS, sample

SIDE = 40
MARGIN = 0.3  # of the box's side, left around it: a balloon's string is too thin for the box
BATCH = 64
SAMPLES = 30_000


def build() -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in ((3, 24), (24, 48), (48, 96)):
        convolution = nn.Conv2d(before, after, 3, padding=1)
        layers += [convolution, nn.GroupNorm(4, after), nn.SiLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * (SIDE // 8) ** 2, len(KINDS)))


def crop(picture: Picture, where: Box) -> Picture:
    """The square around the box, of 40 x 40."""
    return _square(picture, *_around(where))


def _around(where: Box) -> tuple[float, float, float]:
    """Middle and side, in pixels, of the square that holds the box and a margin."""
    side = max(where.right - where.left, where.bottom - where.top) * (1 + 2 * MARGIN)
    x, y = where.middle
    return 128 * x, 128 * y, side


def _square(picture: Picture, x: float, y: float, side: float) -> Picture:
    scale = SIDE / side
    turn = np.array([[scale, 0, SIDE / 2 - scale * x], [0, scale, SIDE / 2 - scale * y]], np.float32)
    smooth = cv2.GaussianBlur(picture, (0, 0), max(0.3, 0.4 / scale))
    return np.asarray(cv2.warpAffine(smooth, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE), np.uint8)


class Kinds(Task):
    """Crops of training pictures, moved, scaled and blurred by chance."""

    name = part = "classifier"
    recipe = Recipe(rate=2e-3, warmup=50, minutes=5, average=0.99)

    def __init__(self, work: Work, start: bool) -> None:
        self.module = build()

    def loss(self, draws: Draws, spent: float) -> Loss:
        crops: list[Picture] = []
        kinds: list[str] = []
        while len(crops) < BATCH:
            scene = sample(draws.words)
            picture = np.asarray(render(scene))
            backdrop = np.asarray(render(replace(scene, things=())), np.float32)
            parts = checks.strips(checks.things_before(backdrop, picture), scene.count)
            for thing, where in zip(scene.things, map(checks.box, parts), strict=True):
                if where is not None:
                    crops.append(self._crop(picture, where, draws.numbers))
                    kinds.append(thing.kind)
        guess = self.module(as_tensor(crops))
        truth = torch.tensor([KINDS.index(kind) for kind in kinds])
        right = (guess.argmax(1) == truth).float().mean().item()
        return Loss(F.cross_entropy(guess, truth), len(crops), {"right": right})

    def _crop(self, picture: Picture, where: Box, rng: np.random.Generator) -> Picture:
        x, y, side = _around(where)
        x, y = (x, y) + side * rng.uniform(-0.08, 0.08, 2)
        blurred = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.2, 2)) if rng.random() < 0.5 else picture
        return _square(np.asarray(blurred), x, y, side * rng.uniform(0.85, 1.15))

    def save(self, work: Work) -> None:
        path = work.path(self.part)
        path.mkdir(exist_ok=True)
        save_file(self.module.state_dict(), path / "kinds.safetensors")


def load(work: Work, samples: int = SAMPLES) -> nn.Sequential:
    """The classifier in the work folder; trained first where it is missing."""
    file: Path = work.path(Kinds.part) / "kinds.safetensors"
    if not file.exists():
        train(work, Kinds, Options(samples=samples, processes=1))
    model = build().eval()
    with reading(file):
        model.load_state_dict(load_file(file))
    return model


@torch.no_grad()
def kind(model: nn.Module, picture: Picture, where: Box) -> str:
    return KINDS[int(model(as_tensor([crop(picture, where)])).argmax())]
