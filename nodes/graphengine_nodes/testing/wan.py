"""Small Wan models made on the spot, for tests of nodes: 2.1 and 2.2, from text and from a first picture.

Peculiar to the family: a video has 4k+1 frames, of which the VAE makes k+1, and the VAE keeps frames in itself while it
works. 2.1's models of pictures see the first picture through CLIP too; 2.2's large models have two transformers, for
high and for low noise (with 2 steps each takes one); 2.2's 5B is for both text and pictures, at 1/16 of the size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphengine_nodes.testing import small, tokenizers
from graphengine_nodes.testing.sd3 import small_t5

__all__ = ["VARIANTS", "wan_model"]

WIDTH = 32
"""Of the text encoder's embeddings and of the transformer."""

VARIANTS = ("2.1", "2.1-i2v", "2.1-flf2v", "2.2-14b", "2.2-14b-i2v", "2.2-5b")
"""The kinds of models: `-i2v` make a video from its first picture, `-flf2v` from its first and last; 2.2's `-i2v` take
both too."""


def wan_model(folder: Path, seed: int = 0, variant: str = "2.1") -> Path:
    """A model whose latents have the real shape: 16 channels at 1/8 of the size, or (5B) 48 at 1/16.

    Args:
        variant: One of `VARIANTS`.
    """
    from diffusers.pipelines.wan.pipeline_wan import WanPipeline
    from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    pictures, small_one, pair = variant.endswith("2v"), variant == "2.2-5b", variant.startswith("2.2-14b")
    pieces = tokenizers.letters(512)
    shape: dict[str, Any] = {"in_channels": 48 if small_one else 36 if pictures else 16}
    shape["out_channels"] = 48 if small_one else 16
    seen = variant in ("2.1-i2v", "2.1-flf2v")
    if seen:
        shape |= {"image_dim": WIDTH, "added_kv_proj_dim": WIDTH}
        shape["pos_embed_seq_len"] = 2 * 17 if variant == "2.1-flf2v" else None  # of two pictures' tokens
    components: dict[str, Any] = {
        "tokenizer": pieces,
        "text_encoder": small_t5(pieces, WIDTH, 8 * seed, umt5=True),
        "vae": _vae_5b(8 * seed + 1) if small_one else _vae(8 * seed + 1),
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        "transformer": _transformer(8 * seed + 2, shape),
        "transformer_2": _transformer(8 * seed + 3, shape) if pair else None,
        "boundary_ratio": (0.9 if pictures else 0.875) if pair else None,
        "expand_timesteps": small_one,
    }
    if seen:
        components |= _vision(8 * seed + 4)
    made: Any = (WanImageToVideoPipeline if pictures else WanPipeline)(**components)
    return small.saved(made, folder)


def _transformer(seed: int, shape: dict[str, Any]) -> Any:
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=WIDTH // 2,
        text_dim=WIDTH,
        freq_dim=WIDTH,
        ffn_dim=2 * WIDTH,
        num_layers=2,
        **shape,
    )
    return small.sharpened(small.randomised(transformer, seed, 0.3))


def _vae(seed: int) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    vae = AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return small.faded(small.randomised(vae, seed, 0.3), 0.5)


def _vae_5b(seed: int) -> Any:
    """The VAE of 2.2's 5B: pictures are cut into patches of 2 x 2 pixels first."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=48,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        latents_mean=[0.05 * (channel % 7 - 3) for channel in range(48)],
        latents_std=[0.5 + 0.02 * channel for channel in range(48)],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
    return small.faded(small.randomised(vae, seed, 0.3), 0.35)


def _vision(seed: int) -> dict[str, Any]:
    """CLIP's image encoder, whose last but one layer is read."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    sizes: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return {
        "image_encoder": small.randomised(CLIPVisionModel(config), seed, 0.3),
        "image_processor": CLIPImageProcessor(**sizes),
    }
