"""Stable Diffusion 1.x and 2.x on diffusers' own pipelines; clip skip is done here: theirs fails with current
transformers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families.family import Components, Factors, SampleRequest, Words
from graphengine_nodes.families.lora_places import changes_unet
from graphengine_nodes.families.prompt_embeddings import tokenizer_of
from graphengine_nodes.families.prompt_weights import chunks, scaled
from graphengine_nodes.families.unet import (
    BETAS,
    SCALES,
    UNET,
    UNetFamily,
    context_width,
    cut_off,
    refuse_length,
    second_encoder,
    unet_loras,
)
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.values.types import Conditioning, Image, Model
from graphengine_nodes.weights import vocabulary
from graphengine_nodes.weights.headers import Header
from graphengine_nodes.weights.lora_names import LoraNames

if TYPE_CHECKING:
    import torch


class StableDiffusion(UNetFamily):
    """The family; see `graphengine_nodes.families.Family`."""

    name = "stable_diffusion"
    parts: Mapping[str, Sequence[str]] = {
        "text_encoder": ("tokenizer", "text_encoder"),
        "denoiser": ("unet", "scheduler"),
        "vae": ("vae",),
    }
    classes = UNET
    lora_names = LoraNames(
        {"denoiser": "unet"} | dict.fromkeys(("te", "te1", "clip_l", "text_encoder"), "text_encoder"), unet_loras
    )
    prefix = "StableDiffusion"
    modules: Mapping[tuple[str, bool], str] = {
        ("", False): "stable_diffusion.pipeline_stable_diffusion",
        ("Img2Img", False): "stable_diffusion.pipeline_stable_diffusion_img2img",
        ("Inpaint", False): "stable_diffusion.pipeline_stable_diffusion_inpaint",
        ("", True): "controlnet.pipeline_controlnet",
        ("Img2Img", True): "controlnet.pipeline_controlnet_img2img",
        ("Inpaint", True): "controlnet.pipeline_controlnet_inpaint",
    }
    guidance_scale = 7.5
    vae_scale: Mapping[str, float] = {"scaling_factor": SCALES["stable_diffusion"]}
    # As measured for 1.4 (huggingface.co's forum, "Decoding latents to RGB without upscaling").
    preview: Factors = (
        (0.149, 0.1035, 0.104),
        (0.0935, 0.143, 0.0865),
        (-0.079, 0.0945, 0.132),
        (-0.092, -0.1355, -0.2365),
        (0.5, 0.5, 0.5),
    )

    def owns_folder(self, index: Mapping[str, Any]) -> bool:
        return str(index.get("_class_name", "")).startswith("StableDiffusion") and "text_encoder_2" not in index

    def scheduler_config(self, held: Contents) -> dict[str, Any]:
        """See `Pipelines`. Of 2.x some models predict noise and others velocity, which no tensor tells."""
        if _is_second(held):
            return {"_class_name": "DDIMScheduler", **BETAS, "prediction_type": None}
        if "ztsnr" in held.markers:  # PNDM cannot begin without signal
            return {"_class_name": "DDIMScheduler", **BETAS}
        return {"_class_name": "PNDMScheduler", **BETAS, "skip_prk_steps": True}

    def packaged_tokenizer(self, component: str, held: Contents) -> Path | None:
        return vocabulary.clip_tokenizer("!" if _is_second(held) else vocabulary.END)

    def owns_controlnet(self, config: Mapping[str, Any]) -> bool:
        return config.get("_class_name") == "ControlNetModel" and config.get("addition_embed_type") is None

    def owns_denoiser(self, config: Mapping[str, Any]) -> bool:
        return config.get("_class_name") == "UNet2DConditionModel" and config.get("addition_embed_type") is None

    def prompt_widths(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
        if "unet" in configs:
            return (int(configs["unet"].get("cross_attention_dim", 1280)),)
        return (int(configs["text_encoder"].get("hidden_size", 512)),)

    def owns_lora(self, header: Header) -> bool:
        return changes_unet(header) and context_width(header) != 2048 and not second_encoder(header)

    def encode_prompt(
        self,
        store: Components,
        model: Model,
        prompt: str | None,
        clip_skip: int,
        device: str,
        prompt_2: str | None = None,
        max_sequence_length: int | None = None,
        references: Sequence[Image] = (),
    ) -> Conditioning:
        import torch

        if prompt_2 is not None:
            raise ValueError(f"{model.source} has one text encoder; leave prompt_2 out")
        refuse_length(model, max_sequence_length)
        with (
            store.component(model, "tokenizer", "cpu") as tokenizer,
            store.component(model, "text_encoder", device) as encoder,
            tokenizer.lock,
            torch.no_grad(),
        ):
            self.forget_changed(model, "text_encoder", encoder)
            words = tokenizer_of(model, tokenizer.tokenizer)
            encode = functools.partial(_encode, words, encoder, device=device)
            # The pipelines encode an absent negative prompt as the empty one, with all layers.
            absent: torch.Tensor = self.absent(words, encoder, lambda: encode("", 0).cpu())
            embeds = absent if prompt is None else encode(prompt, clip_skip).cpu()
        return Conditioning(embeds, self.name, prompt is None, fallback={"embeds": absent})

    def encode_weighted(
        self, store: Components, model: Model, prompts: Sequence[Words], clip_skip: int, device: str
    ) -> list[Conditioning]:
        import torch

        if any(words.second is not None for words in prompts):
            raise ValueError(f"{model.source} has one text encoder; leave prompt_2 and negative_prompt_2 out")
        with (
            store.component(model, "tokenizer", "cpu") as tokenizer,
            store.component(model, "text_encoder", device) as encoder,
            tokenizer.lock,
            torch.no_grad(),
        ):
            read = functools.cache(lambda chunk: _read(encoder, [chunk.ids], [chunk.mask], clip_skip, device))
            rows = chunks([*(words.text or "" for words in prompts), ""], tokenizer_of(model, tokenizer.tokenizer))
            embeds = [
                scaled(torch.cat([read(chunk) for chunk in row], dim=1), [w for chunk in row for w in chunk.weights])
                for row in rows
            ]
        *found, absent = (tensor.cpu() for tensor in embeds)
        fallback = {"embeds": absent}
        return [
            Conditioning(tensor, self.name, words.text is None, fallback=fallback)
            for tensor, words in zip(found, prompts, strict=True)
        ]

    def constructor_options(self, request: SampleRequest) -> dict[str, Any]:
        return {"requires_safety_checker": False}


FAMILY = StableDiffusion()


def _is_second(held: Contents) -> bool:
    """Whether a file is of Stable Diffusion 2.x, whose text encoder is OpenCLIP's."""
    unet = held.component("unet")
    return unet is not None and unet.config["cross_attention_dim"] == 1024


def _encode(tokenizer: Any, encoder: Any, prompt: str, clip_skip: int, device: str) -> torch.Tensor:
    """Encode one prompt as the pipelines do: [1, tokens, width]."""
    limit = tokenizer.model_max_length
    tokens = tokenizer(prompt, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    cut_off(tokenizer, prompt)
    return _read(encoder, tokens.input_ids, tokens.attention_mask, clip_skip, device)


def _read(encoder: Any, ids: Any, mask: Any, clip_skip: int, device: str) -> torch.Tensor:
    """Run the text encoder on tokens [1, tokens]: [1, tokens, width]."""
    import torch

    ids, mask = (torch.as_tensor(given, device=device) for given in (ids, mask))
    masked = getattr(encoder.config, "use_attention_mask", False)
    mask = mask if masked else None
    if not clip_skip:
        found = encoder(ids, attention_mask=mask)[0]
    else:
        layers = encoder.config.num_hidden_layers
        if clip_skip >= layers:
            raise ValueError(f"clip_skip {clip_skip} leaves none of the text encoder's {layers} layers; give less")
        hidden = encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        found = norm(hidden[-(clip_skip + 1)])
    assert not found.requires_grad
    result: torch.Tensor = found
    return result
