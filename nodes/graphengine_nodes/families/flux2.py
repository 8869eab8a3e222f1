"""FLUX.2 (dev, klein) on diffusers' own pipelines: several reference pictures, latents that a batch norm scales.

Latents between nodes are [n, 32, h, w] at 1/8 of the size in the denoiser's scale; the pipelines work on them packed
two by two, so sides are multiples of 16. klein's pipelines return latents in the VAE's scale, so those of the last step
are taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families.family import SampleRequest
from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.lora_families import changes_flux2
from graphengine_nodes.families.lora_places import flux2_places
from graphengine_nodes.families.pipelines import kl_settings
from graphengine_nodes.families.record import ROWS, Guidance, Latents, Record, Shape, Task, Text, Variant
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.weights.lora_names import LoraNames, Place

if TYPE_CHECKING:
    import torch

MOST = 10
"""Reference pictures in one call, as dev's card says it."""

AREA = 1024 * 1024
"""Pixels of a reference picture; larger ones are scaled down to it."""


def _size(width: int, height: int) -> tuple[int, int]:
    """The size of what is made by that of a reference picture, as the pipelines compute it."""
    if width * height > AREA:
        scale = math.sqrt(AREA / (width * height))
        width, height = int(width * scale), int(height * scale)
    return width // 16 * 16, height // 16 * 16


def _patched(latents: torch.Tensor) -> torch.Tensor:
    """Latents [n, 32, h, w] two by two: [n, 128, h / 2, w / 2]."""
    n, channels, height, width = latents.shape
    found = latents.reshape(n, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return found.reshape(n, channels * 4, height // 2, width // 2)


def _unpatched(latents: torch.Tensor) -> torch.Tensor:
    n, channels, height, width = latents.shape
    found = latents.reshape(n, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    return found.reshape(n, channels // 4, height * 2, width * 2)


def _packed(latents: torch.Tensor, shape: Shape) -> torch.Tensor:
    return _patched(latents).flatten(2).permute(0, 2, 1)


def _unpacked(latents: torch.Tensor, shape: Shape) -> torch.Tensor:
    side = 2 * shape.factor
    n, _, channels = latents.shape
    return _unpatched(latents.permute(0, 2, 1).reshape(n, channels, shape.height // side, shape.width // side))


def _to_vae(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """From the denoiser's scale to the VAE's, by the numbers of its batch norm."""
    import torch

    patched = _patched(latents)
    mean = vae.bn.running_mean.view(1, -1, 1, 1).to(patched)
    std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).to(patched)
    return _unpatched(patched * std + mean)


def _variant(index: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if config.get("guidance_embeds", True):
        return "dev"
    return "distilled" if index.get("is_distilled") else ""


def _index(held: Contents) -> dict[str, Any]:
    """klein is distilled unless its file's name says `base`, as published ones do: no tensor tells it."""
    part = held.component("transformer")
    if part is None or part.config.get("guidance_embeds", True):
        return {}
    return {"is_distilled": "base" not in part.where.name.lower()}


def _defaults(steps: int, scale: float) -> Any:
    return lambda index, config: {"steps": steps, "guidance_scale": scale, "width": 128, "height": 128}


def _prompt_widths(configs: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
    """Three layers of the text encoder stand side by side."""
    if "transformer" in configs:
        return (int(configs["transformer"].get("joint_attention_dim", 15360)),)
    found = configs["text_encoder"]
    return (3 * int(found.get("text_config", found).get("hidden_size", 4096)),)


def _check(request: SampleRequest, task: Task) -> None:
    for number, picture in enumerate(request.references, start=1):
        width, height = picture.size
        if min(width, height) < 64 or max(width, height) > 8 * min(width, height):
            raise ValueError(
                f"reference picture {number} is {width} x {height}; FLUX.2 takes sides of 64 pixels at least, the "
                "longer one at most 8 times the shorter: use resize_image, crop_image or pad_image"
            )


def _lora_places(component: str, paths: Sequence[str]) -> dict[str, Place]:
    return flux2_places(paths)


KLEIN = "flux2.pipeline_flux2_klein"
KLEIN_TASKS: Mapping[str, Task] = {
    "": Task(pipeline=f"{KLEIN}.Flux2KleinPipeline"),
    "references": Task(pipeline=f"{KLEIN}.Flux2KleinPipeline", encodes=True, several=MOST, size=_size, decides=0),
    "inpaint": Task(pipeline=f"{KLEIN}_inpaint.Flux2KleinInpaintPipeline", encodes=True),
    # Its pipeline brings several references to the size of the first one, so it gets one.
    "inpaint+references": Task(
        pipeline=f"{KLEIN}_inpaint.Flux2KleinInpaintPipeline", encodes=True, names={"references": "image_reference"}
    ),
}
DEV = "flux2.pipeline_flux2.Flux2Pipeline"
DEV_TASKS: Mapping[str, Task] = {
    "": Task(pipeline=DEV),
    "references": Task(pipeline=DEV, encodes=True, several=MOST, size=_size, decides=0),
}

FAMILY = Flow(
    Record(
        name="flux2",
        classes={
            "tokenizer": ("transformers", "Qwen2Tokenizer"),
            "text_encoder": ("transformers", "Qwen3ForCausalLM"),
            "transformer": ("diffusers.models.transformers.transformer_flux2", "Flux2Transformer2DModel"),
            "vae": ("diffusers.models.autoencoders.autoencoder_kl_flux2", "AutoencoderKLFlux2"),
        },
        parts={
            "text_encoder": ("tokenizer", "text_encoder"),
            "denoiser": ("transformer", "scheduler"),
            "vae": ("vae",),
        },
        variants={
            "": Variant(tasks=KLEIN_TASKS, settings=_defaults(50, 4.0)),
            "distilled": Variant(
                tasks=KLEIN_TASKS,
                settings=_defaults(4, 1.0),
                options=("is_distilled",),
                guidance=Guidance(off=math.inf),
            ),
            "dev": Variant(
                tasks=DEV_TASKS,
                settings=_defaults(50, 4.0),
                guidance=Guidance(embedded=True),
                classes={
                    "tokenizer": [("transformers", "PixtralProcessor")],
                    # Files of their own have it without the side that sees pictures, which prompts do not use.
                    "text_encoder": [
                        ("transformers", "Mistral3ForConditionalGeneration"),
                        ("transformers", "MistralForCausalLM"),
                    ],
                },
            ),
        },
        variant=_variant,
        text=Text(returns=("embeds", None), arguments={"embeds": "prompt_embeds"}, length=512),
        latents=Latents(pack=_packed, unpack_step=_unpacked, of_loop=True, to_vae=_to_vae, statistics=("bn",)),
        schedulers=("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"),
        scheduler=lambda held: {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "shift": 3.0,
            "use_dynamic_shifting": True,
        },
        index=_index,
        owns_vae=lambda config: config.get("_class_name") == "AutoencoderKLFlux2",
        vae_settings=lambda config: kl_settings({"latent_channels": 32, **config}),
        prompt_widths=_prompt_widths,
        encoder_widths=(2560, 4096, 5120),
        lora_names=LoraNames({"denoiser": "transformer"}, _lora_places),
        owns_lora=changes_flux2,
        axes=dict.fromkeys(
            ("hidden_states", "timestep", "guidance", "encoder_hidden_states", "txt_ids", "img_ids"), ROWS
        ),
        check=_check,
    )
)
