"""FLUX.2's transformers (dev, klein): from the original code's names to diffusers', and the configuration by the
shapes."""

from __future__ import annotations

from typing import Any

from graphengine_nodes.layouts.kinds import DENOISER, Kind, Spelling, same
from graphengine_nodes.layouts.names import ADDED_QKV, QKV, Blocks, Names
from graphengine_nodes.layouts.places import Shapes, count

NAMES = Names(
    {
        "img_in": "x_embedder",
        "txt_in": "context_embedder",
        "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
        "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
        "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
        "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
        "single_stream_modulation.lin": "single_stream_modulation.linear",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    },
    (
        Blocks(
            "double_blocks",
            "transformer_blocks",
            {
                "img_attn.qkv": QKV,
                "txt_attn.qkv": ADDED_QKV,
                "img_attn.proj": "attn.to_out.0",
                "txt_attn.proj": "attn.to_add_out",
                "img_attn.norm.query_norm": "attn.norm_q",
                "img_attn.norm.key_norm": "attn.norm_k",
                "txt_attn.norm.query_norm": "attn.norm_added_q",
                "txt_attn.norm.key_norm": "attn.norm_added_k",
                "img_mlp.0": "ff.linear_in",
                "img_mlp.2": "ff.linear_out",
                "txt_mlp.0": "ff_context.linear_in",
                "txt_mlp.2": "ff_context.linear_out",
            },
        ),
        Blocks(
            "single_blocks",
            "single_transformer_blocks",
            {
                "linear1": "attn.to_qkv_mlp_proj",
                "linear2": "attn.to_out",
                "norm.query_norm": "attn.norm_q",
                "norm.key_norm": "attn.norm_k",
            },
        ),
    ),
    swapped=("final_layer.adaLN_modulation.1",),
    parts="view",
)
"""The original code's names."""

DIFFUSERS = (
    r"(x_embedder|context_embedder|proj_out|norm_out\.linear"
    r"|time_guidance_embed\.(timestep|guidance)_embedder\.linear_[12]"
    r"|(double_stream_modulation_(img|txt)|single_stream_modulation)\.linear"
    r"|transformer_blocks\.\d+\.(ff|ff_context)\.linear_(in|out)|transformer_blocks\.\d+\.attn\."
    r"(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out|norm_[qk]|norm_added_[qk])"
    r"|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out|norm_[qk]))\.(weight|bias)"
)
"""diffusers' names."""


def config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a transformer, by diffusers' names; the axes of its positions are those of published ones,
    whose heads have 128 numbers."""
    width, channels = shapes["x_embedder.weight"]
    head = shapes["transformer_blocks.0.attn.norm_q.weight"][0]
    out = shapes["proj_out.weight"][0]
    found: dict[str, Any] = {
        "_class_name": "Flux2Transformer2DModel",
        "in_channels": channels,
        "num_layers": count(shapes, "transformer_blocks"),
        "num_single_layers": count(shapes, "single_transformer_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "timestep_guidance_channels": shapes["time_guidance_embed.timestep_embedder.linear_1.weight"][1],
        "mlp_ratio": shapes["transformer_blocks.0.ff.linear_out.weight"][1] / width,
        "guidance_embeds": "time_guidance_embed.guidance_embedder.linear_1.weight" in shapes,
    }
    found |= {"out_channels": out} if out != channels else {}
    return found | ({"axes_dims_rope": [32, 32, 32, 32]} if head == 128 else {})


KINDS = (
    Kind(
        "FLUX.2 transformer",
        "transformer",
        (
            Spelling(
                "original",
                ("double_stream_modulation_img.lin.weight", "double_blocks.0.img_attn.qkv.weight"),
                DENOISER,
                NAMES.places,
            ),
            Spelling(
                "diffusers",
                ("double_stream_modulation_img.linear.weight", "transformer_blocks.0.attn.add_q_proj.weight"),
                DENOISER,
                same(DIFFUSERS),
            ),
        ),
        config,
        "flux2",
        unseen=("axes_dims_rope",),
        widths=("in_channels", "num_attention_heads", "num_layers", "num_single_layers", "joint_attention_dim"),
    ),
)
