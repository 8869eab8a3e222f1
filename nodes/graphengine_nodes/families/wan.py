"""Wan 2.1 and 2.2 on diffusers' own pipelines: videos from prompts, first and last pictures, and from videos.

A video of 4k+1 frames has k+1 frames of latents. 2.2's large models have two denoisers, for much and for little noise;
its 5B tells each place of the latents its own time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families import arguments
from graphengine_nodes.families.family import Factors, SampleRequest
from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.flow_requests import class_of
from graphengine_nodes.families.lora_families import changes_wan
from graphengine_nodes.families.lora_places import wan_places
from graphengine_nodes.families.record import (
    ROWS,
    SHARED,
    Latents,
    Record,
    Task,
    Text,
    Variant,
    by_channels,
    exact_by_channels,
    prompt_width,
)
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.weights.lora_names import LoraNames, Place

if TYPE_CHECKING:
    pass

# The map that other tools have published for Wan 2.1, in 0..1.
PREVIEW: Factors = (
    (-0.06495, -0.0846, 0.1466),
    (0.03355, 0.0203, 0.0221),
    (0.1784, 0.1274, 0.08735),
    (0.0186, 0.1172, 0.071),
    (0.01565, 0.00945, -0.0164),
    (0.0148, -0.0478, -0.03325),
    (-0.17385, -0.20295, -0.14625),
    (0.0083, 0.0951, 0.09875),
    (-0.0206, 0.01335, -0.0682),
    (-0.06465, 0.037, 0.0818),
    (0.034, 0.15095, 0.0564),
    (0.0016, 0.02905, 0.03195),
    (-0.06255, 0.04635, 0.08495),
    (0.003, -0.03165, 0.00025),
    (0.17385, 0.11375, 0.1475),
    (0.0992, 0.04565, 0.09305),
    (0.40825, 0.4566, 0.332),
)


def _frames(request: SampleRequest) -> dict[str, Any]:
    return {"num_frames": request.frames or 1}


TEXT = Task(pipeline="wan.pipeline_wan.WanPipeline", always=_frames)
PICTURES = Task(
    pipeline="wan.pipeline_wan_i2v.WanImageToVideoPipeline",
    encodes=True,
    names={"first": "image", "last": "last_image"},
    always=_frames,
)
VIDEO = Task(
    pipeline="wan.pipeline_wan_video2video.WanVideoToVideoPipeline", names={"image": "video"}, any_scheduler=True
)


def _variant(index: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    channels, sees = config.get("in_channels", 16), config.get("image_dim") is not None
    if channels == 48:
        return "2.2-5b"
    if channels not in (16, 36):
        raise ValueError(f"takes {channels} channels; those of Wan take 16, 36 or 48")
    if sees:
        return "2.1-i2v" if config.get("pos_embed_seq_len") is None else "2.1-flf2v"
    if channels == 36:
        return "2.2-i2v"
    return "" if index.get("boundary_ratio") is None else "2.2"


def _settings(**other: Any) -> Any:
    """Those of 2.1, by which the others differ; sides in latents."""
    found = {"steps": 50, "guidance_scale": 5.0, "width": 104, "height": 60, "frames": 81, "fps": 16.0, **other}
    return lambda index, config: dict(found)


def _vae_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "factor": config.get("scale_factor_spatial", 8),
        "latent_channels": config.get("z_dim", 16),
        "frame_factor": config.get("scale_factor_temporal", 4),
    }


def _boundary(config: Mapping[str, Any]) -> float | None:
    """Of 2.2 14B: for videos from prompts, and from pictures."""
    return {16: 0.875, 36: 0.9}.get(int(config.get("in_channels", 16)))


def _scheduler(held: Contents) -> dict[str, Any]:
    """That of the published models, for 480p; 2.2's 5B is for 720p."""
    part = held.component("transformer")
    large = part is not None and part.config["in_channels"] == 48
    return {
        "_class_name": "UniPCMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 5.0 if large else 3.0,
    }


def _lora_places(component: str, paths: Sequence[str]) -> dict[str, Place]:
    return wan_places(paths)


def _check(request: SampleRequest, task: Task) -> None:
    if request.options.guidance_scale_2 is not None and request.model.setting("boundary_ratio") is None:
        raise ValueError(f"{request.model.source} has one denoiser for all steps; leave guidance_scale_2 out")
    if request.model.setting("boundary_ratio") is not None and "transformer_2" not in dict(request.model.components):
        raise ValueError(f"{request.model.source} is one of two denoisers; load the other too, and use pair_denoisers")
    if "video" in request.asks:  # this pipeline rounds steps down
        arguments.check_strength(request, class_of(task), lambda steps, strength: int(steps * strength))


FAMILY = Flow(
    Record(
        name="wan",
        classes={
            "tokenizer": ("transformers", "T5TokenizerFast"),
            "text_encoder": ("transformers", "UMT5EncoderModel"),
            "transformer": ("diffusers.models.transformers.transformer_wan", "WanTransformer3DModel"),
            "transformer_2": ("diffusers.models.transformers.transformer_wan", "WanTransformer3DModel"),
            "image_processor": ("transformers", "CLIPImageProcessor"),
            "image_encoder": ("transformers", "CLIPVisionModel"),
            "vae": ("diffusers.models.autoencoders.autoencoder_kl_wan", "AutoencoderKLWan"),
        },
        parts={
            "text_encoder": ("tokenizer", "text_encoder"),
            "denoiser": ("transformer", "transformer_2", "image_processor", "image_encoder", "scheduler"),
            "vae": ("vae",),
        },
        optional=("transformer_2", "image_processor", "image_encoder"),
        beside=("transformer_2", "image_processor", "image_encoder"),
        variants={
            "": Variant(tasks={"": TEXT, "video": VIDEO}, settings=_settings()),
            "2.1-i2v": Variant(tasks={"first": PICTURES}, settings=_settings()),
            "2.1-flf2v": Variant(tasks={"first+last": PICTURES}, settings=_settings()),
            "2.2": Variant(
                tasks={"": TEXT},
                settings=_settings(steps=40, guidance_scale=4.0, guidance_scale_2=3.0),
                options=("boundary_ratio",),
            ),
            "2.2-i2v": Variant(
                tasks={"first": PICTURES, "first+last": PICTURES},
                settings=_settings(steps=40, guidance_scale=3.5),
                options=("boundary_ratio",),
            ),
            "2.2-5b": Variant(
                tasks={"": TEXT, "first": PICTURES},
                settings=_settings(width=80, height=44, frames=121, fps=24.0, expand_timesteps=True),
                options=("expand_timesteps",),
            ),
        },
        variant=_variant,
        boundary=_boundary,
        text=Text(
            returns=("embeds", None),
            arguments={"embeds": "prompt_embeds"},
            always={"do_classifier_free_guidance": False},
            length=512,
        ),
        latents=Latents(to_vae=by_channels, frames=True, keeps_state=True, exact=exact_by_channels),
        schedulers=("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"),
        scheduler=_scheduler,
        owns_vae=lambda config: config.get("_class_name") == "AutoencoderKLWan",
        vae_settings=_vae_settings,
        prompt_widths=prompt_width(("text_dim", 4096), lambda config: int(config.get("d_model", 4096))),
        lora_names=LoraNames({"denoiser": "transformer"}, _lora_places, second="transformer_2"),
        owns_lora=changes_wan,
        preview=PREVIEW,
        axes={
            "hidden_states": ROWS,
            "timestep": ROWS,
            "encoder_hidden_states": ROWS,
            "encoder_hidden_states_image": ROWS,
            "attention_kwargs": SHARED,
        },
        check=_check,
    )
)
