"""Every family is guided by ComfyUI's formula: from the negative prompt `cfg` times as far as the positive one is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphengine_comfy as comfy
import pytest
import torch
from graphengine_nodes.testing.chroma import chroma_model
from graphengine_nodes.testing.flux import flux_model
from graphengine_nodes.testing.qwen_image import qwen_image_model
from graphengine_nodes.testing.sd3 import sd3_model
from graphengine_nodes.testing.sdxl import xl_model
from graphengine_nodes.testing.z_image import z_image_model

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "chroma": chroma_model,
    "flux": flux_model,
    "qwen_image": qwen_image_model,
    "stable_diffusion_3": sd3_model,
    "stable_diffusion_xl": xl_model,
    "z_image": z_image_model,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_goes_from_the_negative_prompt(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAMILIES[family](tmp_path / "checkpoints" / family)
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(tmp_path))
    model, clip, vae = comfy.CheckpointLoaderSimple(ckpt_name=family)
    one, other = (comfy.CLIPTextEncode(text=text, clip=clip) for text in ("a red house", "the sea"))
    empty = comfy.EmptySD3LatentImage(width=64, height=64)

    def reached(positive: Any, cfg: float) -> torch.Tensor:
        return comfy.KSampler(
            model=model, steps=1, cfg=cfg, positive=positive, negative=other, latent_image=empty, scheduler="simple"
        ).samples

    yes, no = reached(one, 1.0), reached(other, 1.0)
    wanted = no + 2.5 * (yes - no)
    assert (yes - no).abs().max() > 1e-4
    assert (reached(one, 2.5) - wanted).abs().max() < 1e-3 * wanted.abs().max()
    whole = comfy.KSampler(model=model, steps=2, cfg=2.0, positive=one, negative=other, latent_image=empty)
    picture = comfy.VAEDecode(samples=whole, vae=vae)
    assert picture.size == (64, 64)
    again = comfy.VAEEncode(pixels=picture, vae=vae)
    begun = comfy.KSampler(
        model=model, steps=2, cfg=1.0, positive=one, negative=other, latent_image=again, denoise=0.5
    )
    assert begun.samples.shape == whole.samples.shape
