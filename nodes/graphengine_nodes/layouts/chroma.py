"""Chroma's transformer: from the original code's names, most of which are FLUX.1's, to diffusers', and the
configuration by the shapes."""

from __future__ import annotations

from typing import Any

from graphengine_nodes.layouts import flux
from graphengine_nodes.layouts.kinds import DENOISER, Kind, Spelling, same
from graphengine_nodes.layouts.names import Blocks, Names
from graphengine_nodes.layouts.places import Place, Places, Shapes, count

GUIDANCE = "distilled_guidance_layer"
"""The network that gives all modulations, in place of FLUX.1's layers for them."""

NAMES = Names(
    {f"{GUIDANCE}.in_proj": f"{GUIDANCE}.in_proj", f"{GUIDANCE}.out_proj": f"{GUIDANCE}.out_proj"},
    (Blocks(f"{GUIDANCE}.layers", f"{GUIDANCE}.layers", {"in_layer": "linear_1", "out_layer": "linear_2"}),),
)
"""The original code's names that FLUX.1 does not have."""

DIFFUSERS = rf"{flux.DIFFUSERS}|{GUIDANCE}\.((in|out)_proj|layers\.\d+\.linear_[12]|norms\.\d+)\.(weight|bias)"
"""diffusers' names."""


def places(shapes: Shapes) -> Places:
    """Places by the original code's names; see `flux.places`."""
    norms = [f"{GUIDANCE}.norms.{number}" for number in range(count(shapes, f"{GUIDANCE}.norms"))]
    ends = [(norm, end) for norm in norms for end in ("weight", "scale") if f"{norm}.{end}" in shapes]
    return flux.places(shapes) | NAMES.places(shapes) | {f"{norm}.weight": Place(f"{norm}.{end}") for norm, end in ends}


def config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a transformer, by diffusers' names; the axes of its positions are those of published ones,
    whose heads have 128 numbers."""
    width, channels = shapes["x_embedder.weight"]
    head = shapes["transformer_blocks.0.attn.norm_q.weight"][0]
    hidden, inner = shapes[f"{GUIDANCE}.in_proj.weight"]
    out = shapes["proj_out.weight"][0]
    found: dict[str, Any] = {
        "_class_name": "ChromaTransformer2DModel",
        "in_channels": channels,
        "num_layers": count(shapes, "transformer_blocks"),
        "num_single_layers": count(shapes, "single_transformer_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "approximator_num_channels": inner,
        "approximator_hidden_dim": hidden,
        "approximator_layers": count(shapes, f"{GUIDANCE}.layers"),
    }
    found |= {"out_channels": out} if out != channels else {}
    return found | ({"axes_dims_rope": [16, 56, 56]} if head == 128 else {})


KINDS = (
    Kind(
        "Chroma transformer",
        "transformer",
        (
            Spelling(
                "original",
                (f"{GUIDANCE}.layers.0.in_layer.weight", "double_blocks.0.img_mlp.0.weight"),
                DENOISER,
                places,
            ),
            Spelling(
                "diffusers",
                (f"{GUIDANCE}.layers.0.linear_1.weight", "transformer_blocks.0.attn.add_q_proj.weight"),
                DENOISER,
                same(DIFFUSERS),
            ),
        ),
        config,
        "chroma",
        unseen=("axes_dims_rope",),
        widths=("in_channels", "num_attention_heads", "num_layers", "num_single_layers", "joint_attention_dim"),
    ),
)
