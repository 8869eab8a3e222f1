"""Latents: pictures to latents and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from graphengine import INERT, Context, Doc, Range, Uses, node
from graphengine_nodes.families.arguments import check_channels, side_problems, sides_of
from graphengine_nodes.families.lookup import family
from graphengine_nodes.values.references import model_of
from graphengine_nodes.values.types import VAE, Image, Latent, Model, Posterior

Side = Annotated[int | None, Range(8, 8192, 8), Doc("In pixels; by default the model's own.")]

STEP = 8
"""Pixels a side of one place in an empty latent that is for any model; what every model's sides are multiples of."""


def check_sides(inputs: dict[str, Any], multiple: int = STEP) -> Iterator[str]:
    """Yield a sentence for each side that is no multiple of `multiple`, by default of what every model needs."""
    for name in ("width", "height"):
        value = inputs.get(name)
        if isinstance(value, int):
            yield from side_problems(name, value, multiple)


@node(version=1)
def empty_latent(
    model: Annotated[
        Model | None, Uses("denoiser"), Doc("Default: a size for any model, as the sampler's needs.")
    ] = None,
    width: Side = None,
    height: Side = None,
    count: Annotated[int, Range(1, 64, 1), Doc("Pictures to make.")] = 1,
) -> Latent:
    """Make an empty latent of a size: `sample` starts from noise alone, as without a latent.

    In ComfyUI: `EmptyLatentImage`, `EmptySD3LatentImage`, `EmptyFlux2LatentImage`.

    Raises:
        ValueError: A side is no multiple of what the model needs; without a model, a side is missing.
    """
    import torch

    if model is None:
        if width is None or height is None:
            raise ValueError("an empty latent without a model needs width and height")
        for problem in check_sides({"width": width, "height": height}):
            raise ValueError(problem)
        return Latent(torch.zeros(count, 0, height // STEP, width // STEP), "", empty=True)
    factor, channels = model.setting("factor"), model.setting("latent_channels")
    width, height = width or model.setting("width"), height or model.setting("height")
    for problem in check_sides({"width": width, "height": height}, sides_of(model)):
        raise ValueError(problem)
    return Latent(torch.zeros(count, channels, height // factor, width // factor), model.family, empty=True)


empty_latent.check(check_sides)


@node(version=1, on="device")
def encode_image(model: Annotated[Model | VAE, Uses("vae")], image: Image, ctx: Context = INERT) -> Posterior:
    """Encode pictures, one by one, for `sample(latent=...)`.

    No random numbers are drawn here: the sampler draws from the posterior with the picture's seed, so that a new seed
    does not encode the picture again.

    In ComfyUI: `VAEEncode`.

    Raises:
        ValueError: The sides are no multiples of 8.
    """
    from graphengine_nodes.store.store import store

    model = model_of(model)
    return family(model.family).encode_image(store, model, image, model.computes_on(ctx.device))


@node(version=1, on="device")
def decode_latent(model: Annotated[Model | VAE, Uses("vae")], latent: Latent, ctx: Context = INERT) -> Image:
    """Decode latents to pictures; of unfinished ones, that are sampled to an `end`, as they are: with noise.

    In ComfyUI: `VAEDecode`.

    Raises:
        ValueError: The latent is empty, of another model family, or of other channels than the model's.
    """
    from graphengine_nodes.store.store import store

    if isinstance(model, VAE) and latent.family in model.families:
        model = model.of(latent.family)
    model = model_of(model)
    if latent.family and latent.family not in (model.family, family(model.family).latents):
        raise ValueError(f"a latent of {latent.family} cannot be decoded by {model.source}, a {model.family} model")
    check_channels(latent, model)
    return family(model.family).decode(store, model, latent, model.computes_on(ctx.device))
