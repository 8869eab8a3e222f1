"""FLUX.1 and SDXL are sampled as ComfyUI samples them: computed here by hand on diffusers' own modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_comfy as comfy
import pytest
import torch
from graphengine_comfy.sampling.model_sampling import FAMILY_SHIFTS, DiscreteSampling
from graphengine_comfy.sampling.sigmas import sigma_table
from graphengine_comfy.values import CONDITIONING, LATENT, SIGMAS
from graphengine_nodes.testing.flux import flux_model, flux_redux
from graphengine_nodes.testing.sd import inpainting_model
from graphengine_nodes.testing.sdxl import xl_model, xl_refiner

from graphengine import ModelError, socket_type

SCALE, SHIFT = 0.3611, 0.1159
"""Of FLUX.1's VAE."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ComfyUI's folders with small models of FLUX.1 and SDXL."""
    root = tmp_path_factory.mktemp("models")
    for variant in ("", "fill", "control"):
        flux_model(root / "checkpoints" / f"flux{variant}", variant=variant)
    for folder in ("diffusion_models", "text_encoders", "vae"):
        (root / folder).mkdir()
        (root / folder / "flux").symlink_to(root / "checkpoints" / "flux")
    xl_model(root / "checkpoints" / "xl")
    xl_refiner(root / "checkpoints" / "refiner")
    inpainting_model(root / "checkpoints" / "nine")
    redux = flux_redux(root / "redux")
    for folder in ("style_models", "clip_vision"):
        (root / folder).mkdir()
    (root / "style_models" / "redux").symlink_to(redux / "image_embedder")
    (root / "clip_vision" / "siglip").symlink_to(redux / "image_encoder")
    return root


@pytest.fixture(autouse=True)
def _models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(models))


def noise(seed: int, channels: int = 16, side: int = 8) -> torch.Tensor:
    return torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(seed))


def packed(latents: torch.Tensor) -> torch.Tensor:
    count, channels, height, width = latents.shape
    found = latents.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return found.reshape(count, height * width // 4, channels * 4)


def unpacked(tokens: torch.Tensor, side: int) -> torch.Tensor:
    found = tokens.reshape(1, side // 2, side // 2, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return found.reshape(1, 16, side, side)


def places(side: int, layer: int = 0) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side // 2), torch.arange(side // 2), indexing="ij")
    return torch.stack([torch.full_like(rows, layer), rows, columns], dim=-1).reshape(-1, 3).float()


def flux_by_hand(
    folder: Path,
    prompt: CONDITIONING,
    x: torch.Tensor,
    guidance: float,
    extra: Any = None,
    reference: Any = None,
    between: torch.Generator | None = None,
) -> torch.Tensor:
    """Four steps of Euler over `simple`, in the scale of the VAE; of LCM if noise is drawn in between."""
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel.from_pretrained(folder / "transformer").eval()
    told, side, count = prompt.entries[0].prompt, x.shape[-1], x.shape[-1] ** 2 // 4
    sigmas, ids = sigma_table(FAMILY_SHIFTS["flux_dev"], "simple", 4), places(side)
    ids = ids if reference is None else torch.cat([ids, places(side, 1)])
    for index in range(4):
        states = packed(x)
        states = states if extra is None else torch.cat([states, packed(extra)], dim=2)
        states = states if reference is None else torch.cat([states, packed(reference)], dim=1)
        with torch.no_grad():
            velocity = model(
                hidden_states=states,
                timestep=sigmas[index : index + 1],
                guidance=torch.tensor([guidance]),
                pooled_projections=told.pooled,
                encoder_hidden_states=told.embeds,
                txt_ids=torch.zeros(told.embeds.shape[1], 3),
                img_ids=ids,
            ).sample[:, :count]
        velocity, following = unpacked(velocity, side), sigmas[index + 1]
        if between is None:
            x = x + (following - sigmas[index]) * velocity
        else:
            drawn = torch.randn(x.shape, generator=between)
            x = (1 - following) * (x - sigmas[index] * velocity) + following * drawn
    return x / SCALE + SHIFT


def close(found: LATENT, wanted: torch.Tensor) -> bool:
    return bool((found.samples - wanted).abs().max() < 1e-4 * wanted.abs().max())


def sampled(model: Any, prompt: CONDITIONING, latent: LATENT, **changes: Any) -> LATENT:
    told: dict[str, Any] = {"seed": 5, "steps": 4, "cfg": 1.0, "scheduler": "simple"}
    return comfy.KSampler(model=model, positive=prompt, negative=prompt, latent_image=latent, **(told | changes))


def test_parts_of_flux_are_sampled_as_by_hand(models: Path) -> None:
    model = comfy.UNETLoader(unet_name="flux")
    clip, vae = comfy.CLIPLoader(clip_name="flux", type="flux"), comfy.VAELoader(vae_name="flux")
    prompt = comfy.FluxGuidance(conditioning=comfy.CLIPTextEncode(text="a house", clip=clip), guidance=2.5)
    assert prompt.entries[0].prompt.embeds.shape[1] == 256
    found = sampled(model, prompt, comfy.EmptySD3LatentImage(width=64, height=64))
    assert close(found, flux_by_hand(models / "checkpoints" / "flux", prompt, noise(5), 2.5))
    assert comfy.VAEDecode(samples=found, vae=vae).size == (64, 64)
    four = comfy.EmptyLatentImage(width=64, height=64)  # empty latents have the channels that the model needs
    assert torch.equal(sampled(model, prompt, four).samples, found.samples)
    whole = comfy.CheckpointLoaderSimple(ckpt_name="flux")
    assert torch.equal(sampled(whole.MODEL, prompt, four).samples, found.samples)


def test_noise_in_between_is_drawn_in_the_form_of_the_latents(models: Path) -> None:
    model, clip, _ = comfy.CheckpointLoaderSimple(ckpt_name="flux")
    prompt = comfy.CLIPTextEncode(text="a house", clip=clip)
    found = sampled(model, prompt, comfy.EmptySD3LatentImage(width=64, height=64), sampler_name="lcm")
    between = torch.Generator().manual_seed(6)  # on a CPU it counts one further than the seed
    assert close(found, flux_by_hand(models / "checkpoints" / "flux", prompt, noise(5), 3.5, between=between))


def test_weights_move_the_words_of_t5(models: Path) -> None:
    clip = comfy.CLIPLoader(clip_name="flux", type="flux")

    def prompt(text: str) -> Any:
        return comfy.CLIPTextEncode(text=text, clip=clip).entries[0].prompt

    plain, heavy, empty = prompt("a red house"), prompt("a (red:1.5) house"), prompt("")
    moved = (plain.embeds - heavy.embeds).abs().amax((0, 2)) > 1e-6
    assert 0 < moved.sum() < 10
    wanted = empty.embeds + 1.5 * (plain.embeds - empty.embeds)
    assert torch.allclose(heavy.embeds[:, moved], wanted[:, moved], atol=1e-5)
    assert torch.equal(heavy.pooled, plain.pooled)
    nearly = prompt("a (red:1.000001) house")
    assert torch.allclose(nearly.embeds, plain.embeds, atol=1e-4)
    assert len(prompt("(long) " * 60).embeds[0]) > 256


def test_flux_begins_at_a_picture(models: Path) -> None:
    model, clip, vae = comfy.CheckpointLoaderSimple(ckpt_name="flux")
    prompt = comfy.CLIPTextEncode(text="a house", clip=clip)
    latent = comfy.VAEEncode(pixels=comfy.EmptyImage(width=64, height=64, color=0xFF8000), vae=vae)
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    masked = comfy.SetLatentNoiseMask(samples=latent, mask=comfy.images.Mask(mask))
    found = sampled(model, prompt, masked, denoise=0.5)
    change = (found.samples - latent.samples).abs().amax((0, 1))
    assert change[0].max() < 1e-4
    assert change[3:5, 3:5].min() > 1e-3
    begun = (latent.samples - SHIFT) * SCALE
    sigma = sigma_table(FAMILY_SHIFTS["flux_dev"], "simple", 8)[-5:]
    assert sigma[0] < 0.9
    steps = sampled(model, prompt, latent, steps=4, denoise=0.5)
    assert (steps.samples - latent.samples).abs().max() > 1e-2
    assert begun.shape == steps.samples.shape


def test_empty_latents_of_another_family_are_of_the_same_size(models: Path) -> None:
    model, clip, _ = comfy.CheckpointLoaderSimple(ckpt_name="flux")
    prompt = comfy.CLIPTextEncode(text="a house", clip=clip)
    own, other = comfy.EmptySD3LatentImage(width=64, height=96), comfy.EmptyFlux2LatentImage(width=64, height=96)
    assert torch.equal(sampled(model, prompt, other).samples, sampled(model, prompt, own).samples)


def test_noise_between_the_steps_is_drawn_in_the_shape_of_latents(models: Path) -> None:
    model, clip, _ = comfy.CheckpointLoaderSimple(ckpt_name="flux")
    prompt = comfy.CLIPTextEncode(text="a house", clip=clip)
    empty = comfy.EmptySD3LatentImage(width=64, height=64)
    told: dict[str, Any] = {"steps": 2, "sampler_name": "euler_ancestral"}
    whole = sampled(model, prompt, empty, **told)
    table = sigma_table(FAMILY_SHIFTS["flux_dev"], "simple", 2).tolist()
    first, _ = comfy.SamplerCustom(
        model=model, noise_seed=5, cfg=1.0, positive=prompt, negative=prompt, latent_image=empty,
        sampler=comfy.KSamplerSelect(sampler_name="euler"), sigmas=SIGMAS((table[0], table[1] ** 2 / table[0])),
    )  # fmt: skip
    down, fresh = table[1] ** 2 / table[0], noise(6)
    x = (first.samples - SHIFT) * SCALE * (1 - down)
    scale = (1 - table[1]) / (1 - down)
    x = scale * x + (table[1] ** 2 - (scale * down) ** 2) ** 0.5 * fresh
    begun = LATENT(x / (1 - table[1]) / SCALE + SHIFT)
    wanted, _ = comfy.SamplerCustom(
        model=model, add_noise=False, cfg=1.0, positive=prompt, negative=prompt, latent_image=begun,
        sampler=comfy.KSamplerSelect(sampler_name="euler"), sigmas=SIGMAS((table[1], 0.0)),
    )  # fmt: skip
    assert close(whole, wanted.samples)


def test_fill_and_canny_see_their_pictures(models: Path) -> None:
    picture = comfy.EmptyImage(width=64, height=64, color=0x3060C0)
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    model, clip, vae = comfy.CheckpointLoaderSimple(ckpt_name="fluxfill")
    prompt = comfy.CLIPTextEncode(text="a house", clip=clip)
    positive, _, latent = comfy.InpaintModelConditioning(
        positive=prompt, negative=prompt, vae=vae, pixels=picture, mask=comfy.images.Mask(mask), noise_mask=False
    )
    found = sampled(model, positive, latent)
    concat = (positive.entries[0].options["concat_latent"] - SHIFT) * SCALE
    pieces = mask.reshape(1, 8, 8, 8, 8).permute(0, 2, 4, 1, 3).reshape(1, 64, 8, 8)
    extra = torch.cat([concat, pieces], dim=1)
    assert close(found, flux_by_hand(models / "checkpoints" / "fluxfill", prompt, noise(5), 3.5, extra))
    with pytest.raises(ValueError, match="InpaintModelConditioning"):
        sampled(model, prompt, latent)

    model, clip, vae = comfy.CheckpointLoaderSimple(ckpt_name="fluxcontrol")
    prompt = comfy.CLIPTextEncode(text="a house", clip=clip)
    positive, _, latent = comfy.InstructPixToPixConditioning(
        positive=prompt, negative=prompt, vae=vae, pixels=picture
    )
    extra = (positive.entries[0].options["concat_latent"] - SHIFT) * SCALE
    found = sampled(model, positive, latent)
    assert close(found, flux_by_hand(models / "checkpoints" / "fluxcontrol", prompt, noise(5), 3.5, extra))


def test_kontext_sees_a_reference(models: Path) -> None:
    model, clip, vae = comfy.CheckpointLoaderSimple(ckpt_name="flux")
    prompt = comfy.CLIPTextEncode(text="a house", clip=clip)
    latent = comfy.VAEEncode(pixels=comfy.EmptyImage(width=64, height=64, color=0x3060C0), vae=vae)
    seeing = comfy.ReferenceLatent(conditioning=prompt, latent=latent)
    found = sampled(model, seeing, comfy.EmptySD3LatentImage(width=64, height=64))
    reference = (latent.samples - SHIFT) * SCALE
    folder = models / "checkpoints" / "flux"
    assert close(found, flux_by_hand(folder, prompt, noise(5), 3.5, reference=reference))
    two = comfy.ReferenceLatent(conditioning=seeing, latent=latent)
    assert not close(sampled(model, two, comfy.EmptySD3LatentImage(width=64, height=64)), found.samples)


def test_sdxl_is_told_the_sizes_of_each_side(models: Path) -> None:
    from diffusers import UNet2DConditionModel

    model, clip, _ = comfy.CheckpointLoaderSimple(ckpt_name="xl")
    told = {"width": 96, "height": 80, "crop_w": 8, "crop_h": 16, "target_width": 64, "target_height": 72}
    positive = comfy.CLIPTextEncodeSDXL(clip=clip, text_l="a house", text_g="a boat", **told)
    negative = comfy.CLIPTextEncode(text="a tree", clip=clip)
    found = comfy.KSampler(
        model=model, seed=5, steps=3, cfg=4.0, positive=positive, negative=negative,
        latent_image=comfy.EmptyLatentImage(width=64, height=64),
    )  # fmt: skip
    unet = UNet2DConditionModel.from_pretrained(models / "checkpoints" / "xl" / "unet").eval()
    levels = DiscreteSampling()
    sigmas = sigma_table(levels, "normal", 3)
    x = noise(5, 4) * (1 + sigmas[0] ** 2).sqrt()
    sides = [negative.entries[0].prompt, positive.entries[0].prompt]
    embeds = torch.cat([one.embeds for one in sides])
    pooled = torch.cat([one.pooled for one in sides if one.pooled is not None])
    times = torch.tensor([[64, 64, 0, 0, 64, 64], [80, 96, 16, 8, 72, 64]])
    for index in range(3):
        with torch.no_grad():
            out = unet(
                torch.cat([x, x]) / (sigmas[index] ** 2 + 1).sqrt(),
                torch.tensor(levels.timestep(float(sigmas[index]))),
                encoder_hidden_states=embeds,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": times},
            ).sample
        x = x + (out[:1] + 4.0 * (out[1:] - out[:1])) * (sigmas[index + 1] - sigmas[index])
    assert close(found, x / 0.13025)


def test_the_refiner_goes_on_where_a_base_stopped(models: Path) -> None:
    from diffusers import UNet2DConditionModel

    model, clip, _ = comfy.CheckpointLoaderSimple(ckpt_name="refiner")
    positive = comfy.CLIPTextEncodeSDXLRefiner(ascore=7.0, width=96, height=80, text="a house", clip=clip)
    negative = comfy.CLIPTextEncode(text="", clip=clip)
    begun = LATENT(noise(3, 4) * 5)
    found = comfy.KSamplerAdvanced(
        model=model, steps=5, cfg=4.0, positive=positive, negative=negative, add_noise="disable", start_at_step=3,
        latent_image=begun,
    )  # fmt: skip
    unet = UNet2DConditionModel.from_pretrained(models / "checkpoints" / "refiner" / "unet").eval()
    levels = DiscreteSampling()
    sigmas, x = sigma_table(levels, "normal", 5)[3:], begun.samples * 0.13025
    sides = [negative.entries[0].prompt, positive.entries[0].prompt]
    told = {"text_embeds": torch.cat([one.pooled for one in sides if one.pooled is not None])}
    told["time_ids"] = torch.tensor([[64, 64, 0, 0, 2.5], [80, 96, 0, 0, 7.0]])
    for index in range(2):
        with torch.no_grad():
            out = unet(
                torch.cat([x, x]) / (sigmas[index] ** 2 + 1).sqrt(),
                torch.tensor(levels.timestep(float(sigmas[index]))),
                encoder_hidden_states=torch.cat([one.embeds for one in sides]),
                added_cond_kwargs=told,
            ).sample
        x = x + (out[:1] + 4.0 * (out[1:] - out[:1])) * (sigmas[index + 1] - sigmas[index])
    assert close(found, x / 0.13025)


def test_inpainting_models_see_the_picture_and_the_mask(models: Path) -> None:
    model, clip, vae = comfy.CheckpointLoaderSimple(ckpt_name="nine")
    picture, mask = comfy.EmptyImage(width=64, height=64, color=0x3060C0), torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    prompt, empty = (comfy.CLIPTextEncode(text=text, clip=clip) for text in ("a red circle", ""))
    told = {"vae": vae, "pixels": picture, "mask": comfy.images.Mask(mask)}
    positive, negative, latent = comfy.InpaintModelConditioning(positive=prompt, negative=empty, **told)
    other = comfy.InpaintModelConditioning(
        positive=prompt, negative=empty, **(told | {"pixels": comfy.EmptyImage(width=64, height=64, color=0xFF0000)})
    )

    def made(positive: CONDITIONING, negative: CONDITIONING, latent: LATENT) -> torch.Tensor:
        return comfy.KSampler(
            model=model, steps=3, cfg=3.0, positive=positive, negative=negative, latent_image=latent
        ).samples

    found = made(positive, negative, latent)
    assert (found - made(other.positive, other.negative, latent)).abs().max() > 1e-3
    classic = comfy.VAEEncodeForInpaint(**told)
    assert classic.noise_mask is not None
    assert made(prompt, empty, classic).isfinite().all()
    with pytest.raises(ValueError, match="give it InpaintModelConditioning"):
        made(prompt, empty, comfy.EmptyLatentImage(width=64, height=64))
    with pytest.raises(ValueError, match="different pictures"):
        made(positive, other.negative, latent)


def test_redux_puts_a_picture_behind_the_prompt(models: Path) -> None:
    clip = comfy.CLIPLoader(clip_name="flux", type="flux")
    prompt = comfy.CLIPTextEncode(text="a house", clip=clip)
    seen = comfy.CLIPVisionEncode(
        clip_vision=comfy.CLIPVisionLoader(clip_name="siglip"), image=comfy.EmptyImage(width=64, height=48, color=0x80)
    )
    style = comfy.StyleModelLoader(style_model_name="redux")
    full, half = (
        comfy.StyleModelApply(conditioning=prompt, style_model=style, clip_vision_output=seen, strength=strength)
        for strength in (1.0, 0.5)
    )
    words = prompt.entries[0].prompt.embeds
    found, less = (one.entries[0].prompt.embeds for one in (full, half))
    assert found.shape[1] > words.shape[1]
    assert torch.equal(found[:, : words.shape[1]], words)
    assert torch.allclose(less[:, words.shape[1] :], found[:, words.shape[1] :] * 0.5)


def test_unknown_files_are_told_with_near_names(models: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no 'fluxfil'.*did you mean flux"):
        comfy.CheckpointLoaderSimple(ckpt_name="fluxfil")
    (models / "outside").mkdir(exist_ok=True)
    with pytest.raises(ModelError, match="there is no"):
        comfy.VAELoader(vae_name="../checkpoints/flux")


def test_a_controlnet_of_both_prompts_is_the_same_read_back_from_disk_and_no_other() -> None:
    model, clip, _ = comfy.CheckpointLoaderSimple(ckpt_name="tiny")
    prompt = comfy.CLIPTextEncode(text="a house", clip=clip)
    net = comfy.ControlNetLoader(control_net_name="tiny-canny")
    picture = comfy.EmptyImage(width=64, height=64, color=0xFFFFFF)
    both = comfy.ControlNetApplyAdvanced(positive=prompt, negative=prompt, control_net=net, image=picture)
    kept = socket_type(CONDITIONING)
    assert kept is not None
    assert kept.encode is not None
    assert kept.decode is not None
    again = kept.decode(kept.encode(both.negative))

    def made(negative: CONDITIONING) -> torch.Tensor:
        empty = comfy.EmptyLatentImage(width=64, height=64)
        return comfy.KSampler(
            model=model, positive=both.positive, negative=negative, latent_image=empty, steps=2, cfg=2.0
        ).samples

    assert torch.equal(made(again), made(both.negative))
    for changes in ({"strength": 0.5}, {"end_percent": 0.5}, {"image": comfy.EmptyImage(width=64, height=64)}):
        told: dict[str, Any] = {"positive": prompt, "negative": prompt, "control_net": net, "image": picture}
        with pytest.raises(ValueError, match="with the same pictures and strengths"):
            made(comfy.ControlNetApplyAdvanced(**(told | changes)).negative)
