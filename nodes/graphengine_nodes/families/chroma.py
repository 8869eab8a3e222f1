"""Chroma on diffusers' own pipelines: FLUX.1 with T5 alone, whose pipelines get a mask of the prompt's tokens.

Latents between nodes are [n, 16, h, w], of FLUX.1's VAE; the pipelines work on them packed two by two, so sides are
multiples of 16. diffusers' pipeline for inpainting cannot run, so there is no such task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.flux import PREVIEW, VAE_SCALE, owns_vae
from graphengine_nodes.families.lora_families import changes_chroma
from graphengine_nodes.families.lora_places import chroma_places, own_places
from graphengine_nodes.families.pipelines import COMMON, kl_settings
from graphengine_nodes.families.record import (
    ROWS,
    SHARED,
    Latents,
    Record,
    Task,
    Text,
    Variant,
    packed,
    prompt_width,
    unpacked,
)
from graphengine_nodes.weights.lora_names import LoraNames, Place

TASKS: Mapping[str, Task] = {
    "": Task(pipeline="chroma.pipeline_chroma.ChromaPipeline"),
    "image": Task(pipeline="chroma.pipeline_chroma_img2img.ChromaImg2ImgPipeline"),
}


def _settings(index: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the pipelines; the sides count latents."""
    return {"steps": 35, "guidance_scale": 5.0, "width": 128, "height": 128}


def _lora_places(component: str, paths: Sequence[str]) -> dict[str, Place]:
    return chroma_places(paths) if component == "transformer" else own_places(paths)


FAMILY = Flow(
    Record(
        name="chroma",
        classes=COMMON
        | {
            "tokenizer": ("transformers", "T5TokenizerFast"),
            "text_encoder": ("transformers", "T5EncoderModel"),
            "transformer": ("diffusers.models.transformers.transformer_chroma", "ChromaTransformer2DModel"),
        },
        parts={
            "text_encoder": ("tokenizer", "text_encoder"),
            "denoiser": ("transformer", "scheduler"),
            "vae": ("vae",),
        },
        variants={"": Variant(tasks=TASKS, settings=_settings)},
        text=Text(
            returns=("embeds", None, "attention_mask", None, None, None),
            arguments={"embeds": "prompt_embeds", "attention_mask": "prompt_attention_mask"},
            always={"do_classifier_free_guidance": False},
            length=512,
        ),
        latents=Latents(family="flux", pack=packed, unpack_step=unpacked, unpack=unpacked),
        # Heun and DPM++ take no sigmas of the pipelines.
        schedulers=("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"),
        scheduler=lambda held: {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        owns_vae=owns_vae,
        vae_settings=lambda config: kl_settings({"latent_channels": 16, **config}),
        prompt_widths=prompt_width(("joint_attention_dim", 4096), lambda config: int(config.get("d_model", 512))),
        lora_names=LoraNames(
            {"denoiser": "transformer"} | dict.fromkeys(("te", "te1", "t5xxl", "text_encoder"), "text_encoder"),
            _lora_places,
            folds=True,
        ),
        owns_lora=changes_chroma,
        vae_scale=VAE_SCALE,
        preview=PREVIEW,
        axes=dict.fromkeys(("hidden_states", "timestep", "encoder_hidden_states", "attention_mask"), ROWS)
        | dict.fromkeys(("txt_ids", "img_ids"), SHARED),
    )
)
