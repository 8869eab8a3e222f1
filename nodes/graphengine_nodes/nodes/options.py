"""Memory and speed: how a model is held and computed: precision, quantization, offload, tiling, layout, compilation.

Each node returns a reference to the same weights with an option; the weight store applies it when a node computes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from graphengine import Choices, Doc, ModelError, node
from graphengine_nodes.families.lookup import family
from graphengine_nodes.nodes.models import PRECISIONS
from graphengine_nodes.values.types import Model

QUANTIZATIONS = ("float8", "int8")
OFFLOADS = ("model", "group", "sequential")


@node(version=1)
def change_precision(
    model: Model,
    precision: Annotated[str | None, Choices(*PRECISIONS), Doc("None is float32 on a CPU, float16 on a GPU.")],
) -> Model:
    """Compute a model with another type of numbers; its weights are held once for each precision in use.

    In ComfyUI: `ModelComputeDtype`.
    """
    return replace(model, precision=precision)


@node(version=1)
def quantize_model(
    model: Model,
    kind: Annotated[
        str,
        Choices(*QUANTIZATIONS),
        Doc("float8: stored in 8 bits, computed as before. int8: needs the library torchao."),
    ] = "float8",
) -> Model:
    """Store the weights of a model's denoiser in 8 bits: half the memory of float16, a quarter of float32.

    float8 computes what diffusers' layerwise casting does (e4m3); norms, and other layers that the model's class names,
    stay as they are. Files that are in fp8 or int8 with scales already keep their own numbers and scales instead:
    pictures are those of the file. int8 is torchao's weight-only quantization of linear layers. All sets of LoRAs share
    such weights.

    Raises:
        ModelError: When something computes: int8 without torchao.
    """
    return model.with_options(quantization=kind)


@node(version=1)
def offload_model(
    model: Model,
    kind: Annotated[
        str,
        Choices(*OFFLOADS),
        Doc("On the GPU at a time: the component that computes (model), a few layers (group) or one (sequential)."),
    ] = "model",
    device: Annotated[str | None, Doc("The GPU that computes, such as cuda:1; default: the run's.")] = None,
) -> Model:
    """Keep a model's weights in main memory and bring them to the GPU only while they are needed.

    `model` needs room for the largest component, `group` for a few layers while the next are on their way,
    `sequential` for a single layer, and is by far the slowest. Pictures and keys stay the same. In a run that
    computes on no GPU the node has no effect, and a warning says so.
    """
    return model.with_options(offload=kind, offload_device=device)


@node(version=1)
def tile_vae(
    model: Model,
    tiling: Annotated[bool, Doc("Pictures larger than the VAE was trained on pass it in overlapping tiles.")] = True,
    slicing: Annotated[bool, Doc("The pictures of a batch are decoded one at a time.")] = False,
) -> Model:
    """Make a model's VAE need less memory. Tiles are blended into each other, which changes pictures.

    In ComfyUI: `VAEDecodeTiled`, `VAEEncodeTiled`.
    """
    return model.with_options(tiling=tiling or None, slicing=slicing or None)


@node(version=1)
def optimize_model(
    model: Model,
    channels_last: Annotated[
        bool, Doc("Keep the channels of convolutions innermost in memory; only for UNets.")
    ] = False,
    compile: Annotated[
        bool, Doc("Compile the repeated blocks with torch.compile; the first step takes a minute.")
    ] = False,
) -> Model:
    """Make a model's denoiser faster, where the machine allows it; results differ in the last bits.

    In ComfyUI: `TorchCompileModel`.

    Raises:
        ModelError: The model's denoiser has no convolutions to lay out.
    """
    if channels_last and "unet" not in family(model.family).parts["denoiser"]:
        raise ModelError(
            f"channels_last would change nothing: the denoiser of {model.source} is a transformer, which has no "
            "convolutions; leave it out"
        )
    return model.with_options(channels_last=channels_last or None, compile=compile or None)
