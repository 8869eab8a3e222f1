"""Small Chroma models made on the spot, for tests of nodes.

Peculiar to the family: FLUX.1 without CLIP; modulations are made by an approximator from the step alone, and the
transformer gets a mask of the prompt's tokens that leaves the first padding token in. diffusers' pipeline for
inpainting cannot run (it asks for a `guidance_embeds` that the configuration does not have).
"""

from __future__ import annotations

from pathlib import Path

from graphengine_nodes.testing import small, tokenizers
from graphengine_nodes.testing.sd3 import small_t5

__all__ = ["chroma_model"]

WIDTH = 32
"""Of the text encoder's embeddings and of the transformer."""


def chroma_model(folder: Path, seed: int = 0) -> Path:
    """A model whose latents have the real shape: 16 channels at 1/8 of the size, packed two by two."""
    from diffusers.models.transformers.transformer_chroma import ChromaTransformer2DModel
    from diffusers.pipelines.chroma.pipeline_chroma import ChromaPipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    pieces = tokenizers.letters(512)
    transformer = ChromaTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=WIDTH // 2,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
        approximator_hidden_dim=WIDTH,
        approximator_layers=2,
    )
    pipeline = ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=small.small_vae(4 * seed),
        text_encoder=small_t5(pieces, WIDTH, 4 * seed + 1),
        tokenizer=pieces,
        transformer=small.sharpened(small.randomised(transformer, 4 * seed + 2, 0.2)),
    )
    return small.saved(pipeline, folder)
