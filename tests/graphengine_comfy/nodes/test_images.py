"""Pictures and masks have ComfyUI's sizes and values."""

from __future__ import annotations

from pathlib import Path

import graphengine_comfy as comfy
import numpy as np
import PIL.Image
import torch
from graphengine_nodes import Image, Mask


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


def test_sizes() -> None:
    image = Image(torch.rand(2, 60, 100, 3))
    assert comfy.ImageScale(image=image, width=50, height=0).size == (50, 30)
    assert comfy.ImageScaleBy(image=image, scale_by=1.5, upscale_method="lanczos").size == (150, 90)
    assert comfy.ImageScaleToTotalPixels(image=image, megapixels=0.01, resolution_steps=8).size == (136, 80)
    assert comfy.FluxKontextImageScale(image=image).size == (1328, 800)
    assert tuple(comfy.GetImageSize(image=image)) == (100, 60, 2)
    assert comfy.ResizeImageMaskNode(input=image, resize_type_width=50, resize_type_height=50).size == (50, 50)
    longer = {"resize_type": "scale longer dimension", "resize_type_longer_size": 50}
    mask = comfy.ResizeImageMaskNode(input=Mask(torch.ones(1, 60, 100)), **longer)
    assert isinstance(mask, Mask)
    assert mask.size == (50, 30)
    assert len(comfy.BatchImagesNode(images=[image, Image(torch.rand(1, 30, 30, 3))])) == 3
    assert comfy.ImageStitch(image1=image, image2=Image(torch.rand(1, 30, 30, 3)), spacing_width=4).size == (164, 60)
    assert tuple(comfy.ResolutionSelector(aspect_ratio="16:9 (Widescreen)", multiple=16)) == (1360, 768)


def test_outpainting_reaches_into_the_picture() -> None:
    image = Image(torch.ones(1, 64, 64, 3))
    padded, mask = comfy.ImagePadForOutpaint(image=image, left=16, feathering=8)
    assert padded.size == (80, 64)
    assert torch.all(padded.pixels[:, :, :16] == 0.5)
    row = mask.values[0, 32]
    assert torch.all(row[:16] == 1)
    assert row[16] == 1
    assert row[20] == 0.25
    assert torch.all(row[24:] == 0)


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
