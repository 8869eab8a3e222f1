"""A node that builds a graph: it enlarges a latent and continues sampling from it, in several rounds."""

from __future__ import annotations

from typing import Annotated

from graphengine_nodes import Conditioning, Latent, Model, sample, upscale_latent

from graphengine import Doc, Range, node


@node(version=1, expand=True)
def refined(
    model: Model,
    positive: Conditioning,
    latent: Latent,
    rounds: Annotated[int, Range(0, 4), Doc("Number of rounds.")] = 1,
    factor: Annotated[float, Range(1, 4), Doc("Factor of the sides in each round.")] = 1.5,
    strength: Annotated[float, Range(0, 1), Doc("How much of the latent is replaced in each round.")] = 0.5,
    steps: Annotated[int, Range(1, 1000), Doc("Denoising steps of each round.")] = 8,
) -> Latent:
    """Enlarge a latent and continue sampling from it, round by round."""
    if rounds == 0:
        return latent
    larger = sample(model, positive, latent=upscale_latent(latent, factor), strength=strength, steps=steps)
    return refined(model, positive, larger, rounds - 1, factor, strength, steps)
