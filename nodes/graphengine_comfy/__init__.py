"""ComfyUI's node names, value types and file formats, as a pack over the standard pack.

Importing it imports neither torch nor diffusers; a node does when it runs.
"""

from __future__ import annotations

from typing import Any

from graphengine_nodes import __pack__ as STANDARD

from graphengine import NodeDef, Pack
from graphengine_comfy.formats import COMFYUI
from graphengine_comfy.nodes import (
    conditioning,
    control,
    edit_prompts,
    image_sizes,
    images,
    latents,
    loaders,
    masks,
    picture_prompts,
    primitives,
    sampling,
    workflow_parts,
)
from graphengine_comfy.values import CLIP, CONTROL_NET, MODEL


def _load(reference: Any, part: str | None, device: str) -> None:
    """Load the weights of a reference into this process's memory."""
    from graphengine_nodes.store.store import store

    match reference:
        case MODEL():
            store.load(reference.denoiser, None, device)
        case CLIP():
            store.load(reference.encoder, None, device)
        case CONTROL_NET():
            store.load(reference.net, None, device)


__pack__ = Pack(
    name="comfy",
    distribution="graphengine",
    libraries=("torch", "diffusers", "transformers", "numpy", "pillow", "scipy"),
    formats=(COMFYUI,),
    preload=STANDARD.preload,
    model="CheckpointLoaderSimple",
    load=_load,
    groups=(
        "Loaders",
        "Prompts",
        "Pictures as prompts",
        "Steering",
        "Latents",
        "Sampling",
        "Pictures",
        "Masks",
        "Values",
        "Inputs and outputs of a workflow",
    ),
)

_MODULES = (
    loaders, conditioning, edit_prompts, picture_prompts, control, latents, sampling, images, image_sizes, masks,
    primitives, workflow_parts,
)  # fmt: skip
globals().update({name: one for module in _MODULES for name, one in vars(module).items() if isinstance(one, NodeDef)})
