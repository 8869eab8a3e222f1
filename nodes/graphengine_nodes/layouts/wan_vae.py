"""VAEs of Wan 2.1, Wan 2.2 5B and Qwen-Image: from the original code's names to diffusers', and the configuration by
the shapes.

Qwen-Image's VAE has the very tensors of Wan 2.1's: a file does not tell which of them it is.
"""

from __future__ import annotations

import re
from typing import Any

from graphengine_nodes.layouts.kinds import VAE, Kind, Spelling, same
from graphengine_nodes.layouts.places import Place, Places, Shapes, count
from graphengine_nodes.layouts.wan_scales import SCALES

RESNET = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
SAMPLER = ("resample.1", "time_conv")
OUTER = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    **{
        f"{side}.{old}": f"{side}.{new}"
        for side in ("encoder", "decoder")
        for old, new in (("conv1", "conv_in"), ("head.0", "norm_out"), ("head.2", "conv_out"))
    },
}
MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
NAME = re.compile(
    r"(?P<side>encoder|decoder)\.(middle\.(?P<middle>[012])|(down|up)samples\.(?P<level>\d+)"
    r"(\.(down|up)samples\.(?P<block>\d+))?)\.(?P<inner>[\w.]+)"
)

_RESNET = r"(norm1|conv1|norm2|conv2|conv_shortcut)"
_SAMPLER = r"(resample\.1|time_conv)"
DIFFUSERS = (
    r"((post_)?quant_conv|(en|de)coder\.(conv_in|conv_out|norm_out|mid_block\.attentions\.0\.(norm|to_qkv|proj)"
    rf"|mid_block\.resnets\.\d+\.{_RESNET}|(down|up)_blocks\.\d+\.({_RESNET}|{_SAMPLER}|resnets\.\d+\.{_RESNET}"
    rf"|(upsamplers\.0|upsampler|downsampler)\.{_SAMPLER})))\.(weight|bias|gamma)"
)
"""diffusers' names."""


def places(shapes: Shapes) -> Places:
    """Places by the original code's names.

    Wan 2.1 counts the layers of all levels through, and so does diffusers on the way down; on the way up a level ends
    with the layer that makes the picture larger. Wan 2.2 counts those of each level.
    """
    numbers = range(count(shapes, "decoder.upsamples"))
    ends = [n for n in numbers if f"decoder.upsamples.{n}.resample.1.weight" in shapes]
    found = {}
    for name in shapes:
        layer, _, end = name.rpartition(".")
        if (new := OUTER.get(layer) or _inner(layer, ends)) is not None:
            found[f"{new}.{end}"] = Place(name)
    return found


def _inner(layer: str, ends: list[int]) -> str | None:
    """The name of a layer inside a level; None of one that no VAE has.

    Args:
        ends: The last layers of the decoder's levels but the last one, where layers are counted through.
    """
    if (match := NAME.fullmatch(layer)) is None:
        return None
    side, inner = match["side"], match["inner"]
    if match["middle"]:
        inside = inner if match["middle"] == "1" else RESNET.get(inner)
        return inside and f"{side}.mid_block.{MIDDLE[match['middle']]}.{inside}"
    level, sampler = int(match["level"]), inner in SAMPLER
    leaf = inner if sampler else RESNET.get(inner)
    if leaf is None:
        return None
    blocks = f"{side}.{'down' if side == 'encoder' else 'up'}_blocks"
    if match["block"]:
        return f"{blocks}.{level}.{_sampler(side) if sampler else 'resnets.' + match['block']}.{leaf}"
    if side == "encoder":
        return f"{blocks}.{level}.{leaf}"
    above = [end for end in ends if end < level]
    first = above[-1] + 1 if above else 0
    return f"{blocks}.{len(above)}.{'upsamplers.0' if sampler else f'resnets.{level - first}'}.{leaf}"


def _sampler(side: str) -> str:
    return "downsampler" if side == "encoder" else "upsampler"


def config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of Wan 2.1's VAE, by diffusers' names; the scale of its latents is known for the published
    numbers of channels."""
    return _config(shapes, "upsamplers.0") | {"_class_name": "AutoencoderKLWan"}


def config_22(shapes: Shapes) -> dict[str, Any]:
    """The configuration of the VAE of Wan 2.2 5B or of Qwen-Image 2.1, which has other channels; see `config`."""
    found = _config(shapes, "upsampler") | {"_class_name": "AutoencoderKLWan", "is_residual": True}
    if found["z_dim"] == 64:
        found["_class_name"] = "AutoencoderKLQwenImage21"
    return found


def _config(shapes: Shapes, sampler: str) -> dict[str, Any]:
    levels = range(count(shapes, "decoder.up_blocks"))
    widths = [shapes[f"decoder.up_blocks.{n}.resnets.0.conv2.weight"][0] for n in levels][::-1]
    base, channels = shapes["encoder.conv_in.weight"][:2]
    longer = [f"decoder.up_blocks.{n}.{sampler}.time_conv.weight" in shapes for n in levels][:-1][::-1]
    patch = 2 if channels == 12 else None
    z_dim = shapes["post_quant_conv.weight"][0]
    found: dict[str, Any] = {
        "base_dim": base,
        "z_dim": z_dim,
        "dim_mult": [width // widths[0] for width in widths],
        "num_res_blocks": count(shapes, "decoder.up_blocks.0.resnets") - 1,
        "attn_scales": [],
        "temperal_downsample": longer,
        "in_channels": channels,
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "patch_size": patch,
        "scale_factor_temporal": 2 ** sum(longer),
        "scale_factor_spatial": 2 ** len(longer) * (patch or 1),
    }
    return found | ({"decoder_base_dim": widths[0]} if widths[0] != base else {}) | SCALES.get(z_dim, {})


def of_qwen(found: dict[str, Any]) -> dict[str, Any]:
    """The configuration of Qwen-Image's VAE out of that of Wan's with the same tensors."""
    wans = ("in_channels", "out_channels", "patch_size", "scale_factor_temporal", "scale_factor_spatial")
    kept = {name: value for name, value in found.items() if name not in wans}
    return kept | {"_class_name": "AutoencoderKLQwenImage", "input_channels": found["in_channels"]}


UNSEEN = ("latents_mean", "latents_std")
COMPARED = ("base_dim", "z_dim", "dim_mult")

KINDS = (
    Kind(
        "Wan VAE",
        "vae",
        (
            Spelling(
                "original", ("decoder.middle.0.residual.0.gamma", "decoder.upsamples.0.residual.2.weight"), VAE, places
            ),
            Spelling(
                "diffusers",
                ("decoder.mid_block.resnets.0.norm1.gamma", "encoder.down_blocks.0.conv1.weight"),
                VAE,
                same(DIFFUSERS),
            ),
        ),
        config,
        unseen=UNSEEN,
        widths=COMPARED,
        twins={"AutoencoderKLQwenImage": of_qwen},
    ),
    Kind(
        "Wan 2.2 VAE",
        "vae",
        (
            Spelling(
                "original",
                ("decoder.middle.0.residual.0.gamma", "decoder.upsamples.0.upsamples.0.residual.2.weight"),
                VAE,
                places,
            ),
            Spelling(
                "diffusers",
                ("decoder.mid_block.resnets.0.norm1.gamma", "encoder.down_blocks.0.resnets.0.conv1.weight"),
                VAE,
                same(DIFFUSERS),
            ),
        ),
        config_22,
        unseen=UNSEEN,
        widths=COMPARED,
    ),
)
