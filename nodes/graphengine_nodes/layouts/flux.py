"""FLUX.1's transformers: from the original code's names to diffusers', and the configuration by the shapes."""

from __future__ import annotations

import re
from typing import Any

from graphengine_nodes.layouts.kinds import DENOISER, Kind, Spelling, same
from graphengine_nodes.layouts.places import Place, Places, Shapes, count, in_thirds

OUTER = {
    "time_in": "time_text_embed.timestep_embedder",
    "vector_in": "time_text_embed.text_embedder",
    "guidance_in": "time_text_embed.guidance_embedder",
}
DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
DOUBLE_NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}
SINGLE_NORMS = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}

ENDS = ("weight", "bias")

SIGNS = (
    "x_embedder.weight",
    "transformer_blocks.0.attn.add_q_proj.weight",
    "time_text_embed.text_embedder.linear_1.weight",
)
"""Names of diffusers that a transformer and its ControlNet have; those of other models lack some of them."""

CONTROLNET = "controlnet_x_embedder.weight"

_QKV = r"attn\.(to_[qkv]|add_[qkv]_proj)"
_INNER = "|".join(re.escape(name) for name in (*DOUBLE.values(), *DOUBLE_NORMS.values()))
DIFFUSERS = (
    r"(x_embedder|context_embedder|proj_out|norm_out\.linear"
    r"|time_text_embed\.(timestep|text|guidance)_embedder\.linear_[12]"
    rf"|transformer_blocks\.\d+\.({_INNER}|{_QKV})"
    rf"|single_transformer_blocks\.\d+\.(norm\.linear|proj_mlp|proj_out|attn\.norm_[qk]|{_QKV})"
    r"|controlnet_(blocks\.\d+|single_blocks\.\d+|x_embedder|mode_embedder))\.(weight|bias)"
)
"""diffusers' names."""


def places(shapes: Shapes) -> Places:
    """Places by the original code's names: queries, keys and values in one piece, and in single blocks the first layer
    of the network below them."""
    layers = {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out"}
    for old, new in OUTER.items():
        layers |= {f"{old}.in_layer": f"{new}.linear_1", f"{old}.out_layer": f"{new}.linear_2"}
    scales: dict[str, str] = {}
    joined: Places = {}
    for number in range(count(shapes, "double_blocks")):
        old, new = f"double_blocks.{number}", f"transformer_blocks.{number}"
        layers |= {f"{old}.{there}": f"{new}.{here}" for there, here in DOUBLE.items()}
        scales |= {f"{old}.{there}": f"{new}.{here}" for there, here in DOUBLE_NORMS.items()}
        for side, names in (("img", ("to_q", "to_k", "to_v")), ("txt", ("add_q_proj", "add_k_proj", "add_v_proj"))):
            for kind in ENDS:
                if (place := f"{old}.{side}_attn.qkv.{kind}") in shapes:
                    joined |= in_thirds([f"{new}.attn.{name}.{kind}" for name in names], place, shapes)
    for number in range(count(shapes, "single_blocks")):
        old, new = f"single_blocks.{number}", f"single_transformer_blocks.{number}"
        layers |= {f"{old}.modulation.lin": f"{new}.norm.linear", f"{old}.linear2": f"{new}.proj_out"}
        scales |= {f"{old}.{there}": f"{new}.{here}" for there, here in SINGLE_NORMS.items()}
        for kind in ENDS:
            if (place := f"{old}.linear1.{kind}") in shapes:
                joined |= _of_single(new, kind, place, shapes, shapes[f"{old}.linear2.weight"][0])
    found = {f"{new}.{kind}": Place(f"{old}.{kind}") for old, new in layers.items() for kind in ENDS}
    found |= {f"{new}.weight": Place(f"{old}.{end}") for old, new in scales.items() for end in ("weight", "scale")}
    for kind in ENDS:
        found[f"norm_out.linear.{kind}"] = Place(f"final_layer.adaLN_modulation.1.{kind}", change="halves swapped")
    return {name: place for name, place in found.items() if place.name in shapes} | joined


def _of_single(block: str, kind: str, place: str, shapes: Shapes, width: int) -> Places:
    names = [*(f"attn.to_{one}" for one in "qkv"), "proj_mlp"]
    ends = [width, 2 * width, 3 * width, shapes[place][0]]
    rows = zip([0, *ends[:-1]], ends, strict=True)
    return {f"{block}.{name}.{kind}": Place(place, part) for name, part in zip(names, rows, strict=True)}


def config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a transformer or of its ControlNet, by diffusers' names; widths and heads follow from the
    shapes, the axes of its positions from the heads where these are FLUX's own."""
    width, channels = shapes["x_embedder.weight"]
    head = shapes["transformer_blocks.0.attn.norm_q.weight"][0]
    found: dict[str, Any] = {
        "_class_name": "FluxTransformer2DModel",
        "in_channels": channels,
        "num_layers": count(shapes, "transformer_blocks"),
        "num_single_layers": count(shapes, "single_transformer_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
    }
    if head == 128:
        found["axes_dims_rope"] = [16, 56, 56]
    if CONTROLNET in shapes:
        modes = shapes.get("controlnet_mode_embedder.weight")
        return found | {"_class_name": "FluxControlNetModel", "num_mode": modes and modes[0]}
    out = shapes["proj_out.weight"][0]
    return found | ({"out_channels": out} if out != channels else {})


KINDS = (
    Kind(
        "transformer",
        "transformer",
        (
            Spelling(
                "original", ("double_blocks.0.img_attn.qkv.weight", "vector_in.in_layer.weight"), DENOISER, places
            ),
            Spelling("diffusers", (*SIGNS, "proj_out.weight"), DENOISER, same(DIFFUSERS)),
        ),
        config,
        "flux",
        unseen=("axes_dims_rope",),
        widths=("in_channels", "num_attention_heads"),
        encoders={"t5xxl": "text_encoder_2"},
    ),
    Kind(
        "flux_controlnet",
        "controlnet",
        (Spelling("diffusers", (*SIGNS, CONTROLNET), ("",), same(DIFFUSERS)),),
        config,
        unseen=("axes_dims_rope",),
    ),
)
