"""VAEs: from the original code's names to diffusers', and the configuration by the shapes."""

from __future__ import annotations

import re
from typing import Any

from graphengine_nodes.layouts.kinds import VAE, Kind, Spelling
from graphengine_nodes.layouts.places import Place, Places, Shapes, count

ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
SIDES = {"down": ("down_blocks", "downsample", "downsamplers.0"), "up": ("up_blocks", "upsample", "upsamplers.0")}
NAME = re.compile(
    r"(?P<outer>(?:post_)?quant_conv|(?:en|de)coder\.conv_(?:in|out))"
    r"|(?P<side>encoder|decoder)\.(?:(?P<norm>norm_out)|mid\.block_(?P<mid>[12])\.(?P<midleaf>\w+)"
    r"|mid\.attn_1\.(?P<attention>\w+)"
    r"|(?P<way>down|up)\.(?P<level>\d+)\.(?:block\.(?P<block>\d+)\.(?P<leaf>\w+)|(?P<sampler>\w+)\.conv))"
)
RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}


def places(shapes: Shapes) -> Places:
    """Places by the original code's names: its decoder counts levels from the picture, attention is convolutions."""
    levels = count(shapes, "decoder.up")
    found = {}
    for name, shape in shapes.items():
        layer, _, kind = name.rpartition(".")
        new = _layer(layer, levels) if kind in ("weight", "bias") else None
        if new is not None:
            matrix = ".attentions." in new and len(shape) == 4
            found[f"{new}.{kind}"] = Place(name, change="matrix" if matrix else "")
    return found


def _layer(layer: str, levels: int) -> str | None:
    """A layer's name; None for one that no VAE has."""
    match = NAME.fullmatch(layer)
    if match is None:
        return None
    part = match.groupdict()
    if part["outer"]:
        return layer
    side = part["side"]
    if part["norm"]:
        return f"{side}.conv_norm_out"
    if part["attention"]:
        inner = ATTENTION.get(part["attention"])
        return inner and f"{side}.mid_block.attentions.0.{inner}"
    if part["mid"]:
        inner = RESNET.get(part["midleaf"])
        return inner and f"{side}.mid_block.resnets.{int(part['mid']) - 1}.{inner}"
    blocks, sampling, sampler = SIDES[part["way"]]
    number = int(part["level"]) if part["way"] == "down" else levels - 1 - int(part["level"])
    if part["sampler"]:
        return f"{side}.{blocks}.{number}.{sampler}.conv" if part["sampler"] == sampling else None
    inner = RESNET.get(part["leaf"])
    return inner and f"{side}.{blocks}.{number}.resnets.{part['block']}.{inner}"


OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""The layers of attention in diffusers before 0.18."""

DIFFUSERS = re.compile(
    r"((post_)?quant_conv|(en|de)coder\.(conv_in|conv_out|conv_norm_out|mid_block\.attentions\.0\."
    r"(group_norm|to_[qkv]|to_out\.0|query|key|value|proj_attn)"
    r"|(down_blocks\.\d+|up_blocks\.\d+|mid_block)\.(resnets\.\d+\.(norm1|conv1|norm2|conv2|conv_shortcut)"
    r"|(down|up)samplers\.0\.conv)))\.(weight|bias)"
)
"""diffusers' names."""


def diffusers_places(shapes: Shapes) -> Places:
    """Places in a file with diffusers' names, of today or before 0.18."""
    found = {}
    for name in shapes:
        if DIFFUSERS.fullmatch(name):
            *outer, layer, kind = name.split(".")
            found[".".join([*outer, OLD.get(layer, layer), kind])] = Place(name)
    return found


def config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a VAE without its scale, which is its family's, by diffusers' names."""
    levels = range(count(shapes, "encoder.down_blocks"))
    widths = [shapes[f"encoder.down_blocks.{n}.resnets.0.conv2.weight"][0] for n in levels]
    found: dict[str, Any] = {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": count(shapes, "encoder.down_blocks.0.resnets"),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "mid_block_add_attention": any(name.startswith("decoder.mid_block.attentions.") for name in shapes),
    }
    if widths[0] == 128:  # as in all published ones, whose norms have 32 groups
        found["norm_num_groups"] = 32
    return found


NORMALISED = ("bn.running_mean",)
"""A tensor of FLUX.2's VAE, which is of a kind of its own."""

KINDS = (
    Kind(
        "vae",
        "vae",
        (
            Spelling("original", ("decoder.up.0.block.0.norm1.weight",), VAE, places, NORMALISED),
            Spelling(
                "diffusers",
                ("decoder.up_blocks.0.resnets.0.norm1.weight",),
                ("vae.", ""),
                diffusers_places,
                NORMALISED,
            ),
        ),
        config,
        unseen=("norm_num_groups",),
        widths=("block_out_channels", "latent_channels"),
    ),
)
