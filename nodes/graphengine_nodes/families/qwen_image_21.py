"""Qwen-Image 2.1 on diffusers' own pipeline: pictures with transparency, made from prompts and from reference pictures,
which its text encoder sees.

Latents between nodes are [n, 64, 1, h, w] at 1/16 of the size, and sides are multiples of 32.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from graphengine_nodes.families.family import SampleRequest
from graphengine_nodes.families.flow import Flow
from graphengine_nodes.families.lora_families import changes_qwen_image_21
from graphengine_nodes.families.pipelines import class_named
from graphengine_nodes.families.qwen_image import AREA, SCHEDULER, lora_places, text_width
from graphengine_nodes.families.record import (
    LIST,
    ROWS,
    SCALAR,
    SHARED,
    STATE,
    Config,
    Guidance,
    Latents,
    Record,
    Task,
    Text,
    Variant,
    exact_by_channels,
    packed,
    prompt_width,
    unpacked,
)
from graphengine_nodes.weights.lora_names import LoraNames

if TYPE_CHECKING:
    import torch

PIPELINE = "qwenimage21.pipeline_qwenimage21.QwenImage21Pipeline"
PADS = ("image_pad_mask", "negative_image_pad_mask")
"""What says at which of the prompts' embeddings pictures stand."""


def _near(width: int, height: int) -> tuple[int, int]:
    """The size to which the pipeline brings a picture."""
    module = "diffusers.pipelines.qwenimage21.pipeline_qwenimage21"
    found = class_named(module, "calculate_dimensions")(AREA, width / height)
    return int(found[0]), int(found[1])


def _shown(pipeline: Any, pictures: Sequence[Any]) -> list[Any]:
    with_alpha = [picture if picture.mode == "RGBA" else picture.convert("RGBA") for picture in pictures]
    sizes = [_near(*picture.size) for picture in pictures]
    return [pipeline.image_processor.resize(one, *size[::-1]) for one, size in zip(with_alpha, sizes, strict=True)]


@functools.cache
def _pipeline(cls: Any) -> Any:
    """The pipeline that takes `PADS` beside embeddings, where diffusers' own can only encode prompts with pictures
    itself, and that is made without its processor, which encoding alone needs."""

    @functools.wraps(cls.__init__)
    def init(self: Any, *args: Any, **components: Any) -> None:
        if components.get("processor") is None:
            components["processor"] = _NoProcessor()
        cls.__init__(self, *args, **components)

    @functools.wraps(cls.__call__)
    def call(self: Any, *args: Any, **values: Any) -> Any:
        # The pipeline encodes the prompt, and then the negative one.
        pads = [values.pop(name, None) for name in PADS]
        self.graphengine_pads = iter(pads)
        return cls.__call__(self, *args, **values)

    @functools.wraps(cls.encode_prompt)
    def encode_prompt(self: Any, *args: Any, **values: Any) -> Any:
        if values.get("prompt_embeds") is not None:
            values["image_pad_mask"] = next(self.graphengine_pads)
        return cls.encode_prompt(self, *args, **values)

    known = inspect.signature(cls.__call__)
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in PADS]
    vars(call)["__signature__"] = known.replace(parameters=[*known.parameters.values(), *more])
    methods = {"__init__": init, "__call__": call, "encode_prompt": encode_prompt, "__module__": __name__}
    return type(cls.__name__, (cls,), methods)


class _NoProcessor:
    """Stands for the processor where nothing is encoded: the pipeline's constructor asks it for two numbers."""

    tokenizer = SimpleNamespace(encode=lambda text: [0])

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        return [[]]


def _to_vae(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """From the denoiser's scale to the VAE's, in the pipeline's order of rounding."""
    import torch

    found = (torch.tensor(values) for values in (vae.config.latents_mean, vae.config.latents_std))
    mean, std = (values.view(1, -1, 1, 1, 1).to(latents.device, latents.dtype) for values in found)
    return latents * std + mean


def _settings(index: Config, config: Config) -> dict[str, Any]:
    """Those of the pipeline; a model may have a schedule of its own, which decides the steps."""
    steps = len(index.get("sample_sigmas") or ()) or 40
    return {"steps": steps, "guidance_scale": 1.0, "width": 64, "height": 64}


def _check(request: SampleRequest, task: Task) -> None:
    model, given = request.model, request.options.arguments
    if request.references and given.get("output_resolution") is not None:
        raise ValueError("the text encoder has seen the pictures at 1024 pixels a side; leave output_resolution out")
    own = model.setting("sample_sigmas", None)
    if own and given.get("sigmas") is None and request.options.steps != len(own):
        raise ValueError(f"{model.source} has a schedule of its own with {len(own)} steps; leave steps out")


FAMILY = Flow(
    Record(
        name="qwen_image_21",
        classes={
            "processor": ("transformers", "Qwen3VLProcessor"),
            "text_encoder": ("transformers", "Qwen3VLForConditionalGeneration"),
            "transformer": ("diffusers.models.transformers.transformer_qwenimage21", "QwenImage21Transformer2DModel"),
            "vae": ("diffusers.models.autoencoders.autoencoder_kl_qwenimage21", "AutoencoderKLQwenImage21"),
        },
        parts={
            "text_encoder": ("processor", "text_encoder"),
            "denoiser": ("transformer", "scheduler"),
            "vae": ("vae",),
        },
        variants={
            "": Variant(
                tasks={
                    "": Task(pipeline=PIPELINE),
                    "references": Task(pipeline=PIPELINE, encodes=True, several=8, alpha=True, size=_near),
                },
                settings=_settings,
                options=("sample_sigmas",),
            )
        },
        adapted=_pipeline,
        text=Text(
            returns=("embeds", "mask", "image_pad_mask"),
            arguments={"embeds": "prompt_embeds", "mask": "prompt_embeds_mask", "image_pad_mask": "image_pad_mask"},
            negative="none",
            pictures="image",
            shown=_shown,
        ),
        guidance=Guidance(argument="true_cfg_scale"),
        latents=Latents(
            pack=packed,
            unpack_step=unpacked,
            unpack=unpacked,
            to_vae=_to_vae,
            frames=True,
            keeps_state=True,
            exact=exact_by_channels,
        ),
        schedulers=("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"),
        scheduler=lambda held: {**SCHEDULER},
        owns_vae=lambda config: config.get("_class_name") == "AutoencoderKLQwenImage21",
        vae_settings=lambda config: {"factor": 16, "latent_channels": int(config.get("z_dim", 64))},
        prompt_widths=prompt_width(("context_in_dim", 4096), text_width),
        lora_names=LoraNames({"denoiser": "transformer"}, lora_places),
        owns_lora=changes_qwen_image_21,
        axes={
            "hidden_states": ROWS,
            "timestep": ROWS,
            "encoder_hidden_states": ROWS,
            "encoder_hidden_states_mask": ROWS,
            "img_shapes": LIST,
            "img_mask": ROWS,
            "attention_kwargs": SHARED,
            "kv_cache": STATE,
            "kv_cache_mode": SCALAR,
            "return_dict": SCALAR,
        },
        check=_check,
    )
)
