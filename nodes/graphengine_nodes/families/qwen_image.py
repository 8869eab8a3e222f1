"""Qwen-Image, Qwen-Image-Edit and Edit-Plus (2509, 2511) on diffusers' own pipelines: guidance only by a negative
prompt, latents of a VAE of videos. The text encoder of those that edit sees the pictures.

Latents between nodes are [n, 16, 1, h, w], a video of one frame; the pipelines work on them packed two by two, so sides
are multiples of 16.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families import arguments
from graphengine_nodes.families.family import SampleRequest
from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.lora_families import changes_qwen_image
from graphengine_nodes.families.lora_places import qwen_image_places
from graphengine_nodes.families.pipelines import class_named
from graphengine_nodes.families.record import (
    LIST,
    ROWS,
    SCALAR,
    SHARED,
    Config,
    Guidance,
    Latents,
    Record,
    Task,
    Text,
    Variant,
    by_channels,
    exact_by_channels,
    packed,
    prompt_width,
    unpacked,
)
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.weights.lora_names import LoraNames, Place

if TYPE_CHECKING:
    pass

AREA = 1024 * 1024
SEEN = 384 * 384
"""The pixels of a picture that is edited, and of one that the text encoder of Edit-Plus sees."""

TASKS: Mapping[str, Task] = {
    "": Task(pipeline="qwenimage.pipeline_qwenimage.QwenImagePipeline"),
    "image": Task(pipeline="qwenimage.pipeline_qwenimage_img2img.QwenImageImg2ImgPipeline"),
    "inpaint": Task(pipeline="qwenimage.pipeline_qwenimage_inpaint.QwenImageInpaintPipeline", encodes=True),
    "controlnet": Task(pipeline="qwenimage.pipeline_qwenimage_controlnet.QwenImageControlNetPipeline", encodes=True),
    "controlnet+inpaint": Task(
        pipeline="qwenimage.pipeline_qwenimage_controlnet_inpaint.QwenImageControlNetInpaintPipeline",
        any_scheduler=True,
        encodes=True,
        single=True,
        global_noise=True,
        names={"image": None, "mask_image": None},
    ),
}

EDIT: Mapping[str, Task] = {
    "references": Task(
        pipeline="qwenimage.pipeline_qwenimage_edit.QwenImageEditPipeline",
        encodes=True,
        single=True,
        size=lambda width, height: _near("edit", AREA, width, height),
    ),
    "inpaint": Task(
        pipeline="qwenimage.pipeline_qwenimage_edit_inpaint.QwenImageEditInpaintPipeline",
        encodes=True,
        single=True,
        seen=True,
        size=lambda width, height: _near("edit_inpaint", AREA, width, height),
    ),
}
EDIT_PLUS: Mapping[str, Task] = {
    "references": Task(
        pipeline="qwenimage.pipeline_qwenimage_edit_plus.QwenImageEditPlusPipeline",
        encodes=True,
        single=True,
        several=8,
        size=lambda width, height: _near("edit_plus", AREA, width, height),
    ),
}

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
"""The scheduler of the published models."""


def _near(pipeline: str, area: int, width: int, height: int) -> tuple[int, int]:
    """The size to which a pipeline brings a picture, of about an area."""
    module = f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{pipeline}"
    found = class_named(module, "calculate_dimensions")(area, width / height)
    return int(found[0]), int(found[1])


def _shown_to_edit(pipeline: Any, pictures: Sequence[Any]) -> Any:
    width, height = _near("edit", AREA, *pictures[0].size)
    return pipeline.image_processor.resize(pictures[0], height, width)


def _shown_to_edit_plus(pipeline: Any, pictures: Sequence[Any]) -> Any:
    sizes = [_near("edit_plus", SEEN, *picture.size) for picture in pictures]
    return [pipeline.image_processor.resize(one, size[1], size[0]) for one, size in zip(pictures, sizes, strict=True)]


TEXT = Text(
    returns=("embeds", "mask"),
    arguments={"embeds": "prompt_embeds", "mask": "prompt_embeds_mask"},
    length=512,
    negative="none",
    ragged="padded",
)
# Those that edit read prompts in full.
TEXT_OF_EDIT = replace(TEXT, length=None, pictures="image", shown=_shown_to_edit)
TEXT_OF_EDIT_PLUS = replace(TEXT_OF_EDIT, shown=_shown_to_edit_plus)


def _variant(index: Config, config: Config) -> str:
    """What edits is told by model_index.json; of a denoiser alone by the marker of Edit 2511."""
    name = str(index.get("_class_name", ""))
    if name.startswith("QwenImageEditPlus") or (not name and config.get("zero_cond_t")):
        return "edit_plus"
    return "edit" if name.startswith("QwenImageEdit") else ""


def _pipeline(held: Contents) -> str | None:
    """That of a single file by its name: no tensor tells those that edit."""
    part = held.component("transformer")
    name = "" if part is None else part.where.name.lower()
    if "edit" not in name:
        return None
    return "QwenImageEditPlusPipeline" if re.search("2509|2511|plus", name) else "QwenImageEditPipeline"


def settings(index: Config, config: Config) -> dict[str, Any]:
    """Those of the pipelines; the sides count latents."""
    return {"steps": 50, "guidance_scale": 4.0, "width": 128, "height": 128}


def text_width(config: Config) -> int:
    """The width of the text encoder's embeddings; newer configurations have it in a part of their own."""
    return int(config.get("text_config", config).get("hidden_size", 3584))


