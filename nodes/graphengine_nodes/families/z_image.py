"""Z-Image (Turbo and base) on diffusers' own pipelines: prompts of any length as lists, latents of FLUX.1's VAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphengine_nodes.families import arguments
from graphengine_nodes.families.family import SampleRequest
from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.flux import PREVIEW, VAE_SCALE, owns_vae
from graphengine_nodes.families.lora_families import changes_z_image
from graphengine_nodes.families.lora_places import z_image_places
from graphengine_nodes.families.pipelines import COMMON, kl_settings
from graphengine_nodes.families.record import LIST, ROWS, Guidance, Latents, Record, Task, Text, Variant, prompt_width
from graphengine_nodes.weights.lora_names import LoraNames, Place

CONTROL = {"controlnet": ("diffusers.models.controlnets.controlnet_z_image", "ZImageControlNetModel")}

TASKS: Mapping[str, Task] = {
    "": Task(pipeline="z_image.pipeline_z_image.ZImagePipeline"),
    "image": Task(pipeline="z_image.pipeline_z_image_img2img.ZImageImg2ImgPipeline"),
    "inpaint": Task(pipeline="z_image.pipeline_z_image_inpaint.ZImageInpaintPipeline", encodes=True),
    "controlnet": Task(pipeline="z_image.pipeline_z_image_controlnet.ZImageControlNetPipeline", encodes=True),
    "controlnet+inpaint": Task(
        pipeline="z_image.pipeline_z_image_controlnet_inpaint.ZImageControlNetInpaintPipeline",
        encodes=True,
        any_scheduler=True,
        single=True,
        raw=True,
    ),
}


def _settings(index: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of Turbo, which no tensor tells from the base model; the base model's card says 50 steps, guidance 4."""
    return {"steps": 9, "guidance_scale": 0.0, "width": 128, "height": 128}


def _controls(request: SampleRequest, nets: Sequence[Any]) -> dict[str, Any]:
    """The arguments that hold the picture and the scale of a single ControlNet."""
    found = arguments.one_control(request, nets)
    net, channels = request.control[0].controlnet, request.model.setting("latent_channels", 16)
    if net is not None and request.mask is not None and nets[0].config.control_in_dim == channels:
        raise ValueError(
            f"{net.source} is no ControlNet for inpainting, which alone goes with a mask: take a union of version 2.0 "
            "or later, or use sample"
        )
    return found


def _lora_places(component: str, paths: Sequence[str]) -> dict[str, Place]:
    return z_image_places(paths)


FAMILY = Flow(
    Record(
        name="z_image",
        classes=COMMON
        | CONTROL
        | {
            "tokenizer": ("transformers", "Qwen2Tokenizer"),
            "text_encoder": ("transformers", "Qwen3Model"),
            "transformer": ("diffusers.models.transformers.transformer_z_image", "ZImageTransformer2DModel"),
        },
        parts={
            "text_encoder": ("tokenizer", "text_encoder"),
            "denoiser": ("transformer", "scheduler"),
            "vae": ("vae",),
        },
        variants={"": Variant(tasks=TASKS, settings=_settings)},
        text=Text(
            returns=("embeds", None),
            arguments={"embeds": "prompt_embeds"},
            always={"do_classifier_free_guidance": False},
            length=512,
            ragged="list",
        ),
        guidance=Guidance(off=0.0),
        latents=Latents(family="flux"),
        schedulers=("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"),
        scheduler=lambda held: {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        owns_vae=owns_vae,
        vae_settings=lambda config: kl_settings({"latent_channels": 16, **config}),
        prompt_widths=prompt_width(("cap_feat_dim", 2560), lambda config: int(config.get("hidden_size", 2560))),
        encoder_widths=(2560,),
        lora_names=LoraNames({"denoiser": "transformer"}, _lora_places),
        owns_lora=changes_z_image,
        vae_scale=VAE_SCALE,
        preview=PREVIEW,
        axes={"x": LIST, "t": ROWS, "cap_feats": LIST, "controlnet_block_samples": LIST},
        controls=_controls,
        lends=True,
    )
)
