"""Pictures that are resized or padded have ComfyUI's sizes and values."""

from __future__ import annotations

import graphengine_comfy as comfy
import torch
from graphengine_nodes import Image, Mask


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
