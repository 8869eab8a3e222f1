"""The standard node pack: models, LoRA, control, prompts, latents, sampling, images and masks on diffusers.

Importing it imports neither torch nor diffusers; a node does when it runs.
"""

from __future__ import annotations

from typing import Any

from graphengine import Pack
from graphengine_nodes import codecs as _codecs  # noqa: F401 - registers the types
from graphengine_nodes.control import apply_controlnet, canny
from graphengine_nodes.images import crop_image, load_image, pad_image, resize_image, save_image
from graphengine_nodes.latents import decode_latent, empty_latent, encode_image
from graphengine_nodes.masks import composite, invert_mask, load_mask, mask_from_image, mask_rectangle
from graphengine_nodes.models import apply_lora, load_controlnet, load_lora, load_model, replace_vae
from graphengine_nodes.prompts import encode_prompt
from graphengine_nodes.sampling import inpaint, sample
from graphengine_nodes.types import (
    Conditioning,
    Control,
    ControlNet,
    Hypernetwork,
    Image,
    Latent,
    LoRA,
    Mask,
    Model,
    Posterior,
    RandomState,
)


def _environment() -> dict[str, Any]:
    """What decides the bits of a result in this process; `device` is where nodes compute by default."""
    from importlib.metadata import version

    import torch

    found: dict[str, Any] = {"device": "cpu", "processor": torch.backends.cpu.get_cpu_capability()}
    if torch.cuda.is_available():
        found = {"device": "cuda", "processor": torch.cuda.get_device_name()}
    found["threads"] = torch.get_num_threads()
    return found | {name: version(name) for name in ("torch", "diffusers", "transformers")}


def _parameters(step: Any, value: Any) -> str | None:
    """The text that other tools read in a picture."""
    from graphengine_nodes.settings import settings

    return settings(step, value)


def _devices() -> list[str]:
    """Every GPU, else the processor."""
    import torch

    return [f"cuda:{n}" for n in range(torch.cuda.device_count())] or ["cpu"]


def _held(device: str) -> frozenset[str]:
    """The digests of the components in this process's memory."""
    import sys

    weights = sys.modules.get("graphengine_nodes.weights")  # without it nothing was loaded
    return frozenset() if weights is None else weights.store.digests(device)


__pack__ = Pack(
    "std",
    distribution="graphengine",
    libraries=("torch", "diffusers", "transformers", "peft", "numpy", "pillow", "opencv-python-headless"),
    environment=_environment,
    preload=(
        "torch",
        "transformers.models.clip.modeling_clip",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    ),
    parameters=_parameters,
    held=_held,
    devices=_devices,
)

__all__ = [
    "Conditioning",
    "Control",
    "ControlNet",
    "Hypernetwork",
    "Image",
    "Latent",
    "LoRA",
    "Mask",
    "Model",
    "Posterior",
    "RandomState",
    "apply_controlnet",
    "apply_lora",
    "canny",
    "composite",
    "crop_image",
    "decode_latent",
    "empty_latent",
    "encode_image",
    "encode_prompt",
    "inpaint",
    "invert_mask",
    "load_controlnet",
    "load_image",
    "load_lora",
    "load_mask",
    "load_model",
    "mask_from_image",
    "mask_rectangle",
    "pad_image",
    "replace_vae",
    "resize_image",
    "sample",
    "save_image",
]
