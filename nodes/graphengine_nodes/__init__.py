"""The standard node pack: models, LoRA, control, prompts, latents, sampling, images, masks and videos on diffusers.

Importing it imports neither torch nor diffusers; a node does when it runs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from graphengine import Pack, PictureSettings
from graphengine_nodes import codecs as _codecs  # noqa: F401 - registers the types
from graphengine_nodes.nodes.annotators import Annotator, annotate, load_annotator
from graphengine_nodes.nodes.control import apply_controlnet, follow_picture
from graphengine_nodes.nodes.denoiser_pairs import pair_denoisers
from graphengine_nodes.nodes.embeddings import apply_embedding
from graphengine_nodes.nodes.fitting import Fitted, fit_image, fit_mask, unfit_image
from graphengine_nodes.nodes.grid import image_grid
from graphengine_nodes.nodes.image_prompts import (
    apply_ip_adapter,
    apply_redux,
    encode_image_prompt,
    load_ip_adapter,
    load_redux,
)
from graphengine_nodes.nodes.images import crop_image, image_size, load_image, pad_image, resize_image, save_image
from graphengine_nodes.nodes.latents import decode_latent, empty_latent, encode_image
from graphengine_nodes.nodes.loras import apply_lora, load_lora, scale_loras
from graphengine_nodes.nodes.masks import (
    blur_mask,
    combine_masks,
    composite,
    crop_mask,
    feather_mask,
    grow_mask,
    invert_mask,
    load_mask,
    mask_from_alpha,
    mask_from_difference,
    mask_from_image,
    mask_rectangle,
    overlay,
    pad_mask,
    resize_mask,
)
from graphengine_nodes.nodes.models import load_controlnet, load_model
from graphengine_nodes.nodes.options import change_precision, offload_model, optimize_model, quantize_model, tile_vae
from graphengine_nodes.nodes.parts import (
    Parts,
    join_model,
    load_denoiser,
    load_text_encoder,
    load_vae,
    replace_vae,
    split_model,
)
from graphengine_nodes.nodes.preprocessors import (
    as_is,
    canny,
    depth,
    hed,
    inpaint_control,
    lineart,
    midas,
    normal,
    pidinet,
    pose,
    scribble,
    sobel,
)
from graphengine_nodes.nodes.prompts import Prompts, encode_prompt, encode_prompts, encode_weighted
from graphengine_nodes.nodes.repaint import repaint
from graphengine_nodes.nodes.sampling import inpaint, sample
from graphengine_nodes.nodes.shifting import shift
from graphengine_nodes.nodes.templates import Texts, expand_wildcards, prompt_from_template
from graphengine_nodes.nodes.upscale import Upscaler, load_upscaler, upscale_image, upscale_latent, upscale_with_model
from graphengine_nodes.nodes.video_sampling import decode_video, encode_video, sample_video
from graphengine_nodes.nodes.videos import frames_of, load_video, save_video, video_of
from graphengine_nodes.store.handed_in import loaded_controlnet, loaded_model, replace_component
from graphengine_nodes.store.hypernetworks import apply_hypernetwork, clear_hypernetworks, load_hypernetwork
from graphengine_nodes.values.types import (
    VAE,
    Conditioning,
    Control,
    ControlNet,
    Denoiser,
    Hypernetwork,
    Image,
    ImagePrompt,
    IPAdapter,
    Latent,
    LoRA,
    Mask,
    Model,
    Posterior,
    RandomState,
    Redux,
    TextEncoder,
)
from graphengine_nodes.values.video import Video

# The warnings of diffusers and torch while they import torchao, where it is installed, do not concern users here.
for _name in ("diffusers.quantizers.torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def _environment() -> dict[str, Any]:
    """The environment that decides the bits of a result in this process; `device` is the default device of nodes."""
    import torch

    found: dict[str, Any] = {"device": "cpu", "processor": torch.backends.cpu.get_cpu_capability()}
    if torch.cuda.is_available():
        found = {"device": "cuda", "processor": torch.cuda.get_device_name()}
    found["threads"] = torch.get_num_threads()
    return found | _versions()


@functools.cache
def _versions() -> dict[str, str]:
    """The versions of the libraries that compute: looked up once, since it takes 6 ms and each node is told of them."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "diffusers", "transformers")}


def _parameters(step: Any, value: Any) -> str | None:
    """The text `parameters` of a picture, which other tools read."""
    from graphengine_nodes.nodes.settings import settings

    return settings(step, value)


def _from_parameters(text: str, find: Any) -> Any:
    """The graph of the settings in a picture of the WebUI, and what it leaves out."""
    from graphengine_nodes.nodes.webui import graph_of_parameters

    return graph_of_parameters(text, find)


def _devices() -> list[str]:
    """Every GPU, else the processor."""
    from graphengine_nodes.weights.gpus import gpu_count

    return [f"cuda:{n}" for n in range(gpu_count())] or ["cpu"]


