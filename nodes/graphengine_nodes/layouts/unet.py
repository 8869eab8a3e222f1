"""UNets and their ControlNets: from the original code's names to diffusers', and the configuration by the shapes."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

from graphengine_nodes.layouts.kinds import DENOISER, Kind, Spelling, same
from graphengine_nodes.layouts.places import Place, Places, Shapes, count
from graphengine_nodes.weights.headers import Header

OUTER = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block_out.0": "controlnet_mid_block",
    "input_hint_block.0": "controlnet_cond_embedding.conv_in",
}
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
TRANSFORMER = re.compile(
    r"norm|proj_in|proj_out|transformer_blocks\.\d+\.(norm[123]|attn[12]\.to_([qkv]|out\.0)|ff\.net\.(0\.proj|2))"
)
"""Layers of an attention block, which have the same names in both."""

PUBLISHED = (320, 384)
"""The width of the first level in all published UNets: their norms have 32 groups, and their heads follow a rule."""

EMBEDDED = (64, 96, 128)
"""The widths of the embedded model `tiny`, whose ControlNets are told by them."""

DIFFUSERS = (
    r"((conv_in|conv_norm_out|conv_out|(time|add)_embedding\.linear_[12]"
    r"|(down_blocks|up_blocks|mid_block)(\.\d+)?\.(resnets\.\d+\."
    r"(norm1|conv1|time_emb_proj|norm2|conv2|conv_shortcut)|(down|up)samplers\.0\.conv"
    rf"|attentions\.\d+\.({TRANSFORMER.pattern}))"
    r"|controlnet_(mid_block|down_blocks\.\d+|cond_embedding\.(conv_in|conv_out|blocks\.\d+))"
    r"|control_add_embedding\.linear_[12]|spatial_ch_projs|transformer_layes\.\d+\."
    r"(attn\.out_proj|ln_[12]|mlp\.(c_fc|c_proj)))\.(weight|bias)"
    r"|transformer_layes\.\d+\.attn\.in_proj_(weight|bias)|task_embedding)"
)
"""diffusers' names."""

CONTROLNET = "controlnet_cond_embedding.conv_in.weight"
"""A tensor that ControlNets have and UNets do not, by diffusers' names."""

UNION = "task_embedding"
"""A tensor that union ControlNets have, with a row for each kind of control picture."""


def places(shapes: Shapes) -> Places:
    """Places by the original code's names, of a UNet, or of a ControlNet, whose blocks are named as the UNet's.

    It counts the blocks through, where diffusers counts levels and layers: a level ends where the size changes.
    """
    blocks = OUTER | _blocks(shapes)
    found = {}
    for name in shapes:
        layer, _, kind = name.rpartition(".")
        if kind in ("weight", "bias") and (new := _layer(layer, blocks)):
            found[f"{new}.{kind}"] = Place(name)
    return found


def _blocks(shapes: Shapes) -> dict[str, str]:
    """The names of blocks and of sampling layers, by the original names."""
    found = {"middle_block.0": "mid_block.resnets.0", "middle_block.1": "mid_block.attentions.0"}
    found["middle_block.2"] = "mid_block.resnets.1"
    level = layer = 0
    for number in range(1, count(shapes, "input_blocks")):
        block, new = f"input_blocks.{number}", f"down_blocks.{level}"
        if f"{block}.0.op.weight" in shapes:
            found[f"{block}.0.op"] = f"{new}.downsamplers.0.conv"
            level, layer = level + 1, 0
        else:
            found |= {f"{block}.0": f"{new}.resnets.{layer}", f"{block}.1": f"{new}.attentions.{layer}"}
            layer += 1
    level = layer = 0
    for number in range(count(shapes, "output_blocks")):
        block, new = f"output_blocks.{number}", f"up_blocks.{level}"
        found |= {f"{block}.0": f"{new}.resnets.{layer}", f"{block}.1": f"{new}.attentions.{layer}"}
        layer += 1
        if sampler := next((n for n in (1, 2) if f"{block}.{n}.conv.weight" in shapes), None):
            found[f"{block}.{sampler}.conv"] = f"{new}.upsamplers.0.conv"
            level, layer = level + 1, 0
    found |= {f"zero_convs.{n}.0": f"controlnet_down_blocks.{n}" for n in range(count(shapes, "zero_convs"))}
    last = count(shapes, "input_hint_block") - 1
    hints = [n for n in range(2, last, 2) if f"input_hint_block.{n}.weight" in shapes]
    found |= {f"input_hint_block.{n}": f"controlnet_cond_embedding.blocks.{n // 2 - 1}" for n in hints}
    return found | ({f"input_hint_block.{last}": "controlnet_cond_embedding.conv_out"} if last > 0 else {})


def _layer(layer: str, blocks: dict[str, str]) -> str | None:
    """A layer's name; None for one that no UNet has."""
    if layer in blocks:
        return blocks[layer]
    size = 2 if layer.startswith("middle_block.") else 3
    parts = layer.split(".")
    block, inner = blocks.get(".".join(parts[:size])), ".".join(parts[size:])
    if block is None:
        return None
    if ".resnets." in block:
        return f"{block}.{RESNET[inner]}" if inner in RESNET else None
    return f"{block}.{inner}" if TRANSFORMER.fullmatch(inner) else None


