"""FLUX.2's transformers (dev, klein): from the original code's names to diffusers', and the configuration by the
shapes."""

from __future__ import annotations

from typing import Any

from graphengine_nodes.layouts.kinds import DENOISER, Kind, Spelling, same
from graphengine_nodes.layouts.places import Places, Shapes, count, of_joined, of_layers, of_norms, of_swapped

OUTER = {
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
}
SWAPPED = {"final_layer.adaLN_modulation.1": "norm_out.linear"}

DOUBLE = {
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.linear_in",
    "img_mlp.2": "ff.linear_out",
    "txt_mlp.0": "ff_context.linear_in",
    "txt_mlp.2": "ff_context.linear_out",
}
DOUBLE_NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}
DOUBLE_JOINED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
SINGLE = {"linear1": "attn.to_qkv_mlp_proj", "linear2": "attn.to_out"}
SINGLE_NORMS = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}

DIFFUSERS = (
    r"(x_embedder|context_embedder|proj_out|norm_out\.linear"
    r"|time_guidance_embed\.(timestep|guidance)_embedder\.linear_[12]"
    r"|(double_stream_modulation_(img|txt)|single_stream_modulation)\.linear"
    r"|transformer_blocks\.\d+\.(ff|ff_context)\.linear_(in|out)|transformer_blocks\.\d+\.attn\."
    r"(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out|norm_[qk]|norm_added_[qk])"
    r"|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out|norm_[qk]))\.(weight|bias)"
)
"""diffusers' names."""


def places(shapes: Shapes) -> Places:
    """Places by the original code's names: queries, keys and values of double blocks in one piece."""
    found = of_layers(OUTER, shapes) | of_swapped(SWAPPED, shapes)
    for number in range(count(shapes, "double_blocks")):
        old, new = f"double_blocks.{number}", f"transformer_blocks.{number}"
        found |= of_layers({f"{old}.{there}": f"{new}.{here}" for there, here in DOUBLE.items()}, shapes)
        found |= of_norms({f"{old}.{there}": f"{new}.{here}" for there, here in DOUBLE_NORMS.items()}, shapes)
        joined = {f"{old}.{it}": tuple(f"{new}.{here}" for here in apart) for it, apart in DOUBLE_JOINED.items()}
        found |= of_joined(joined, shapes, "view")
    for number in range(count(shapes, "single_blocks")):
        old, new = f"single_blocks.{number}", f"single_transformer_blocks.{number}"
        found |= of_layers({f"{old}.{there}": f"{new}.{here}" for there, here in SINGLE.items()}, shapes)
        found |= of_norms({f"{old}.{there}": f"{new}.{here}" for there, here in SINGLE_NORMS.items()}, shapes)
    return found


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
                places,
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