def _vae_settings(config: Config) -> dict[str, Any]:
    halvings = config.get("temperal_downsample", (False, True, True))
    return {"factor": 2 ** len(halvings), "latent_channels": int(config.get("z_dim", 16))}


def controls(request: SampleRequest, nets: Sequence[Any]) -> dict[str, Any]:
    """The arguments that hold the picture and the scale of a single ControlNet."""
    control = request.control[0]
    if len(request.control) > 1:
        raise ValueError("Qwen-Image takes one ControlNet; leave the others out")
    if control.guess:
        raise ValueError("Qwen-Image has no guess mode; leave guess out")
    source = "this control" if control.controlnet is None else control.controlnet.source
    if nets[0].config.extra_condition_channels and request.mask is None:
        raise ValueError(f"{source} is a ControlNet for inpainting: use inpaint, with the picture and its mask")
    if request.mask is not None and not nets[0].config.extra_condition_channels:
        raise ValueError(f"{source} is no ControlNet for inpainting, which alone goes with a mask; use sample")
    # The pipeline takes a mask that is a tensor as it is: black and white, as of a picture.
    masks = {} if request.mask is None else {"control_mask": (request.mask.values[:, None] >= 0.5).float()}
    return masks | {
        "control_image": arguments.signed_picture(control, request),
        "controlnet_conditioning_scale": float(control.scale),
        "control_guidance_start": control.start,
        "control_guidance_end": control.end,
    }


def _scheduler(held: Contents) -> dict[str, Any]:
    return dict(SCHEDULER)


def lora_places(component: str, paths: Sequence[str]) -> dict[str, Place]:
    """See `lora_places.qwen_image_places`."""
    return qwen_image_places(paths)


FAMILY = Flow(
    Record(
        name="qwen_image",
        classes={
            "tokenizer": ("transformers", "Qwen2Tokenizer"),
            "processor": ("transformers", "Qwen2VLProcessor"),
            "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration"),
            "transformer": ("diffusers.models.transformers.transformer_qwenimage", "QwenImageTransformer2DModel"),
            "vae": ("diffusers.models.autoencoders.autoencoder_kl_qwenimage", "AutoencoderKLQwenImage"),
            "controlnet": ("diffusers.models.controlnets.controlnet_qwenimage", "QwenImageControlNetModel"),
        },
        parts={
            "text_encoder": ("tokenizer", "text_encoder", "processor"),
            "denoiser": ("transformer", "scheduler"),
            "vae": ("vae",),
        },
        optional=("processor",),
        variants={
            "": Variant(tasks=TASKS, settings=settings),
            "edit": Variant(tasks=EDIT, settings=settings, text=TEXT_OF_EDIT),
            "edit_plus": Variant(tasks=EDIT_PLUS, settings=settings, text=TEXT_OF_EDIT_PLUS),
        },
        variant=_variant,
        text=TEXT,
        guidance=Guidance(argument="true_cfg_scale"),
        latents=Latents(
            pack=packed,
            unpack_step=unpacked,
            unpack=unpacked,
            to_vae=by_channels,
            frames=True,
            keeps_state=True,
            exact=exact_by_channels,
        ),
        # Heun and DPM++ take no sigmas of the pipelines.
        schedulers=("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"),
        scheduler=_scheduler,
        pipeline=_pipeline,
        owns_vae=lambda config: config.get("_class_name") == "AutoencoderKLQwenImage",
        vae_settings=_vae_settings,
        prompt_widths=prompt_width(("joint_attention_dim", 3584), text_width),
        lora_names=LoraNames({"denoiser": "transformer"}, lora_places),
        owns_lora=changes_qwen_image,
        axes={
            "hidden_states": ROWS,
            "timestep": ROWS,
            "guidance": ROWS,
            "encoder_hidden_states": ROWS,
            "encoder_hidden_states_mask": ROWS,
            "img_shapes": LIST,
            "attention_kwargs": SHARED,
            "controlnet_block_samples": ROWS,
            "return_dict": SCALAR,
        },
        controls=controls,
        check=lambda request, task: arguments.check_painted(request),
    )
)
