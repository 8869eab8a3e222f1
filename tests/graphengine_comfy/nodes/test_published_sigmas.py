"""Qwen-Image 2.1 is sampled as its authors' pipeline samples it, with pictures and without."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import graphengine_comfy as comfy
import numpy as np
import pytest
import torch
from graphengine_comfy.nodes.published_sigmas import published_sigmas
from graphengine_nodes import Image
from graphengine_nodes.families.qwen_image import SCHEDULER
from graphengine_nodes.testing.qwen_image import qwen_image_21_model
from PIL import Image as PILImage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_image_21_model(tmp_path_factory.mktemp("models") / "checkpoints" / "model")


@pytest.fixture
def parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(folder.parent.parent))
    return comfy.CheckpointLoaderSimple(ckpt_name="model")


@pytest.mark.parametrize("size", [(1024, 1024), (2752, 1536), (64, 64)])
def test_sigmas_are_shifted_by_the_size_and_end_at_the_published_one(size: tuple[int, int]) -> None:
    count = size[0] // 16 * (size[1] // 16)
    shift = math.exp(0.5 + (count - 256) * (0.9 - 0.5) / (8192 - 256))
    shifted = [shift / (shift + 1 / time - 1) for time in (1 - step / 40 for step in range(40))]
    least = (1 - shifted[-1]) / (1 - 0.02)
    wanted = [1 - (1 - sigma) / least for sigma in shifted] + [0.0]
    assert published_sigmas(40, 1.0, count) == pytest.approx(wanted, abs=1e-6)
    assert published_sigmas(20, 0.5, count) == pytest.approx(wanted[-21:], abs=1e-6)


@pytest.mark.parametrize("seen", [0, 1, 2])
@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_the_picture_is_that_of_diffusers_pipeline(seen: int, cfg: float, folder: Path, parts: Any) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImage21Pipeline

    drawn = np.random.default_rng(4).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    pictures = [Image(torch.from_numpy(one[None].astype(np.float32)) / 255) for one in drawn[:seen]]
    told = {"prompt": "make (it) red", "negative_prompt": "the sea"}
    asked = comfy.TextEncodeQwenImage21(clip=parts.CLIP, vae=parts.VAE, resolution=64, images=pictures, **told)
    assert asked.latent.samples.shape == (1, 64, 4, 4)
    found = comfy.KSampler(
        model=parts.MODEL, seed=5, steps=3, cfg=cfg, positive=asked.positive, negative=asked.negative,
        latent_image=comfy.EmptyLatentImage(width=64, height=96), scheduler="simple",
    ).samples[:, :, 0]  # fmt: skip
    config = json.loads((folder / "vae" / "config.json").read_text())
    mean, std = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
    pipeline: Any = QwenImage21Pipeline.from_pretrained(folder)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 64, 1, 6, 4, generator=torch.Generator().manual_seed(5))
    wanted = pipeline(
        **told, true_cfg_scale=cfg, image=[PILImage.fromarray(one) for one in drawn[:seen]] or None, width=64,
        height=96, output_resolution=64, num_inference_steps=3, latents=noise[:, :, 0].flatten(2).permute(0, 2, 1),
        output_type="latent",
    ).images  # fmt: skip
    wanted = wanted.permute(0, 2, 1).reshape(1, 64, 6, 4)
    assert ((found - mean) / std - wanted).abs().max() < 2e-4 * wanted.abs().max()


def test_what_is_not_followed_is_refused(parts: Any) -> None:
    asked = comfy.TextEncodeQwenImage21(clip=parts.CLIP, prompt="a house")
    told = {"positive": asked.positive, "negative": asked.negative, "latent_image": asked.latent, "cfg": 1.0}
    with pytest.raises(ValueError, match="depend on the size of the picture"):
        comfy.KSampler(model=parts.MODEL, scheduler="karras", **told)
    with pytest.raises(ValueError, match="depend on the size of the picture"):
        comfy.BasicScheduler(model=parts.MODEL, scheduler="simple", steps=2)
    seeing = comfy.ReferenceLatent(conditioning=asked.positive, latent=comfy.LatentFromBatch(samples=asked.latent))
    with pytest.raises(ValueError, match="TextEncodeQwenImage21, with the VAE"):
        comfy.KSampler(model=parts.MODEL, scheduler="simple", **{**told, "positive": seeing})
    with pytest.raises(ValueError, match="link vae"):
        comfy.TextEncodeQwenImage21(clip=parts.CLIP, images=[Image(torch.rand(1, 32, 32, 3))])
    with pytest.raises(ValueError, match="dtype int8"):
        comfy.QwenImage21Cache(model=parts.MODEL, dtype="int8")