def _held(device: str) -> frozenset[str]:
    """The digests of the components in this process's memory."""
    import sys

    weights = sys.modules.get("graphengine_nodes.store.store")  # without it nothing was loaded
    return frozenset() if weights is None else weights.store.digests(device)


def _free(device: str) -> int | None:
    """The bytes of weights for which this process has room; None while it holds none."""
    import sys

    weights = sys.modules.get("graphengine_nodes.store.store")
    return None if weights is None else weights.store.free(device)


def _load(reference: Any, part: str | None, device: str) -> None:
    """Load the weights of a reference into this process's memory."""
    from graphengine_nodes.store.store import store

    store.load(reference, part, device)


def _memory(device: str) -> tuple[int, int] | None:
    """The bytes of a GPU's memory that are free, and all of it; None before this process computes on it."""
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda") or not torch.cuda.is_initialized():
        return None
    free, total = torch.cuda.mem_get_info(device)
    return int(free), int(total)


def _spare(device: str, inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Drop all weights that no other call holds; then hold those of the call's models in main memory."""
    import sys

    weights = sys.modules.get("graphengine_nodes.store.store")
    if weights is None:
        return
    weights.store.spare(device)
    yield inputs
    if device.startswith("cuda"):
        less = {name: weights.in_main_memory(value) for name, value in inputs.items()}
        if less != dict(inputs):
            weights.store.spare(device)
            yield less


__pack__ = Pack(
    "std",
    distribution="graphengine",
    libraries=(
        "torch",
        "diffusers",
        "transformers",
        "peft",
        "numpy",
        "pillow",
        "opencv-python-headless",
        "controlnet-aux",
        "timm",
    ),
    environment=_environment,
    preload=(
        "torch",
        "transformers.models.clip.modeling_clip",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    ),
    parameters=PictureSettings(_parameters, _from_parameters),
    held=_held,
    load=_load,
    free=_free,
    memory=_memory,
    spare=_spare,
    devices=_devices,
    model="load_model",
    groups=(
        "Models",
        "Model parts",
        "LoRAs",
        "Hypernetworks",
        "Memory and speed",
        "Prompts",
        "Pictures as prompts",
        "Control",
        "Control pictures",
        "Latents",
        "Sampling",
        "Shift of flow models",
        "Upscaling",
        "Pictures",
        "Masks",
        "Videos",
        "Loaded objects",
    ),
)

__all__ = [
    "VAE",
    "Annotator",
    "Conditioning",
    "Control",
    "ControlNet",
    "Denoiser",
    "Fitted",
    "Hypernetwork",
    "IPAdapter",
    "Image",
    "ImagePrompt",
    "Latent",
    "LoRA",
    "Mask",
    "Model",
    "Parts",
    "Posterior",
    "Prompts",
    "RandomState",
    "Redux",
    "TextEncoder",
    "Texts",
    "Upscaler",
    "Video",
    "annotate",
    "apply_controlnet",
    "apply_embedding",
    "apply_hypernetwork",
    "apply_ip_adapter",
    "apply_lora",
    "apply_redux",
    "as_is",
    "blur_mask",
    "canny",
    "change_precision",
    "clear_hypernetworks",
    "combine_masks",
    "composite",
    "crop_image",
    "crop_mask",
    "decode_latent",
    "decode_video",
    "depth",
    "empty_latent",
    "encode_image",
    "encode_image_prompt",
    "encode_prompt",
    "encode_prompts",
    "encode_video",
    "encode_weighted",
    "expand_wildcards",
    "feather_mask",
    "fit_image",
    "fit_mask",
    "follow_picture",
    "frames_of",
    "grow_mask",
    "hed",
    "image_grid",
    "image_size",
    "inpaint",
    "inpaint_control",
    "invert_mask",
    "join_model",
    "lineart",
    "load_annotator",
    "load_controlnet",
    "load_denoiser",
    "load_hypernetwork",
    "load_image",
    "load_ip_adapter",
    "load_lora",
    "load_mask",
    "load_model",
    "load_redux",
    "load_text_encoder",
    "load_upscaler",
    "load_vae",
    "load_video",
    "loaded_controlnet",
    "loaded_model",
    "mask_from_alpha",
    "mask_from_difference",
    "mask_from_image",
    "mask_rectangle",
    "midas",
    "normal",
    "offload_model",
    "optimize_model",
    "overlay",
    "pad_image",
    "pad_mask",
    "pair_denoisers",
    "pidinet",
    "pose",
    "prompt_from_template",
    "quantize_model",
    "repaint",
    "replace_component",
    "replace_vae",
    "resize_image",
    "resize_mask",
    "sample",
    "sample_video",
    "save_image",
    "save_video",
    "scale_loras",
    "scribble",
    "shift",
    "sobel",
    "split_model",
    "tile_vae",
    "unfit_image",
    "upscale_image",
    "upscale_latent",
    "upscale_with_model",
    "video_of",
]
