"""Every family is guided by ComfyUI's formula: from the negative prompt `cfg` times as far as the positive one is."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphengine_comfy as comfy
import graphengine_nodes as std
import pytest
import torch
from graphengine_nodes.testing.chroma import chroma_model
from graphengine_nodes.testing.flux import flux_model
from graphengine_nodes.testing.flux2 import flux2_model
from graphengine_nodes.testing.qwen_image import qwen_image_model
from graphengine_nodes.testing.sd3 import sd3_model
from graphengine_nodes.testing.sdxl import xl_model
from graphengine_nodes.testing.z_image import z_image_model

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "chroma": chroma_model,
    "flux": flux_model,
    "flux2": flux2_model,
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


def test_flux2_is_sampled_as_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import Flux2Transformer2DModel

    flux2_model(tmp_path / "checkpoints" / "flux2")
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(tmp_path))
    model, clip, vae = comfy.CheckpointLoaderSimple(ckpt_name="flux2")
    seen = comfy.VAEEncode(pixels=comfy.EmptyImage(width=64, height=64, color=0x3060C0), vae=vae)
    assert seen.samples.shape == (1, 128, 4, 4)
    prompt = comfy.CLIPTextEncode(text="a red house", clip=clip)
    seeing = comfy.ReferenceLatent(conditioning=prompt, latent=seen)
    sigmas = comfy.Flux2Scheduler(steps=3, width=64, height=64)
    network = Flux2Transformer2DModel.from_pretrained(tmp_path / "checkpoints" / "flux2" / "transformer").eval()

    def by_hand(reference: torch.Tensor | None) -> torch.Tensor:
        x = torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(5))
        embeds, values = prompt.entries[0].prompt.embeds, torch.tensor(sigmas.values)
        places = [torch.cartesian_prod(torch.tensor([t]), *map(torch.arange, (4, 4, 1))) for t in (0, 10)]
        words = torch.cartesian_prod(*map(torch.arange, (1, 1, 1, embeds.shape[1])))
        for now, then in itertools.pairwise(values):
            states = [x] if reference is None else [x, reference]
            with torch.no_grad():
                out = network(
                    hidden_states=torch.cat([one.flatten(2).permute(0, 2, 1) for one in states], dim=1),
                    timestep=now[None],
                    guidance=None,
                    encoder_hidden_states=embeds,
                    txt_ids=words[None],
                    img_ids=torch.cat(places[: len(states)])[None],
                ).sample[:, :16]
            x = x + (then - now) * out.permute(0, 2, 1).reshape(1, 128, 4, 4)
        return x

    for conditioning, reference in ((prompt, None), (seeing, seen.samples)):
        found, _ = comfy.SamplerCustomAdvanced(
            noise=comfy.RandomNoise(noise_seed=5),
            guider=comfy.BasicGuider(model=model, conditioning=conditioning),
            sampler=comfy.KSamplerSelect(sampler_name="euler"),
            sigmas=sigmas,
            latent_image=comfy.EmptyFlux2LatentImage(width=64, height=64),
        )
        wanted = by_hand(reference)
        assert (found.samples - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("family", ["flux2", "qwen_image", "z_image"])
def test_brackets_are_words_where_a_language_model_reads(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAMILIES[family](tmp_path / "checkpoints" / family)
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(tmp_path))
    clip = comfy.CheckpointLoaderSimple(ckpt_name=family).CLIP
    text = r"a (red:1.5) house \(old\)"
    found = comfy.CLIPTextEncode(text=text, clip=clip).entries[0].prompt
    wanted = std.encode_prompt(clip.encoder, text)
    assert torch.equal(found.embeds, wanted.embeds)


def test_chroma_prompts_are_as_long_as_their_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chroma_model(tmp_path / "checkpoints" / "chroma")
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(tmp_path))
    model, clip, _ = comfy.CheckpointLoaderSimple(ckpt_name="chroma")
    official = std.encode_prompt(clip.encoder, "a house")
    seen = int(official.fields["attention_mask"].sum())
    lengths = []
    for padding in (0, 1):
        told = comfy.T5TokenizerOptions(clip=clip, min_padding=padding)
        found = comfy.CLIPTextEncode(text="a house", clip=told)
        embeds = found.entries[0].prompt.embeds
        assert torch.equal(embeds, official.embeds[:, : embeds.shape[1]])
        lengths.append(embeds.shape[1])
        comfy.KSampler(
            model=model, steps=1, cfg=2.0, positive=found, negative=comfy.CLIPTextEncode(text="", clip=told),
            latent_image=comfy.EmptySD3LatentImage(width=64, height=64),
        )  # fmt: skip
    assert lengths == [seen - 1, seen]
    assert comfy.CLIPTextEncode(text="a house", clip=clip).entries[0].prompt.embeds.shape[1] == seen - 1
    with pytest.raises(ValueError, match="min_padding 0 or 1"):
        comfy.T5TokenizerOptions(clip=clip, min_padding=2)
