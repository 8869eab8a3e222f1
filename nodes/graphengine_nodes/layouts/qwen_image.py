"""Qwen-Image's transformers, whose files have diffusers' names: the configuration by the shapes."""

from __future__ import annotations

from typing import Any

from graphengine_nodes.layouts.kinds import DENOISER, Kind, Spelling, same
from graphengine_nodes.layouts.places import Place, Places, Shapes, count

SIGNS = ("txt_norm.weight", "img_in.weight", "transformer_blocks.0.img_mod.1.weight")

DIFFUSERS = (
    r"(time_text_embed\.(timestep_embedder\.linear_[12]|addition_t_embedding)|txt_norm|img_in|txt_in|norm_out\.linear"
    r"|proj_out|controlnet_x_embedder|controlnet_blocks\.\d+|transformer_blocks\.\d+\.((img|txt)_mod\.1|(img|txt)_mlp\.net\.(0\.proj|2)"
    r"|attn\.(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out|norm_[qk]|norm_added_[qk])))\.(weight|bias)"
)
"""diffusers' names, of transformers and their ControlNets."""

CONTROLNET = "controlnet_x_embedder.weight"

LATER = "__index_timestep_zero__"
"""A marker, without numbers, of ComfyUI's files of Edit 2511: its reference pictures are of the time zero."""

LAYERED = "time_text_embed.addition_t_embedding.weight"
"""A tensor that only the layered models have."""


def config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a transformer or of its ControlNet, by diffusers' names; the axes of its positions are those
    of published ones, whose heads have 128 numbers."""
    width, channels = shapes["img_in.weight"]
    head = shapes["transformer_blocks.0.attn.norm_q.weight"][0]
    out = channels if CONTROLNET in shapes else shapes["proj_out.weight"][0]
    found: dict[str, Any] = {
        "_class_name": "QwenImageTransformer2DModel",
        "patch_size": 2,
        "in_channels": channels,
        "out_channels": out // 4,
        "num_layers": count(shapes, "transformer_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "guidance_embeds": False,
    }
    if CONTROLNET in shapes:
        del found["guidance_embeds"]
        found["_class_name"] = "QwenImageControlNetModel"
        found["extra_condition_channels"] = shapes[CONTROLNET][1] - channels
    if LAYERED in shapes:
        found |= {"use_additional_t_cond": True, "use_layer3d_rope": True}
    return found | ({"axes_dims_rope": [16, 56, 56]} if head == 128 else {})


# --- 2.1 --------------------------------------------------------------------------------------------------------------

SIGNS_21 = ("txt_in.text_norm.weight", "img_in.weight", "modulation.1.weight")

DIFFUSERS_21 = (
    r"(time_text_embed\.timestep_embedder\.linear_[12]|txt_in\.(text_norm|in_layer|out_layer)|img_in|modulation\.1"
    r"|norm_out\.linear|proj_out|transformer_blocks\.\d+\."
    r"(attn\.(to_[qkv]|to_out\.0|norm_[qk])|img_mlp\.(proj|out|gate_layer)))\.(weight|bias)"
)
"""diffusers' names."""

JOINED = ".img_mlp.gate_up.weight"
"""Two layers in one piece, as ComfyUI writes them: the gate first."""


def places_21(shapes: Shapes) -> Places:
    """Places by diffusers' names, and by ComfyUI's for two layers in one piece."""
    found = same(DIFFUSERS_21)(shapes)
    for name in shapes:
        if name.endswith(JOINED):
            block, rows = name.removesuffix("gate_up.weight"), shapes[name][0]
            found[f"{block}gate_layer.weight"] = Place(name, (0, rows // 2), "view")
            found[f"{block}proj.weight"] = Place(name, (rows // 2, rows), "view")
    return found


def config_21(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a transformer of Qwen-Image 2.1; see `config`."""
    width, channels = shapes["img_in.weight"]
    head = shapes["transformer_blocks.0.attn.norm_q.weight"][0]
    found: dict[str, Any] = {
        "_class_name": "QwenImage21Transformer2DModel",
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0],
        "num_layers": count(shapes, "transformer_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "context_in_dim": shapes["txt_in.text_norm.weight"][0],
        "mlp_ratio": shapes["transformer_blocks.0.img_mlp.proj.weight"][0] // width,
    }
    return found | ({"axes_dims_rope": [16, 56, 56]} if head == 128 else {})


KINDS = (
    Kind(
        "Qwen-Image transformer",
        "transformer",
        (
            Spelling(
                "diffusers",
                (*SIGNS, "proj_out.weight"),
                DENOISER,
                same(DIFFUSERS),
                marks={LATER: {"zero_cond_t": True}},
            ),
        ),
        config,
        "qwen_image",
        unseen=("axes_dims_rope",),
        widths=("in_channels", "num_attention_heads", "num_layers", "joint_attention_dim"),
    ),
    Kind(
        "Qwen-Image ControlNet",
        "controlnet",
        (Spelling("diffusers", (CONTROLNET, *SIGNS), ("",), same(DIFFUSERS)),),
        config,
        unseen=("axes_dims_rope",),
        widths=("in_channels", "num_attention_heads", "num_layers", "extra_condition_channels"),
    ),
    Kind(
        "Qwen-Image 2.1 transformer",
        "transformer",
        (Spelling("diffusers", SIGNS_21, DENOISER, places_21),),
        config_21,
        "qwen_image_21",
        unseen=("axes_dims_rope",),
        widths=("in_channels", "num_attention_heads", "num_layers", "context_in_dim"),
    ),
)
