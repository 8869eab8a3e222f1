"""Stable Diffusion 3 and 3.5 on diffusers' own pipelines: two CLIPs side by side, and T5, which may be absent.

Its VAE has the shape of FLUX.1's and another scale. The pipelines with a ControlNet encode the control picture
themselves, and draw from its posterior without the caller's generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from graphengine_nodes.families import arguments
from graphengine_nodes.families.family import SampleRequest
from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.flux import SD3_SCALE
from graphengine_nodes.families.lora_families import changes_stable_diffusion_3
from graphengine_nodes.families.lora_places import clip_places, own_places, stable_diffusion_3_places
from graphengine_nodes.families.pipelines import COMMON, is_kl, kl_settings
from graphengine_nodes.families.record import LIST, ROWS, SHARED, Record, Task, Text, Variant
from graphengine_nodes.layouts.contents import Contents
from graphengine_nodes.values.references import Model
from graphengine_nodes.weights import vocabulary
from graphengine_nodes.weights.lora_names import LoraNames, Place

VAE_SCALE: Mapping[str, Any] = {"scaling_factor": SD3_SCALE, "shift_factor": 0.0609}
"""The scale of the published VAE."""

INPUTS = {16: "", 33: "inpaint"}
"""Variants by the channels of the transformer's input: latents alone, with a mask and a masked picture."""

INPAINT = Task(
    pipeline="stable_diffusion_3.pipeline_stable_diffusion_3_inpaint.StableDiffusion3InpaintPipeline", encodes=True
)

TASKS: Mapping[str, Task] = {
    "": Task(pipeline="stable_diffusion_3.pipeline_stable_diffusion_3.StableDiffusion3Pipeline"),
    "image": Task(pipeline="stable_diffusion_3.pipeline_stable_diffusion_3_img2img.StableDiffusion3Img2ImgPipeline"),
    "inpaint": INPAINT,
    "controlnet": Task(
        pipeline="controlnet_sd3.pipeline_stable_diffusion_3_controlnet.StableDiffusion3ControlNetPipeline",
        encodes=True,
        single=True,
        global_noise=True,
    ),
    "controlnet+inpaint": Task(
        pipeline="controlnet_sd3.pipeline_stable_diffusion_3_controlnet_inpainting."
        "StableDiffusion3ControlNetInpaintingPipeline",
        encodes=True,
        any_scheduler=True,
        single=True,
        global_noise=True,
        raw=True,
        names={"image": None, "mask_image": "control_mask"},
    ),
}


