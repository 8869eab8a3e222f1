"""Small Stable Diffusion 3 models made on the spot, for tests of nodes.

Peculiar to the family: three text encoders, whose CLIP embeddings stand side by side and are filled up with zeros to
T5's width; T5 may be absent, which is as if its embeddings were zeros. The ControlNet's pipeline draws from torch's
global generator: two runs are the same only after the same `torch.manual_seed`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphengine_nodes.testing import small, tokenizers

__all__ = ["sd3_controlnet", "sd3_model", "small_t5"]

CLIPS = (16, 24)
"""Widths of the two CLIPs: they must differ, as they do in real models."""
WIDTH = 64
"""Of T5's embeddings, which are wider than both CLIPs' together."""


def sd3_model(folder: Path, seed: int = 0, t5: bool = True) -> Path:
    """A model of 3.5's kind whose latents have the real shape: 16 channels at 1/8 of the size.

    Args:
        t5: With the third text encoder; without, `text_encoder_3` and `tokenizer_3` are null in model_index.json.
    """
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    words, second = tokenizers.clip_words(), tokenizers.clip_words("!")
    pieces: Any = tokenizers.letters(512) if t5 else None
    transformer = SD3Transformer2DModel(**_shape(2), dual_attention_layers=(0,))
    pipeline = StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=small.small_vae(8 * seed, 1.5305, 0.0609),
        text_encoder=small.small_clip(words, CLIPS[0], 8 * seed + 1, CLIPS[0]),
        tokenizer=words,
        text_encoder_2=small.small_clip(second, CLIPS[1], 8 * seed + 2, CLIPS[1]),
        tokenizer_2=second,
        text_encoder_3=small_t5(pieces, WIDTH, 8 * seed + 3) if t5 else None,  # type: ignore[arg-type] # as published
        tokenizer_3=pieces,
        transformer=small.randomised(transformer, 8 * seed + 4, 0.2),
    )
    return small.saved(pipeline, folder)


def sd3_controlnet(folder: Path, seed: int = 0, inpaint: bool = False) -> Path:
    """A ControlNet for `sd3_model` that sees an encoded picture, as InstantX's.

    Args:
        inpaint: As Alimama's for inpainting: it sees a masked picture and its mask, in one channel more.
    """
    import torch
    from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel

    net = small.randomised(
        SD3ControlNetModel(**_shape(1), extra_conditioning_channels=1 if inpaint else 0), 8 * seed + 5, 0.2
    )
    with torch.no_grad():
        net.pos_embed_input.proj.weight.mul_(3)  # or the control picture moves next to nothing
    net.save_pretrained(folder)
    return folder


def small_t5(pieces: Any, width: int, seed: int, umt5: bool = False) -> Any:
    """T5's encoder for a tokenizer, or UMT5's, whose every layer has position biases of its own."""
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    shape: dict[str, Any] = {"d_model": width, "d_kv": 8, "d_ff": 2 * width, "num_layers": 2, "num_heads": 4}
    shape |= {"vocab_size": len(pieces), "feed_forward_proj": "gated-gelu"}
    encoder: Any = UMT5EncoderModel(UMT5Config(**shape)) if umt5 else T5EncoderModel(T5Config(**shape))
    return small.randomised(encoder, seed, 0.3)


def _shape(layers: int) -> dict[str, Any]:
    """What a transformer and a ControlNet have in common."""
    return {
        "sample_size": 8,
        "num_layers": layers,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "caption_projection_dim": 32,
        "pooled_projection_dim": sum(CLIPS),
        "pos_embed_max_size": 16,
        "qk_norm": "rms_norm",
    }