def config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a UNet or ControlNet, by diffusers' names.

    Of heads, groups and the size of pictures the tensors say nothing: they are those of the published models (8 heads,
    or where the projections are matrices heads of 64 numbers).
    """
    levels = range(count(shapes, "down_blocks"))
    layers = [count(shapes, f"down_blocks.{n}.resnets") for n in levels]
    depths = [[_depth(shapes, f"down_blocks.{n}.attentions.{k}") for k in range(layers[n])] for n in levels]
    widths = [shapes[f"down_blocks.{n}.resnets.0.conv2.weight"][0] for n in levels]
    linear = any(name.endswith(".proj_in.weight") and len(shape) == 2 for name, shape in shapes.items())
    context = next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), None)
    middle = _depth(shapes, "mid_block.attentions.0")
    found: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "in_channels": shapes["conv_in.weight"][1],
        "block_out_channels": widths,
        "layers_per_block": _one(layers),
        "down_block_types": ["CrossAttnDownBlock2D" if any(depth) else "DownBlock2D" for depth in depths],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "transformer_layers_per_block": _one(_filled(depths, middle)),
        "cross_attention_dim": context or 1280,
        "use_linear_projection": linear,
    }
    if not any(name.startswith("mid_block.") for name in shapes):
        found["mid_block_type"] = None
    if widths[0] in PUBLISHED:
        found["attention_head_dim"] = [width // 64 for width in widths] if linear else 8
        found["norm_num_groups"] = 32
    if "add_embedding.linear_1.weight" in shapes:
        found |= {"sample_size": 128, "addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        found["projection_class_embeddings_input_dim"] = shapes["add_embedding.linear_1.weight"][1]
    if CONTROLNET in shapes:
        return _of_controlnet(found, shapes)
    rising = [_rising(shapes, n) for n in levels]
    found["out_channels"] = shapes["conv_out.weight"][0]
    found["up_block_types"] = ["CrossAttnUpBlock2D" if any(depth) else "UpBlock2D" for depth in rising]
    plain = [[depth[0]] * (count + 1) for depth, count in zip(depths[::-1], layers[::-1], strict=True)]
    if rising != plain:
        found["reverse_transformer_layers_per_block"] = [depth if any(depth) else 1 for depth in rising]
    return found


def _rising(shapes: Shapes, level: int) -> list[int]:
    """The depths of the transformers in one level of the way up."""
    block = f"up_blocks.{level}"
    return [_depth(shapes, f"{block}.attentions.{k}") for k in range(count(shapes, f"{block}.resnets"))]


def _depth(shapes: Shapes, attention: str) -> int:
    return count(shapes, f"{attention}.transformer_blocks")


def _filled(depths: list[list[int]], middle: int) -> list[Any]:
    """The depth of each level; one without attention has the depth of all others, else 1, and the last level has that
    of the middle, which diffusers takes from there."""
    known = {depth for level in depths for depth in level} | {middle}
    one = max(known) if len(known - {0}) == 1 else 1
    found = [_one(level) if any(level) else one for level in depths]
    return found if any(depths[-1]) or not middle else [*found[:-1], middle]


def _one(values: list[Any]) -> Any:
    """The one value that a list repeats, else the list."""
    return values[0] if all(value == values[0] for value in values) else values


def _of_controlnet(found: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    hint = "controlnet_cond_embedding"
    pairs = range(0, count(shapes, f"{hint}.blocks"), 2)
    widths = [shapes[CONTROLNET][0], *(shapes[f"{hint}.blocks.{n + 1}.weight"][0] for n in pairs)]
    del found["sample_size"]
    if tuple(found["block_out_channels"]) == EMBEDDED:
        found |= {"attention_head_dim": 4, "norm_num_groups": 16}
    found |= {
        "_class_name": "ControlNetModel",
        "conditioning_channels": shapes[CONTROLNET][1],
        "conditioning_embedding_out_channels": widths,
    }
    if UNION not in shapes:
        return found
    modes, channels = shapes[UNION]
    return found | {
        "_class_name": "ControlNetUnionModel",
        "num_control_type": modes,
        "num_trans_channel": channels,
        "num_trans_layer": count(shapes, "transformer_layes"),
        "num_proj_channel": shapes["spatial_ch_projs.weight"][0],
    }


# --- what a file with one is of ---------------------------------------------------------------------------------------

REFINED = 1280
"""The width of the prompts that SDXL's refiner takes: those of the second text encoder alone."""

REFINERS_TEXTS = "conditioner.embedders.0.model.ln_final.weight"
"""A tensor of the text encoder in the refiner's published file."""


def is_xl(names: Container[str]) -> bool:
    """Whether a UNet takes sizes beside prompts, as those of SDXL do."""
    sizes = ("label_emb.0.0.weight", "add_embedding.linear_1.weight")
    return any(f"{prefix}{name}" in names for prefix in DENOISER for name in sizes)


def family_of(header: Header) -> str:
    """The family of a file with a UNet."""
    if not is_xl(header):
        return "stable_diffusion"
    width = next((entry["shape"][1] for name, entry in header.items() if name.endswith(".attn2.to_k.weight")), None)
    alone = REFINERS_TEXTS in header or width == REFINED
    return "stable_diffusion_xl_refiner" if alone else "stable_diffusion_xl"


KINDS = (
    Kind(
        "unet",
        "unet",
        (
            Spelling("original", ("input_blocks.0.0.weight", "out.2.weight"), DENOISER, places),
            Spelling("diffusers", ("conv_in.weight", "conv_norm_out.weight"), DENOISER, same(DIFFUSERS)),
        ),
        config,
        family_of,
        unseen=("attention_head_dim", "norm_num_groups"),
        widths=("block_out_channels", "cross_attention_dim", "in_channels"),
    ),
    Kind(
        "controlnet",
        "controlnet",
        (
            Spelling("original", ("input_blocks.0.0.weight", "zero_convs.0.0.weight"), ("control_model.", ""), places),
            Spelling("diffusers", (CONTROLNET, "conv_in.weight"), ("",), same(DIFFUSERS)),
        ),
        config,
        unseen=("attention_head_dim", "norm_num_groups"),
        widths=("block_out_channels", "cross_attention_dim"),
    ),
)
