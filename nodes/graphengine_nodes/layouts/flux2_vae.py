"""FLUX.2's VAE, which normalises its latents: from the original code's names to diffusers', and the configuration by
the shapes."""

from __future__ import annotations

import math
from typing import Any

from graphengine_nodes.layouts import vae
from graphengine_nodes.layouts.kinds import VAE, Kind, Spelling
from graphengine_nodes.layouts.places import Place, Places, Shapes, count

OUTER = {"encoder.quant_conv": "quant_conv", "decoder.post_quant_conv": "post_quant_conv"}
"""Layers that the original code has inside the encoder and the decoder."""


def _normalised(shapes: Shapes) -> Places:
    return {name: Place(name) for name in shapes if name.startswith("bn.")}


def places(shapes: Shapes) -> Places:
    """Places by the original code's names; see `vae.places`."""
    named = [(f"{old}.{end}", f"{new}.{end}") for old, new in OUTER.items() for end in ("weight", "bias")]
    return vae.places(shapes) | {new: Place(old) for old, new in named if old in shapes} | _normalised(shapes)


def diffusers_places(shapes: Shapes) -> Places:
    """Places by diffusers' names."""
    return vae.diffusers_places(shapes) | _normalised(shapes)


def config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of the VAE, by diffusers' names."""
    found = vae.config(shapes)
    levels = range(count(shapes, "decoder.up_blocks"))
    widths = [shapes[f"decoder.up_blocks.{n}.resnets.0.conv2.weight"][0] for n in levels][::-1]
    side = math.isqrt(shapes["bn.running_mean"][0] // found["latent_channels"])
    found |= {"_class_name": "AutoencoderKLFlux2", "patch_size": [side, side]}
    return found | ({"decoder_block_out_channels": widths} if widths != found["block_out_channels"] else {})


KINDS = (
    Kind(
        "FLUX.2 VAE",
        "vae",
        (
            Spelling("original", ("bn.running_mean", "decoder.up.0.block.0.norm1.weight"), VAE, places),
            Spelling(
                "diffusers",
                ("bn.running_mean", "decoder.up_blocks.0.resnets.0.norm1.weight"),
                VAE,
                diffusers_places,
            ),
        ),
        config,
        unseen=("norm_num_groups",),
        widths=("block_out_channels", "latent_channels"),
    ),
)