def _variant(index: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    channels = int(config.get("in_channels", 16))
    if channels not in INPUTS:
        raise ValueError(f"takes {channels} channels; those of Stable Diffusion 3 take 16 or, for inpainting, 33")
    return INPUTS[channels]


def _settings(index: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the pipelines; no tensor tells 3.5 Large Turbo, whose card says 4 steps and guidance 0, from Large."""
    width = int(config.get("joint_attention_dim", 4096))
    return {"steps": 28, "guidance_scale": 7.0, "width": 128, "height": 128, "prompt_width": width}


def _unseen(model: Model) -> Mapping[str, Any]:
    """How wide the transformer takes prompts: where there is no T5, zeros of that width stand for its embeddings."""
    config = SimpleNamespace(
        joint_attention_dim=int(model.setting("prompt_width", 4096)), sample_size=128, patch_size=2
    )
    return {"transformer": SimpleNamespace(config=config)}


def _prompt_widths(configs: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
    """The width of the CLIPs' pooled embeddings together, and of all embeddings, which T5 decides if it is there."""
    if "transformer" in configs:
        found = configs["transformer"]
        return int(found.get("pooled_projection_dim", 2048)), int(found.get("joint_attention_dim", 4096))
    clips = sum(int(configs[name].get("projection_dim", 512)) for name in ("text_encoder", "text_encoder_2"))
    return (clips, int(configs["text_encoder_3"].get("d_model", 512))) if "text_encoder_3" in configs else (clips,)


def owns_vae(config: Mapping[str, Any]) -> bool:
    """Whether a VAE is Stable Diffusion 3's: it has FLUX.1's shape, so that only its scale tells."""
    return is_kl(config) and config.get("latent_channels") == 16 and config.get("scaling_factor") == SD3_SCALE


def _lora_places(component: str, paths: Sequence[str]) -> dict[str, Place]:
    if component == "transformer":
        return stable_diffusion_3_places(paths)
    return own_places(paths) if component == "text_encoder_3" else clip_places(paths)


def _controls(request: SampleRequest, nets: Sequence[Any]) -> dict[str, Any]:
    """The arguments that hold control pictures and scales; the pipelines encode pictures in -1..1 as they are."""
    controls, masked = request.control, request.mask is not None
    if any(control.guess for control in controls):
        raise ValueError("Stable Diffusion 3 has no guess mode; leave guess out")
    for net, control in zip(nets, controls, strict=True):
        _check_net(net, control.controlnet.source if control.controlnet else "this control", masked)
    values: dict[str, Any] = {
        "control_image": [arguments.signed_picture(control, request) for control in controls],
        "controlnet_conditioning_scale": [float(control.scale) for control in controls],
        "control_guidance_start": [control.start for control in controls],
        "control_guidance_end": [control.end for control in controls],
    }
    return {name: value[0] if len(controls) == 1 else value for name, value in values.items()}


def _check_net(net: Any, source: str, masked: bool) -> None:
    """Refuse a ControlNet for inpainting without a mask, and another one with it: their channels differ."""
    if bool(net.config.extra_conditioning_channels) == masked:
        return
    if masked:
        raise ValueError(f"{source} is no ControlNet for inpainting, which alone goes with a mask; use sample")
    raise ValueError(f"{source} is a ControlNet for inpainting: use inpaint, with the picture and its mask")


def _tokenizer(component: str, held: Contents) -> Any:
    return vocabulary.clip_tokenizer("!") if component == "tokenizer_2" else None


CLIP = ("transformers", "CLIPTextModelWithProjection")

FAMILY = Flow(
    Record(
        name="stable_diffusion_3",
        classes=COMMON
        | {
            "text_encoder": CLIP,
            "tokenizer_2": ("transformers", "CLIPTokenizer"),
            "text_encoder_2": CLIP,
            "tokenizer_3": ("transformers", "T5TokenizerFast"),
            "text_encoder_3": ("transformers", "T5EncoderModel"),
            "transformer": ("diffusers.models.transformers.transformer_sd3", "SD3Transformer2DModel"),
            "controlnet": ("diffusers.models.controlnets.controlnet_sd3", "SD3ControlNetModel"),
        },
        parts={
            "text_encoder": (
                *("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
                *("tokenizer_3", "text_encoder_3"),
            ),
            "denoiser": ("transformer", "scheduler"),
            "vae": ("vae",),
        },
        optional=("tokenizer_3", "text_encoder_3"),
        variants={
            "": Variant(tasks=TASKS, settings=_settings),
            "inpaint": Variant(tasks={"inpaint": INPAINT}, settings=_settings),
        },
        variant=_variant,
        text=Text(
            returns=("embeds", None, "pooled", None),
            arguments={"embeds": "prompt_embeds", "pooled": "pooled_prompt_embeds"},
            always={"do_classifier_free_guidance": False},
            second=("prompt_2", "prompt_3"),
            length=256,
            skips=("text_encoder", "text_encoder_2"),
            unseen=_unseen,
        ),
        schedulers=(
            "FlowMatchEulerDiscreteScheduler",
            "FlowMatchHeunDiscreteScheduler",
            "UniPCMultistepScheduler",
            "DPMSolverMultistepScheduler",
        ),
        scheduler=lambda held: {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        owns_vae=owns_vae,
        vae_settings=lambda config: kl_settings({"latent_channels": 16, **config}),
        prompt_widths=_prompt_widths,
        lora_names=LoraNames(
            {"denoiser": "transformer"}
            | dict.fromkeys(("te1", "clip_l", "text_encoder"), "text_encoder")
            | dict.fromkeys(("te2", "clip_g", "text_encoder_2"), "text_encoder_2")
            | dict.fromkeys(("te3", "t5xxl", "text_encoder_3"), "text_encoder_3"),
            _lora_places,
        ),
        owns_lora=changes_stable_diffusion_3,
        vae_scale=VAE_SCALE,
        axes={
            "hidden_states": ROWS,
            "timestep": ROWS,
            "encoder_hidden_states": ROWS,
            "pooled_projections": ROWS,
            "block_controlnet_hidden_states": LIST,
            "skip_layers": SHARED,
        },
        controls=_controls,
        lends=True,
        check=lambda request, task: arguments.check_painted(request),
        tokenizer=_tokenizer,
    )
)
