"""Pictures and masks have ComfyUI's sizes and values."""

from __future__ import annotations

from pathlib import Path

import graphengine_comfy as comfy
import numpy as np
import PIL.Image
import torch
from graphengine_nodes import Mask


def test_transparency_is_a_mask_and_colours_stay(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0], pixels[:4, :, 3] = 200, 255
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    image, mask = comfy.LoadImage(image=tmp_path / "a.png")
    assert image.alpha is None
    assert torch.all(image.pixels[..., 0] == 200 / 255)
    assert mask.values[0, 0, 0] == 0
    assert mask.values[0, 7, 0] == 1
    PIL.Image.fromarray(pixels[..., :3]).save(tmp_path / "b.png")
    assert comfy.LoadImage(image=tmp_path / "b.png").MASK.values.shape == (1, 64, 64)


def test_masks() -> None:
    mask = Mask(torch.zeros(1, 9, 9))
    mask.values[0, 4, 4] = 1
    assert comfy.GrowMask(mask=mask, expand=2).values.sum() == 13
    assert comfy.GrowMask(mask=mask, expand=2, tapered_corners=False).values.sum() == 25
    assert comfy.FeatherMask(mask=comfy.SolidMask(width=8, height=4), left=4).values[0, 0].tolist() == [
        0.25, 0.5, 0.75, 1, 1, 1, 1, 1,
    ]  # fmt: skip
    assert comfy.InvertMask(mask=mask).values.sum() == 80
    blue = comfy.EmptyImage(width=4, height=4, color=0x0000FF)
    assert comfy.ImageToMask(image=blue, channel="blue").values.mean() == 1
    assert comfy.MaskToImage(mask=mask).pixels.shape == (1, 9, 9, 3)


def test_a_picture_is_laid_over_another() -> None:
    below, above = comfy.EmptyImage(width=8, height=8), comfy.EmptyImage(width=4, height=4, color=0xFFFFFF)
    found = comfy.ImageCompositeMasked(destination=below, source=above, x=6, y=2)
    assert found.pixels[0, :, :, 0].sum() == 2 * 4
    half = Mask(torch.full((1, 4, 4), 0.5))
    assert comfy.ImageCompositeMasked(destination=below, source=above, mask=half).pixels.max() == 0.5
