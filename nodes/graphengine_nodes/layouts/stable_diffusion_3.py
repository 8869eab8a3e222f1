"""Stable Diffusion 3 and 3.5 (MMDiT, MMDiT-X): from the original code's names to diffusers', and the configuration by
the shapes."""

from __future__ import annotations

import math
from typing import Any

from graphengine_nodes.layouts.kinds import DENOISER, Kind, Spelling, same
from graphengine_nodes.layouts.names import ADDED_QKV, QKV, Blocks, Names
from graphengine_nodes.layouts.places import Place, Places, Shapes, count

HEAD = 64
"""The size of heads in all published models, which have as many heads as blocks."""

NAMES = Names(
    {
        "x_embedder.proj": "pos_embed.proj",
        "context_embedder": "context_embedder",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    },
    (
        Blocks(
            "joint_blocks",
            "transformer_blocks",
            {
                "x_block.attn.qkv": QKV,
                "x_block.attn.ln_q": "attn.norm_q",
                "x_block.attn.ln_k": "attn.norm_k",
                "x_block.attn.proj": "attn.to_out.0",
                "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
                "x_block.attn2.ln_q": "attn2.norm_q",
                "x_block.attn2.ln_k": "attn2.norm_k",
                "x_block.attn2.proj": "attn2.to_out.0",
                "x_block.adaLN_modulation.1": "norm1.linear",
                "x_block.mlp.fc1": "ff.net.0.proj",
                "x_block.mlp.fc2": "ff.net.2",
                "context_block.attn.qkv": ADDED_QKV,
                "context_block.attn.ln_q": "attn.norm_added_q",
                "context_block.attn.ln_k": "attn.norm_added_k",
                "context_block.attn.proj": "attn.to_add_out",
                "context_block.adaLN_modulation.1": "norm1_context.linear",
                "context_block.mlp.fc1": "ff_context.net.0.proj",
                "context_block.mlp.fc2": "ff_context.net.2",
            },
        ),
    ),
    swapped=("final_layer.adaLN_modulation.1",),
)
"""The original code's names. The last block's modulation of the text is swapped, too."""

DIFFUSERS = (
    r"pos_embed\.pos_embed|(pos_embed\.proj|context_embedder|proj_out|norm_out\.linear"
    r"|time_text_embed\.(timestep|text)_embedder\.linear_[12]|transformer_blocks\.\d+\."
    r"((norm1|norm1_context)\.linear|(ff|ff_context)\.net\.(0\.proj|2)|attn2\.(to_[qkv]|to_out\.0|norm_[qk])"
    r"|attn\.(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out|norm_[qk]|norm_added_[qk])))\.(weight|bias)"
)
"""diffusers' names."""

POSITIONS = "pos_embed.pos_embed"


def last_modulation(blocks: int) -> str:
    """The path of the last block's modulation of the text, which gives a shift and a scale as that of the end does."""
    return f"transformer_blocks.{blocks - 1}.norm1_context.linear"


def places(shapes: Shapes) -> Places:
    """Places by the original code's names."""
    found = NAMES.places(shapes)
    last = last_modulation(count(found, "transformer_blocks"))
    for name in (f"{last}.weight", f"{last}.bias"):
        if name in found:
            found[name] = Place(found[name].name, change="halves swapped")
    return found | ({POSITIONS: Place("pos_embed")} if "pos_embed" in shapes else {})


def config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a transformer, by diffusers' names; where nothing normalises keys, its heads are known for
    the published widths alone."""
    width, channels, patch, _ = shapes["pos_embed.proj.weight"]
    layers = count(shapes, "transformer_blocks")
    normed = shapes.get("transformer_blocks.0.attn.norm_q.weight")
    caption, joint = shapes["context_embedder.weight"]
    found: dict[str, Any] = {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0] // (patch * patch),
        "num_layers": layers,
        "joint_attention_dim": joint,
        "caption_projection_dim": caption,
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes[POSITIONS][1]),
        "dual_attention_layers": [n for n in range(layers) if f"transformer_blocks.{n}.attn2.to_q.weight" in shapes],
        "qk_norm": "rms_norm" if normed else None,
    }
    head = normed[0] if normed else HEAD if width == HEAD * layers else None
    return found | ({"attention_head_dim": head, "num_attention_heads": width // head} if head else {})


KINDS = (
    Kind(
        "Stable Diffusion 3 transformer",
        "transformer",
        (
            Spelling(
                "original", ("joint_blocks.0.context_block.attn.qkv.weight", "x_embedder.proj.weight"), DENOISER, places
            ),
            Spelling(
                "diffusers",
                ("pos_embed.proj.weight", "transformer_blocks.0.norm1_context.linear.weight", "proj_out.weight"),
                DENOISER,
                same(DIFFUSERS),
            ),
        ),
        config,
        "stable_diffusion_3",
        unseen=("attention_head_dim",),
        widths=("in_channels", "num_layers", "caption_projection_dim", "joint_attention_dim"),
        encoders={"clip_g": "text_encoder_2", "t5xxl": "text_encoder_3"},
    ),
)
