"""Prompts to conditioning."""

from __future__ import annotations

from typing import Annotated

from graphengine import INERT, Context, Doc, Multiline, Range, Uses, node
from graphengine_nodes.families import family
from graphengine_nodes.types import Conditioning, Model


@node(version=1, on="device")
def encode_prompt(
    model: Annotated[Model, Uses("text_encoder")],
    prompt: Annotated[str | None, Multiline(), Doc("None is the absent prompt, which is not the empty one.")],
    clip_skip: Annotated[
        int, Range(0, 64, 1), Doc("Layers of the text encoder left out at its end; diffusers skips none in negatives.")
    ] = 0,
    ctx: Context = INERT,
) -> Conditioning:
    """Turn a prompt into conditioning.

    What does not fit the text encoder's length (77 tokens in Stable Diffusion) is cut off, with a warning.

    Raises:
        ValueError: `clip_skip` leaves no layer.
    """
    return family(model.family).encode_prompt(model, prompt, clip_skip, ctx.device)
