"""Wan 2.1's and 2.2's transformers: from the original code's names to diffusers', and the configuration by the
shapes."""

from __future__ import annotations

import math
from typing import Any

from graphengine_nodes.layouts.kinds import DENOISER, Kind, Spelling, same
from graphengine_nodes.layouts.names import Blocks, Names
from graphengine_nodes.layouts.places import Place, Places, Shapes, count

WIDTHS = (1536, 3072, 5120)
"""Widths of the published models, whose heads have 128 numbers."""

NAMES = Names(
    {
        "patch_embedding": "patch_embedding",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
        "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
        "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
        "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
        "head.head": "proj_out",
    },
    (
        Blocks(
            "blocks",
            "blocks",
            {
                **{
                    f"{old}.{there}": f"{new}.{here}"
                    for old, new in (("self_attn", "attn1"), ("cross_attn", "attn2"))
                    for there, here in (
                        *(("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0")),
                        *(("norm_q", "norm_q"), ("norm_k", "norm_k")),
                    )
                },
                "cross_attn.k_img": "attn2.add_k_proj",
                "cross_attn.v_img": "attn2.add_v_proj",
                "cross_attn.norm_k_img": "attn2.norm_added_k",
                "norm3": "norm2",
                "ffn.0": "ffn.net.0.proj",
                "ffn.2": "ffn.net.2",
            },
        ),
    ),
)
"""The original code's names."""

DIFFUSERS = (
    r"scale_shift_table|blocks\.\d+\.scale_shift_table|condition_embedder\.image_embedder\.pos_embed|(patch_embedding"
    r"|condition_embedder\.(time_proj|(time|text)_embedder\.linear_[12]"
    r"|image_embedder\.(norm[12]|ff\.net\.(0\.proj|2)))|proj_out|blocks\.\d+\.(norm2|ffn\.net\.(0\.proj|2)"
    r"|attn[12]\.(to_[qkv]|to_out\.0|norm_[qk]|add_[kv]_proj|norm_added_k)))\.(weight|bias)"
)
"""diffusers' names."""

FRAMES = "condition_embedder.image_embedder.pos_embed"
"""Positions of the first and the last picture, where a model takes both."""


def places(shapes: Shapes) -> Places:
    """Places by the original code's names."""
    tables = {"scale_shift_table": "head.modulation", FRAMES: "img_emb.emb_pos"}
    blocks = range(count(shapes, "blocks"))
    tables |= {f"blocks.{number}.scale_shift_table": f"blocks.{number}.modulation" for number in blocks}
    return NAMES.places(shapes) | {new: Place(old) for new, old in tables.items() if old in shapes}


def config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a transformer, by diffusers' names; its heads are known for the published widths alone."""
    width, channels, *patch = shapes["patch_embedding.weight"]
    block, embedder = "blocks.0", "condition_embedder"
    picture = shapes.get(f"{embedder}.image_embedder.norm1.weight")
    added, frames = shapes.get(f"{block}.attn2.add_k_proj.weight"), shapes.get(FRAMES)
    found: dict[str, Any] = {
        "_class_name": "WanTransformer3DModel",
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0] // math.prod(patch),
        "text_dim": shapes[f"{embedder}.text_embedder.linear_1.weight"][1],
        "freq_dim": shapes[f"{embedder}.time_embedder.linear_1.weight"][1],
        "ffn_dim": shapes[f"{block}.ffn.net.0.proj.weight"][0],
        "num_layers": count(shapes, "blocks"),
        "cross_attn_norm": f"{block}.norm2.weight" in shapes,
        "qk_norm": "rms_norm_across_heads" if f"{block}.attn1.norm_q.weight" in shapes else None,
        "image_dim": picture and picture[0],
        "added_kv_proj_dim": added and added[1],
        "pos_embed_seq_len": frames and frames[1],
    }
    return found | ({"attention_head_dim": 128, "num_attention_heads": width // 128} if width in WIDTHS else {})


KINDS = (
    Kind(
        "Wan transformer",
        "transformer",
        (
            Spelling(
                "original",
                ("head.modulation", "patch_embedding.weight", "blocks.0.self_attn.q.weight"),
                DENOISER,
                places,
            ),
            Spelling(
                "diffusers",
                ("scale_shift_table", "patch_embedding.weight", "blocks.0.attn1.to_q.weight"),
                DENOISER,
                same(DIFFUSERS),
            ),
        ),
        config,
        "wan",
        unseen=("attention_head_dim", "num_attention_heads"),
        widths=("in_channels", "out_channels", "num_layers", "ffn_dim", "text_dim"),
    ),
)
