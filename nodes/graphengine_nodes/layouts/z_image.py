"""Z-Image's transformer: from the original code's names to diffusers', and the configuration by the shapes."""

from __future__ import annotations

from typing import Any

from graphengine_nodes.layouts.kinds import DENOISER, Kind, Spelling, same
from graphengine_nodes.layouts.names import Blocks, Layers, Names
from graphengine_nodes.layouts.places import Places, Shapes, count

PATCH = "2-1"
"""How published models cut latents, by diffusers' names: in patches of 2 x 2, one frame at a time."""

BLOCK: Layers = {
    "attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v"),
    "attention.out": "attention.to_out.0",
    "attention.q_norm": "attention.norm_q",
    "attention.k_norm": "attention.norm_k",
}

NAMES = Names(
    {
        "x_embedder": f"all_x_embedder.{PATCH}",
        "final_layer.linear": f"all_final_layer.{PATCH}.linear",
        "final_layer.adaLN_modulation.1": f"all_final_layer.{PATCH}.adaLN_modulation.1",
    },
    tuple(Blocks(name, name, BLOCK) for name in ("layers", "noise_refiner", "context_refiner")),
    parts="view",
)
"""The original code's names that are not diffusers'."""

DIFFUSERS = (
    r"(x|cap)_pad_token|(all_x_embedder\.\d+-\d+|all_final_layer\.\d+-\d+\.(linear|adaLN_modulation\.1)"
    r"|cap_embedder\.[01]|t_embedder\.mlp\.[02]|(layers|noise_refiner|context_refiner)\.\d+\."
    r"(attention\.(to_[qkv]|to_out\.0|norm_[qk])|feed_forward\.w[123]|(attention|ffn)_norm[12]|adaLN_modulation\.0)"
    r")\.(weight|bias)"
)
"""diffusers' names."""


def places(shapes: Shapes) -> Places:
    """Places by the original code's names, most of which are diffusers'."""
    return same(DIFFUSERS)(shapes) | NAMES.places(shapes)


def config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a transformer, by diffusers' names; the axes of its positions are those of published ones,
    whose heads have 128 numbers."""
    names = [name for name in shapes if name.startswith("all_x_embedder.") and name.endswith(".weight")]
    patches = [tuple(map(int, name.split(".")[1].split("-"))) for name in names]
    if not patches:
        raise LookupError(f"'all_x_embedder.{PATCH}.weight'")
    patch, frames = patches[0]
    width, inside = shapes[names[0]]
    head = shapes["layers.0.attention.norm_q.weight"][0]
    found: dict[str, Any] = {
        "_class_name": "ZImageTransformer2DModel",
        "all_patch_size": [size for size, _ in patches],
        "all_f_patch_size": [size for _, size in patches],
        "in_channels": inside // (patch * patch * frames),
        "dim": width,
        "n_layers": count(shapes, "layers"),
        "n_refiner_layers": count(shapes, "noise_refiner"),
        "n_heads": shapes["layers.0.attention.to_q.weight"][0] // head,
        "n_kv_heads": shapes["layers.0.attention.to_k.weight"][0] // head,
        "qk_norm": True,
        "cap_feat_dim": shapes["cap_embedder.0.weight"][0],
    }
    return found | ({"axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512]} if head == 128 else {})


CONTROL = (
    r"(control_all_x_embedder\.\d+-\d+|(control_layers|control_noise_refiner)\.\d+\.(before_proj|after_proj"
    r"|attention\.(to_[qkv]|to_out\.0|norm_[qk])|feed_forward\.w[123]|(attention|ffn)_norm[12]|adaLN_modulation\.0)"
    r")\.(weight|bias)"
)
"""The names of its ControlNets, which are diffusers' everywhere."""

STEPS = {6: 5, 15: 2}
"""Of the published ControlNets by the number of their layers: which layers of the transformer each steers."""


def control_config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of a ControlNet, by diffusers' names.

    Where its layers for noise steer those of the transformer, no shape tells whether it is 2.1, which reads them, or
    2.0, which has other layers in their place.
    """
    width, inside = shapes[f"control_all_x_embedder.{PATCH}.weight"]
    head = shapes["control_layers.0.attention.norm_q.weight"][0]
    layers, refiners = count(shapes, "control_layers"), count(shapes, "control_noise_refiner")
    found: dict[str, Any] = {
        "_class_name": "ZImageControlNetModel",
        "control_in_dim": inside // 4,
        "dim": width,
        "n_heads": shapes["control_layers.0.attention.to_q.weight"][0] // head,
        "n_kv_heads": shapes["control_layers.0.attention.to_k.weight"][0] // head,
    }
    if layers in STEPS:
        found["control_layers_places"] = [n * STEPS[layers] for n in range(layers)]
    if refiners:
        found["n_refiner_layers"] = refiners
    if "control_noise_refiner.0.after_proj.weight" in shapes:
        return found | {"control_refiner_layers_places": list(range(refiners))}
    return found | {"control_refiner_layers_places": None, "add_control_noise_refiner": None}


KINDS = (
    Kind(
        "Z-Image transformer",
        "transformer",
        (
            Spelling(
                "original", ("cap_pad_token", "x_embedder.weight", "noise_refiner.0.ffn_norm1.weight"), DENOISER, places
            ),
            Spelling(
                "diffusers",
                ("cap_pad_token", f"all_x_embedder.{PATCH}.weight", "noise_refiner.0.ffn_norm1.weight"),
                DENOISER,
                same(DIFFUSERS),
            ),
        ),
        config,
        "z_image",
        unseen=("axes_dims",),
        widths=("in_channels", "dim", "n_layers", "cap_feat_dim"),
    ),
    Kind(
        "Z-Image ControlNet",
        "controlnet",
        (
            Spelling(
                "diffusers",
                (f"control_all_x_embedder.{PATCH}.weight", "control_layers.0.attention.to_q.weight"),
                ("",),
                same(CONTROL),
            ),
        ),
        control_config,
        unseen=("control_layers_places", "add_control_noise_refiner"),
        widths=("control_in_dim", "dim", "n_heads"),
    ),
)
