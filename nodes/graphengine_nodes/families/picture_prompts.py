"""Picture prompts (IP-Adapter): the layers that an adapter must have for a model, and the arguments of a pipeline that
hold what it is shown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphengine import ModelError
from graphengine_nodes.families.family import SampleRequest
from graphengine_nodes.values.types import ImagePrompt, Model


def attended(shapes: Mapping[str, Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """The shapes of a denoiser's layers for keys of prompts, in the order in which it has its attentions to these.

    FLUX has one for each of its double blocks; they read words of the width of T5's.
    """
    if "context_embedder.weight" in shapes:
        rows, columns = (int(side) for side in shapes["context_embedder.weight"])
        blocks = {name.split(".")[1] for name in shapes if name.startswith("transformer_blocks.")}
        return ((rows, columns),) * len(blocks)
    keys = {n: (int(s[0]), int(s[1])) for n, s in shapes.items() if n.endswith(".attn2.to_k.weight")}
    sides = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}

    def place(name: str) -> tuple[int, ...]:
        return (sides[name.split(".")[0]], *map(int, re.findall(r"\.(\d+)\.", name.replace(".", ".."))))

    return tuple(keys[name] for name in sorted(keys, key=place))


def image_prompt_problems(model: Model, prompts: Any) -> Iterator[str]:
    """Yield what is wrong with picture prompts for a model, as far as it is known whether there are any.

    Args:
        prompts: What is given; nothing, None or an empty list is none.
    """
    names = " and ".join(adapter.source for adapter, _ in model.ip_adapters)
    if prompts and not names:
        source = f" {prompts[0].source}" if isinstance(prompts, list) and hasattr(prompts[0], "source") else " one"
        yield (
            f"image_prompt is for a model with an IP-Adapter, and {model.source} has none: apply_ip_adapter gives it"
            f"{source}"
        )
    if names and not prompts:
        yield (
            f"{model.source} has the IP-Adapter {names}, which needs a picture: link encode_image_prompt to "
            "image_prompt, or take the model before apply_ip_adapter"
        )


def check_image_prompts(model: Model, prompts: Sequence[ImagePrompt]) -> None:
    """Refuse picture prompts that are not those of a model's IP-Adapters.

    Raises:
        ValueError: There are more or fewer than adapters, or one is for another adapter.
    """
    for problem in image_prompt_problems(model, prompts):
        raise ValueError(problem)
    adapters = [adapter for adapter, _ in model.ip_adapters]
    if len(adapters) != len(prompts):
        raise ValueError(
            f"{model.source} has {len(adapters)} IP-Adapters, and image_prompt holds {len(prompts)}: give one for "
            "each, in their order; several pictures for one adapter are a list for encode_image_prompt"
        )
    for adapter, prompt in zip(adapters, prompts, strict=True):
        if adapter.digest() != prompt.adapter:
            raise ValueError(
                f"an image_prompt for {prompt.source} stands in the place of one for {adapter.source}: give them in "
                "the order in which the IP-Adapters were applied, each encoded with its adapter"
            )


def check_pipeline(request: SampleRequest, cls: Any) -> None:
    """Refuse picture prompts for a pipeline that takes none.

    Raises:
        ValueError: It has no such argument.
    """
    if request.image_prompts and "ip_adapter_image_embeds" not in inspect.signature(cls.__call__).parameters:
        raise ValueError(
            f"{cls.__name__} of diffusers takes no pictures for an IP-Adapter: take the model before apply_ip_adapter, "
            "or leave out what else the sampler follows"
        )


def flux_arguments(request: SampleRequest, transformer: Any, device: str) -> dict[str, Any]:
    """The arguments of a FLUX pipeline that hold picture prompts.

    Raises:
        ValueError: One has a mask.
    """
    if not request.image_prompts:
        return {}
    if any(one.mask is not None for one in request.image_prompts):
        raise ValueError("IP-Adapters for FLUX act everywhere: leave the mask of encode_image_prompt out")
    return {
        f"{side}ip_adapter_image_embeds": [tensor.to(device, transformer.dtype) for tensor in tensors]
        for side, tensors in (
            ("", [one.embeds for one in request.image_prompts]),
            ("negative_", [one.negative for one in request.image_prompts]),
        )
    }


def unet_arguments(request: SampleRequest, unet: Any, device: str) -> dict[str, Any]:
    """The arguments of a UNet's pipeline that hold picture prompts.

    Raises:
        ValueError: A mask is not of the picture's size; further arguments say what masks do.
    """
    import torch

    if not request.image_prompts:
        return {}
    # As the pipelines decide it: a UNet that was distilled with its guidance is asked once.
    guided = request.options.guidance_scale > 1 and unet.config.time_cond_proj_dim is None
    found: dict[str, Any] = {
        "ip_adapter_image_embeds": [
            (torch.cat([one.negative, one.embeds]) if guided else one.embeds).to(device, unet.dtype)
            for one in request.image_prompts
        ]
    }
    masks = [one.mask for one in request.image_prompts]
    if any(mask is not None for mask in masks):
        width, height = request.size
        if "cross_attention_kwargs" in request.options.arguments:
            raise ValueError("masks of image_prompt are given as cross_attention_kwargs: leave these out of arguments")
        for mask in masks:
            if mask is not None and tuple(mask.shape[2:]) != (height, width):
                raise ValueError(
                    f"the mask of image_prompt is {mask.shape[3]} x {mask.shape[2]}, the picture {width} x {height}; "
                    "bring them to one size (resize_mask)"
                )
        found["cross_attention_kwargs"] = {"ip_adapter_masks": masks}
    return found


def check_fits(model: Model, name: str, layers: Sequence[tuple[int, int]], own: Sequence[tuple[int, int]]) -> None:
    """Refuse an IP-Adapter whose layers are not those beside a model's cross attentions.

    Args:
        name: The adapter's, for messages.
        layers, own: Rows and columns of the adapter's layers for keys, and of the model's.

    Raises:
        ModelError: They differ.
    """
    if tuple(layers) == tuple(own):
        return
    if layers and own and layers[0][1] != own[0][1]:
        what = f"is for prompts {layers[0][1]} wide, and those of {model.source} are {own[0][1]}"
    elif len(layers) != len(own):
        what = f"has layers for {len(layers)} cross attentions, and {model.source} has {len(own)}"
    else:
        what = f"has layers of other sizes than the attention of {model.source}"
    raise ModelError(f"{name} {what}: it is an IP-Adapter for another model")
