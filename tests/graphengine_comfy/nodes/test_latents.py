"""Latents: pictures to latents and back, masks, sizes and batches."""

from __future__ import annotations

import graphengine_comfy as comfy
import pytest
import torch
from graphengine_comfy.nodes.loaders import Checkpointed
from graphengine_comfy.nodes.resizing import resized
from graphengine_comfy.values import LATENT
from graphengine_nodes import Mask


def test_pictures_come_back_and_odd_sides_are_cut(tiny: Checkpointed) -> None:
    picture = comfy.EmptyImage(width=131, height=68, color=0x3060C0)
    latent = comfy.VAEEncode(pixels=picture, vae=tiny.VAE)
    assert latent.samples.shape == (1, 4, 8, 16)
    back = comfy.VAEDecode(samples=latent, vae=tiny.VAE)
    assert back.size == (128, 64)
    assert (back.pixels - torch.tensor([0x30, 0x60, 0xC0]) / 255).abs().mean() < 0.1
    with pytest.raises(ValueError, match="16 channels"):
        comfy.VAEDecode(samples=comfy.EmptySD3LatentImage(width=64, height=64), vae=tiny.VAE)


def test_inpainting_covers_the_mask_and_a_little_more(tiny: Checkpointed) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, 24:40, 24:40] = 1
    picture = comfy.EmptyImage(width=64, height=64, color=0xFFFFFF)
    latent = comfy.VAEEncodeForInpaint(pixels=picture, vae=tiny.VAE, mask=Mask(mask), grow_mask_by=6)
    assert latent.noise_mask is not None
    assert latent.noise_mask.shape == (1, 1, 64, 64)
    assert latent.noise_mask.sum() == (16 + 5) ** 2
    decoded = comfy.VAEDecode(samples=latent, vae=tiny.VAE).pixels[0]
    assert abs(float(decoded[30:34, 30:34].mean()) - 0.5) < 0.15  # what is masked is grey
    assert decoded[:8].mean() > 0.85


def test_batches_keep_the_places_of_their_noise() -> None:
    batch = LATENT(torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 4, 2, 2).clone())
    part = comfy.LatentFromBatch(samples=batch, batch_index=1, length=2)
    assert part.batch_index == (1, 2)
    twice = comfy.RepeatLatentBatch(samples=part, amount=2)
    assert twice.batch_index == (1, 2, 3, 4)
    assert twice.samples[:, 0, 0, 0].tolist() == [1, 2, 1, 2]
    assert comfy.LatentFromBatch(samples=batch, batch_index=9, length=9).batch_index == (3,)


def test_joined_latents_keep_the_first_ones_noise_mask() -> None:
    masks = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    first, second = LATENT(torch.ones(2, 4, 2, 2), masks), LATENT(torch.ones(2, 4, 2, 2))
    joined = comfy.LatentBatch(samples1=first, samples2=second)
    assert joined.batch_index == (0, 1, 0, 1)
    assert joined.noise_mask is not None
    assert torch.equal(joined.noise_mask, masks)
    assert comfy.LatentBatch(samples1=second, samples2=first).noise_mask is None
    last = comfy.LatentFromBatch(samples=joined, batch_index=3)  # the masks are repeated over the batch
    assert last.noise_mask is not None
    assert torch.equal(last.noise_mask, masks[1:])


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"])
def test_latents_are_resized_in_pixels_of_the_picture(method: str) -> None:
    latent = LATENT(torch.full((1, 4, 8, 8), 2.0))
    found = comfy.LatentUpscale(samples=latent, upscale_method=method, width=128, height=96).samples
    assert found.shape == (1, 4, 12, 16)
    assert (found - 2.0).abs().max() < 1e-5
    assert comfy.LatentUpscale(samples=latent, width=128, height=0).samples.shape == (1, 4, 16, 16)
    wide = LATENT(torch.zeros(1, 4, 64, 100))
    assert comfy.LatentUpscale(samples=wide, width=0, height=520).samples.shape == (1, 4, 65, 101)  # 812.5 pixels
    assert comfy.LatentUpscaleBy(samples=latent, scale_by=1.5).samples.shape == (1, 4, 12, 12)


def test_the_middle_is_kept_where_proportions_differ() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 4, 8)
    assert resized(ramp, 4, 4, "nearest-exact", "center")[0, 0, 0].tolist() == [2, 3, 4, 5]
    assert resized(ramp, 4, 4, "nearest-exact").shape == (1, 1, 4, 4)
