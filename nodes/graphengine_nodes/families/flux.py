"""FLUX.1 (dev, schnell, Kontext, Fill, Canny, Depth) on diffusers' own pipelines.

Latents between nodes are [n, 16, h, w] as in other families; the pipelines work on them packed two by two, so sides are
multiples of 16. Pipelines with a ControlNet or a control picture encode that picture themselves and draw from its
posterior first: the denoiser's results depend on the VAE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphengine_nodes.families import arguments
from graphengine_nodes.families.family import Factors, SampleRequest
from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.lora_places import (
    changes_flux,
    changes_unet,
    clip_places,
    flux_places,
    own_places,
)
from graphengine_nodes.families.picture_prompts import flux_arguments
from graphengine_nodes.families.pipelines import COMMON, class_named, is_kl, kl_settings
from graphengine_nodes.families.record import (
    LIST,
    ROWS,
    SHARED,
    Guidance,
    Latents,
    Record,
    Task,
    Text,
    Variant,
    packed,
    unpacked,
)
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.weights.headers import Header
from graphengine_nodes.weights.lora_names import LoraNames, Place

VAE_SCALE: Mapping[str, Any] = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
"""The scale of the published VAE."""

SD3_SCALE = 1.5305
"""The `scaling_factor` of SD 3's VAE."""

INPUTS = {64: "", 384: "fill", 128: "control"}
"""Variants by the channels of the transformer's input: packed latents alone, with a picture and a mask, a picture."""

# The map that other tools have published for FLUX.1.
PREVIEW: Factors = (
    (-0.0173, 0.0122, 0.03405),
    (0.0017, 0.0105, 0.03435),
    (0.01375, -0.0334, -0.02165),
    (-0.0087, 0.008, 0.03085),
    (0.04295, 0.03605, 0.01645),
    (0.0002, 0.01915, 0.00575),
    (0.02025, 0.04305, 0.04575),
    (-0.0118, -0.00925, -0.01295),
    (-0.01225, 0.0125, 0.059),
    (0.0504, 0.03775, -0.02105),
    (-0.02575, 0.01005, 0.00055),
    (0.0214, -0.0006, -0.0018),
    (0.04085, 0.03825, 0.03745),
    (-0.0632, -0.0261, -0.05515),
    (-0.014, -0.04405, -0.02495),
    (-0.0631, -0.0491, -0.0389),
    (0.4835, 0.4641, 0.4575),
)


def _lora_places(component: str, paths: Sequence[str]) -> dict[str, Place]:
    if component == "transformer":
        return flux_places(paths)
    return clip_places(paths) if component == "text_encoder" else own_places(paths)


def _owns_lora(header: Header) -> bool:
    return changes_flux(header) and not changes_unet(header)


def owns_vae(config: Mapping[str, Any]) -> bool:
    """Whether a VAE is FLUX.1's. SD 3's has the same shape, and other latents."""
    return is_kl(config) and config.get("latent_channels") == 16 and config.get("scaling_factor") != SD3_SCALE


