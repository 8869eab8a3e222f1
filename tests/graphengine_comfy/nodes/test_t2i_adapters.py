"""T2I-Adapters steer as diffusers' own pipeline for them does, from files with the published names and with its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_comfy as comfy
import pytest
import torch
from graphengine_comfy.nodes import t2i_adapters
from graphengine_nodes import Image
from graphengine_nodes.testing import sd
from safetensors.torch import save_file

from graphengine import ModelError


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    sd.levels_model(root / "checkpoints" / "levels")
    (root / "controlnet").mkdir()
    for kind in ("full", "light"):
        sd.t2i_adapter(root / "controlnet" / f"{kind}.safetensors", kind)
        sd.t2i_adapter(root / "controlnet" / f"{kind}_published.safetensors", kind, published=True)
    return root


@pytest.fixture
def parts(models: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(models))
    return comfy.CheckpointLoaderSimple(ckpt_name="levels")


def control_picture(count: int = 1) -> Image:
    return Image(torch.rand(count, 64, 96, 3, generator=torch.Generator().manual_seed(7)))


def sampled(
    parts: Any, name: str, strength: float = 1.0, cfg: float = 2.0, pictures: int = 1, latents: int = 1,
    joined: bool = False, **options: Any,
) -> torch.Tensor:  # fmt: skip
    sides: Any = [comfy.CLIPTextEncode(text=text, clip=parts.CLIP) for text in ("a house", "the sea")]
    net = comfy.ControlNetLoader(control_net_name=name)
    if joined:
        sides[0] = comfy.ConditioningCombine(conditioning_1=sides[0], conditioning_2=sides[0])
    if options.pop("simple", False):
        sides[0] = comfy.ControlNetApply(
            conditioning=sides[0], control_net=net, image=control_picture(), strength=strength
        )
    else:
        sides = comfy.ControlNetApplyAdvanced(
            positive=sides[0], negative=sides[1], control_net=net, image=control_picture(pictures), strength=strength,
            **options,
        )  # fmt: skip
    empty = comfy.EmptyLatentImage(width=96, height=64, batch_size=latents)
    return comfy.KSampler(
        model=parts.MODEL, seed=3, steps=3, cfg=cfg, positive=sides[0], negative=sides[1], latent_image=empty
    ).samples


@pytest.mark.parametrize("kind", ["full", "light"])
def test_the_unet_gets_what_diffusers_adapter_makes(kind: str, models: Path, parts: Any) -> None:
    """The same by diffusers' pipeline for adapters, on ComfyUI's table of sigmas."""
    from diffusers import StableDiffusionAdapterPipeline
    from graphengine_comfy.nodes.denoising import model_sampling
    from graphengine_comfy.sampling.noise import noise_for
    from graphengine_comfy.sampling.scheduler import sigma_scheduler

    table = comfy.BasicScheduler(model=parts.MODEL, scheduler="normal", steps=3).values
    levels = model_sampling(parts.MODEL)
    prompts = [comfy.CLIPTextEncode(text=text, clip=parts.CLIP).entries[0].prompt for text in ("a house", "the sea")]
    network = t2i_adapters.loaded(models / "controlnet" / f"{kind}.safetensors")
    pipeline: Any = StableDiffusionAdapterPipeline.from_pretrained(
        models / "checkpoints" / "levels", adapter=network, safety_checker=None
    )
    pipeline.scheduler = sigma_scheduler("euler", table, levels, 3)
    pipeline.set_progress_bar_config(disable=True)
    wanted = pipeline(
        prompt_embeds=prompts[0].embeds, negative_prompt_embeds=prompts[1].embeds, height=64, width=96,
        image=control_picture().pixels.movedim(-1, 1), adapter_conditioning_scale=0.7, num_inference_steps=3,
        guidance_scale=2.0, latents=noise_for(3, (1, 4, 8, 12)), output_type="latent",
    ).images / pipeline.vae.config.scaling_factor  # fmt: skip
    found = sampled(parts, f"{kind}.safetensors", 0.7)
    free = sampled(parts, f"{kind}.safetensors", 0.0)
    assert (found - free).abs().max() > 1e-2 * free.abs().max()
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert torch.equal(sampled(parts, f"{kind}_published.safetensors", 0.7), found)
    assert torch.equal(sampled(parts, f"{kind}.safetensors", 0.7, simple=True), found)


def test_an_adapter_acts_in_its_part_of_sampling(parts: Any) -> None:
    always, never = sampled(parts, "full.safetensors"), sampled(parts, "full.safetensors", 0.0)
    first = sampled(parts, "full.safetensors", end_percent=0.3)
    last = sampled(parts, "full.safetensors", start_percent=0.3)
    for one, other in ((first, always), (first, never), (last, always), (last, never), (first, last)):
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize(("pictures", "latents"), [(2, 1), (3, 2)])
def test_pictures_beyond_the_latents_steer_nothing(pictures: int, latents: int, parts: Any) -> None:
    wanted = sampled(parts, "full.safetensors", pictures=latents, latents=latents)
    more = sampled(parts, "full.safetensors", pictures=pictures, latents=latents)
    assert (more - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_an_adapter_steers_each_of_joined_prompts(parts: Any) -> None:
    alone, joined = sampled(parts, "full.safetensors"), sampled(parts, "full.safetensors", joined=True)
    assert (joined - alone).abs().max() < 1e-4 * alone.abs().max()


def test_another_shape_is_refused(models: Path, parts: Any, tiny: Any) -> None:
    save_file({"conv_in.weight": torch.zeros(8, 768, 3, 3), "body.0.block1.weight": torch.zeros(8, 8, 3, 3)},
              models / "controlnet" / "xl.safetensors")  # fmt: skip
    with pytest.raises(ModelError, match="no T2I-Adapter of Stable Diffusion 1: its first layer"):
        sampled(parts, "xl.safetensors")
