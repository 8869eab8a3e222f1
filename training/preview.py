"""The linear map from the VAE's latents to small pictures, which previews of sampling are made with."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.nn.functional import avg_pool2d

from training.encode import latents_of
from training.pictures import as_tensor, draw

FIRST = 3_000_000
PICTURES = 120
DIGITS = 4


def fit(vae: AutoencoderKL) -> list[list[float]]:
    """Least squares from latents to the mean colour of what each stands for: R, G and B in 0..1 of each channel, and
    of the constant."""
    pictures = [draw(number) for number in range(FIRST, FIRST + PICTURES)]
    batches = [pictures[at : at + 40] for at in range(0, PICTURES, 40)]
    latents = torch.cat([latents_of(vae, batch) for batch in batches]) * vae.config.scaling_factor
    channels = latents.movedim(1, -1).flatten(0, -2)
    small = avg_pool2d(as_tensor(pictures) / 2 + 0.5, 128 // latents.shape[-1])
    known = torch.cat([channels, torch.ones(len(channels), 1)], dim=1)
    factors = torch.linalg.lstsq(known, small.movedim(1, -1).flatten(0, -2)).solution
    return [[round(value, DIGITS) for value in row] for row in factors.tolist()]


def write(vae: AutoencoderKL, folder: Path) -> None:
    """Put the map beside the VAE's configuration."""
    (folder / "preview.json").write_text(json.dumps({"factors": fit(vae)}) + "\n", encoding="utf-8")