def _variant(index: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    channels = int(config.get("in_channels", 64))
    if channels not in INPUTS:
        known = ", ".join(map(str, INPUTS))
        raise ValueError(f"takes {channels} channels; those of FLUX.1 take one of {known}")
    return INPUTS[channels]


def _settings(index: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """dev, Kontext, and schnell, which is for few steps and short prompts. No tensor tells Kontext from dev."""
    dev = config.get("guidance_embeds", False)
    found = {
        "steps": 28 if dev else 4,
        "guidance_scale": 3.5 if dev else 0.0,
        "max_sequence_length": 512 if dev else 256,
        "width": 128,
        "height": 128,
    }
    return found | ({"kontext": True} if str(index.get("_class_name", "")).startswith("FluxKontext") else {})


def _fill_settings(index: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return _settings({}, {**config, "guidance_embeds": True}) | {"steps": 50, "guidance_scale": 30.0}


def _control_settings(index: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Canny and Depth, which no tensor tells apart: Canny's guidance; Depth's model card says 10."""
    return _settings({}, {**config, "guidance_embeds": True}) | {"guidance_scale": 30.0}


def _prompt_widths(configs: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
    if "transformer" in configs:
        found = configs["transformer"]
        return int(found.get("joint_attention_dim", 4096)), int(found.get("pooled_projection_dim", 768))
    return int(configs["text_encoder_2"].get("d_model", 512)), int(configs["text_encoder"].get("hidden_size", 512))


def _scheduler(held: Contents) -> dict[str, Any]:
    transformer = held.component("transformer")
    found: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    if transformer is None or not transformer.config["guidance_embeds"]:
        return found | {"shift": 1.0, "use_dynamic_shifting": False}  # schnell
    shift = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
    return found | shift | {"shift": 3.0, "use_dynamic_shifting": True}


def _pipeline(held: Contents) -> str | None:
    """Kontext's pipeline where the file's name says so: no tensor tells Kontext from dev, and it is only a question of
    whether reference pictures are refused."""
    transformer = held.component("transformer")
    return "FluxKontextPipeline" if transformer is not None and "kontext" in transformer.where.name.lower() else None


def _check(request: SampleRequest, task: Task) -> None:
    true_cfg = request.options.arguments.get("true_cfg_scale", 1.0) > 1
    if true_cfg and request.starts_from and request.control:
        raise ValueError("with a ControlNet and a picture to start from FLUX takes no true_cfg_scale; leave it out")
    if task is KONTEXT_INPAINT and request.options.arguments.get("_auto_resize", True):
        _check_kontext_size(request)


def _check_kontext_size(request: SampleRequest) -> None:
    """Refuse a picture of another size than Kontext's pipeline for inpainting would bring it to.

    Raises:
        ValueError: It is of another size.
    """
    assert request.image is not None
    width, height = request.image.size
    sizes = class_named(f"diffusers.pipelines.{INPAINT_MODULE}", "PREFERRED_KONTEXT_RESOLUTIONS")
    _, wide, high = min((abs(width / height - w / h), w, h) for w, h in sizes)
    wanted = (wide // 16 * 16, high // 16 * 16)
    if (width, height) != wanted:
        raise ValueError(
            f"{request.model.source}, FLUX.1 Kontext, paints over pictures of the sizes that it was trained with: "
            f"bring this one and its mask to {wanted[0]} x {wanted[1]} by resize_image and resize_mask; they are "
            f"{width} x {height}. At this size it paints, less well, with arguments: {{_auto_resize: false}}"
        )


def _area(request: SampleRequest) -> dict[str, Any]:
    """The area that Kontext's pipelines bring the size to: that of the size itself."""
    width, height = request.size
    return {"max_area": width * height}


KONTEXT = (
    "kontext",
    "is no FLUX.1 Kontext by its model_index.json or its file's name, and takes no reference pictures: leave "
    "references out, or give config, a folder of Kontext",
)
"""The setting of models that take a reference picture, and what is said of others."""

INPAINT_MODULE = "flux.pipeline_flux_kontext_inpaint"
KONTEXT_INPAINT = Task(
    pipeline=f"{INPAINT_MODULE}.FluxKontextInpaintPipeline",
    encodes=True,
    names={"references": "image_reference"},
    always=_area,
    needs=KONTEXT,
)
TEXT_TO_IMAGE: Mapping[str, Task] = {
    "": Task(pipeline="flux.pipeline_flux.FluxPipeline"),
    "image": Task(pipeline="flux.pipeline_flux_img2img.FluxImg2ImgPipeline"),
    "inpaint": Task(pipeline="flux.pipeline_flux_inpaint.FluxInpaintPipeline", encodes=True),
    "controlnet": Task(pipeline="flux.pipeline_flux_controlnet.FluxControlNetPipeline", encodes=True),
    "controlnet+image": Task(
        pipeline="flux.pipeline_flux_controlnet_image_to_image.FluxControlNetImg2ImgPipeline", encodes=True
    ),
    "controlnet+inpaint": Task(
        pipeline="flux.pipeline_flux_controlnet_inpainting.FluxControlNetInpaintPipeline", encodes=True
    ),
    "references": Task(
        pipeline="flux.pipeline_flux_kontext.FluxKontextPipeline", encodes=True, always=_area, needs=KONTEXT
    ),
    "inpaint+references": KONTEXT_INPAINT,
}
FILL: Mapping[str, Task] = {"inpaint": Task(pipeline="flux.pipeline_flux_fill.FluxFillPipeline", encodes=True)}
CONTROL: Mapping[str, Task] = {
    "control": Task(pipeline="flux.pipeline_flux_control.FluxControlPipeline", encodes=True),
    "control+image": Task(pipeline="flux.pipeline_flux_control_img2img.FluxControlImg2ImgPipeline", encodes=True),
    "control+inpaint": Task(pipeline="flux.pipeline_flux_control_inpaint.FluxControlInpaintPipeline", encodes=True),
}


def _control_arguments(request: SampleRequest, nets: Sequence[Any]) -> dict[str, Any]:
    """The arguments that hold control pictures and scales; the pipelines encode pictures in -1..1 as they are."""
    controls = request.control
    if not nets:
        if len(controls) > 1:
            raise ValueError(f"{request.model.source} follows one control picture, and got {len(controls)}")
        return {"control_image": arguments.signed_picture(controls[0], request)}
    if any(control.guess for control in controls):
        raise ValueError("FLUX has no guess mode; leave guess out")
    values: dict[str, Any] = {
        "control_image": [arguments.signed_picture(control, request) for control in controls],
        "controlnet_conditioning_scale": [float(control.scale) for control in controls],
        "control_guidance_start": [control.start for control in controls],
        "control_guidance_end": [control.end for control in controls],
        # Of several ControlNets the pipelines that start from a picture use only those with a mode, if it is None.
        "control_mode": _modes(request, nets),
    }
    found = {name: value[0] if len(controls) == 1 else value for name, value in values.items()}
    count = len(request.seeds)
    if request.starts_from and found["control_mode"] not in (None, [None] * len(nets)) and count > 1:
        if len(nets) > 1:
            raise ValueError("several union ControlNets make one picture at a time where they start from one")
        found["control_mode"] = [found["control_mode"]] * count
    return found


def _modes(request: SampleRequest, nets: Sequence[Any]) -> list[int | None]:
    """The `control_mode` of each union ControlNet, which says its kind of picture; None for other ControlNets.

    Raises:
        ValueError: A mode is missing, is given to another ControlNet, or is unknown to its union ControlNet.
    """
    given = request.options.arguments.get("control_mode")
    if given is None:
        given = [control.mode for control in request.control]
    modes = given if isinstance(given, list) else [given] * len(nets)
    if len(modes) != len(nets):
        raise ValueError(f"control_mode has {len(modes)} kinds for {len(nets)} ControlNets; give one for each")
    for mode, net, control in zip(modes, nets, request.control, strict=True):
        kinds = net.config.num_mode
        source = "this control" if control.controlnet is None else control.controlnet.source
        if kinds is None and mode is not None:
            raise ValueError(f"{source} is no union ControlNet: leave its control_mode out, or give None in its place")
        if kinds is not None and (not isinstance(mode, int) or not 0 <= mode < kinds):
            raise ValueError(f"{source} is a union ControlNet: give apply_controlnet its mode, 0 to {kinds - 1}")
    return modes


FAMILY = Flow(
    Record(
        name="flux",
        classes=COMMON
        | {
            "tokenizer_2": ("transformers", "T5TokenizerFast"),
            "text_encoder_2": ("transformers", "T5EncoderModel"),
            "transformer": ("diffusers.models.transformers.transformer_flux", "FluxTransformer2DModel"),
            "controlnet": ("diffusers.models.controlnets.controlnet_flux", "FluxControlNetModel"),
        },
        parts={
            "text_encoder": ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
            "denoiser": ("transformer", "scheduler"),
            "vae": ("vae",),
        },
        variants={
            "": Variant(tasks=TEXT_TO_IMAGE, settings=_settings),
            "fill": Variant(tasks=FILL, settings=_fill_settings),
            "control": Variant(tasks=CONTROL, settings=_control_settings),
        },
        variant=_variant,
        text=Text(
            returns=("embeds", "pooled", None),
            arguments={"embeds": "prompt_embeds", "pooled": "pooled_prompt_embeds"},
            second=("prompt_2",),
            length=512,
        ),
        guidance=Guidance(embedded=True, real="true_cfg_scale"),
        latents=Latents(pack=packed, unpack_step=unpacked, unpack=unpacked),
        # Heun, the other scheduler of flow matching, takes no sigmas of the pipelines.
        schedulers=("FlowMatchEulerDiscreteScheduler",),
        scheduler=_scheduler,
        pipeline=_pipeline,
        owns_vae=owns_vae,
        vae_settings=lambda config: kl_settings({"latent_channels": 16, **config}),
        prompt_widths=_prompt_widths,
        lora_names=LoraNames(
            {"denoiser": "transformer"}
            | dict.fromkeys(("te", "te1", "clip_l", "text_encoder"), "text_encoder")
            | dict.fromkeys(("te2", "te3", "t5xxl", "text_encoder_2"), "text_encoder_2"),
            _lora_places,
            folds=True,
        ),
        owns_lora=_owns_lora,
        vae_scale=VAE_SCALE,
        preview=PREVIEW,
        axes={
            "hidden_states": ROWS,
            "timestep": ROWS,
            "guidance": ROWS,
            "pooled_projections": ROWS,
            "encoder_hidden_states": ROWS,
            "txt_ids": SHARED,
            "img_ids": SHARED,
            "controlnet_block_samples": LIST,
        },
        controls=_control_arguments,
        image_prompts=flux_arguments,
        picture_scales="layers",
        modes=lambda config: None if config.get("num_mode") is None else int(config["num_mode"]),
        check=_check,
    )
)
