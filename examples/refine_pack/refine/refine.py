"""A node that builds a graph: it samples a picture, makes its latent larger and samples on, as often as it is told."""

from __future__ import annotations

from typing import Annotated

from graphengine_nodes import Conditioning, Latent, Model, sample, upscale_latent

from graphengine import Doc, Range, node


@node(version=1, expand=True)
def refined(
    model: Model,
    positive: Conditioning,
    latent: Latent,
    rounds: Annotated[int, Range(0, 4), Doc("How often it is made larger.")] = 1,
    factor: Annotated[float, Range(1, 4), Doc("How much larger each time.")] = 1.5,
    strength: Annotated[float, Range(0, 1), Doc("How much of it is replaced each time.")] = 0.5,
    steps: Annotated[int, Range(1, 1000), Doc("Denoising steps of each round.")] = 8,
) -> Latent:
    """A latent that is made larger and sampled on, round by round."""
    if rounds == 0:
        return latent
    larger = sample(model, positive, latent=upscale_latent(latent, factor), strength=strength, steps=steps)
    return refined(model, positive, larger, rounds - 1, factor, strength, steps)
