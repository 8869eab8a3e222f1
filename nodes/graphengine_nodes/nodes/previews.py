"""Previews: small pictures of latents, shown while sampling goes on.

A linear map from latents to RGB makes them. The folder of the VAE may hold the map as `preview.json`, beside
`config.json`: `{"factors": [[r, g, b], ...]}`, what a latent of 1 in the denoiser's scale adds to R, G and B in 0..1, a
row for each channel, and last the row of the constant. Without such a file it is that of the family's published VAE.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from graphengine import ModelError
from graphengine_nodes.families.family import Factors
from graphengine_nodes.families.lookup import family
from graphengine_nodes.values.picture_files import one_frame, stretched
from graphengine_nodes.values.references import Held
from graphengine_nodes.values.types import Image, Model
from graphengine_nodes.weights import files
from graphengine_nodes.weights.files import PREVIEW

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

MOST = 128
"""Most pixels of a preview's longer side."""


def preview(samples: torch.Tensor, model: Model) -> Image:
    """Turn latents [B, C, h, w] in the denoiser's scale into pictures: a pixel a latent, at most `MOST` a side.

    Of latents with frames, [B, C, f, h, w], the one in the middle is shown.
    """
    import torch

    with torch.no_grad():
        small = torch.nan_to_num(_reduced(one_frame(samples).float()))
        factors = factors_of(model)
        if len(factors) != small.shape[1] + 1:
            return Image(stretched(small).cpu())
        *rows, constant = torch.tensor(factors, device=small.device)
        pixels = torch.einsum("bchw,cr->bhwr", small, torch.stack(rows)) + constant
        return Image(pixels.clamp(0, 1).cpu())


def _reduced(samples: torch.Tensor) -> torch.Tensor:
    import torch

    height, width = samples.shape[-2:]
    scale = MOST / max(height, width)
    if scale >= 1:
        return samples
    return torch.nn.functional.adaptive_avg_pool2d(samples, (max(1, int(height * scale)), max(1, int(width * scale))))


def factors_of(model: Model) -> Factors:
    """Find the preview map of a model's VAE."""
    kind = family(model.family)
    digest = dict(model.components).get("vae")
    if digest is None or isinstance(digest, Held):
        return kind.preview
    try:
        folder = files.locate(digest, f"{model.source}'s vae").folder
    except ModelError:  # sampling needs no VAE: it may be on another machine
        return kind.preview
    return _written(folder) or kind.preview


@functools.lru_cache(64)
def _written(folder: Path) -> Factors | None:
    """Read the preview map in a VAE's folder; None where there is none that can be used."""
    file = folder / PREVIEW
    if not file.is_file():
        return None
    try:
        rows = files.read_json(file).get("factors", ())
        found = tuple((float(red), float(green), float(blue)) for red, green, blue in rows)
    except (ModelError, TypeError, ValueError):
        found = ()
    if not found:
        log.warning('%s should hold {"factors": [[r, g, b], ...]}; previews are made without it', file)
    return found or None
