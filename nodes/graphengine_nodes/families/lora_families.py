"""Families of LoRAs, told by the names and shapes of their tensors.

Some names are those of several families (`transformer_blocks.0.attn.to_q`): a LoRA with no others may be of each of
them, and its layers are then looked for in the model. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from graphengine_nodes.weights.headers import Header

START = r"(?:^|\.|lora_unet_|lora_transformer_|lycoris_)"
"""What stands before the name of a layer."""

BLOCK = rf"{START}transformer_blocks[._]\d+[._]"
SINGLE = r"single_(transformer_)?blocks[._]\d"

ONLY = {
    "z_image": rf"{START}(layers|(noise|context)_refiner)[._]\d+[._](attention|feed_forward|adaLN_modulation)[._]",
    "qwen_image": rf"{BLOCK}(img|txt)_(mod[._]1|mlp[._]net)[._]",
    "qwen_image_21": rf"{BLOCK}img_mlp[._](gate_layer|gate_up|proj|out)[._]",
    "flux2": r"to_qkv_mlp_proj|stream_modulation|[._]ff(_context)?[._]linear_(in|out)[._]"
    r"|single_transformer_blocks[._]\d+[._]attn[._]to_out[._](?!0)",
    "flux": r"(img|txt)_mod[._]lin[._]|[._]modulation[._]lin[._]|vector_in[._]",
    "chroma": r"distilled_guidance_layer[._]",
    "stable_diffusion_3": rf"joint_blocks[._]\d|{BLOCK}attn2[._]",
    "wan": rf"{START}blocks[._]\d+[._]((self|cross)_attn|attn[12]|ffn)[._]",
}
"""Names that only the LoRAs of one family have."""

ATTENTION = rf"{BLOCK}attn[._]"
FLUX = rf"double_blocks[._]\d|{SINGLE}|{BLOCK}(attn|ff|ff_context|norm1|norm1_context)[._]"
"""Names that the LoRAs of several families have."""

WIDER = {r"single_blocks[._]\d+[._]linear1": 9, r"double_blocks[._]\d+[._](img|txt)_mlp[._]0": 6}
"""Layers of the original code that FLUX.1 and FLUX.2 have, and how many times as many numbers as they take they give in
FLUX.2; in FLUX.1 it is less."""


def changes_unet(names: Iterable[str]) -> bool:
    """Whether a LoRA with tensors of these names changes a UNet."""
    return _has(names, r"(down|up|input|output)_blocks|mid_block|middle_block")


def changes_z_image(header: Header) -> bool:
    """Whether a LoRA changes a Z-Image transformer."""
    return _has(header, ONLY["z_image"])


def changes_qwen_image(header: Header) -> bool:
    """Whether a LoRA changes a Qwen-Image transformer, or may."""
    return _changes(header, "qwen_image", ATTENTION, rf"{SINGLE}|double_blocks|{BLOCK}(ff|ff_context|norm1)[._]")


def changes_qwen_image_21(header: Header) -> bool:
    """Whether a LoRA changes a transformer of Qwen-Image 2.1, or may: it has no attention of the text by itself."""
    never = rf"{SINGLE}|double_blocks|{BLOCK}(ff|ff_context|norm1)[._]|{BLOCK}attn[._](add_|to_add)"
    return _changes(header, "qwen_image_21", ATTENTION, never)


def changes_flux2(header: Header) -> bool:
    """Whether a LoRA changes a FLUX.2 transformer, or may."""
    apart = r"single_transformer_blocks[._]\d+[._](attn[._]to_[qkv]|proj_)"
    never = rf"{apart}|{BLOCK}(ff|ff_context)[._]net|{BLOCK}norm1"
    like = rf"double_blocks[._]\d|single_blocks[._]\d|{ATTENTION}"
    return _changes(header, "flux2", like, never) and _is_wide(header) is not False


def changes_chroma(header: Header) -> bool:
    """Whether a LoRA changes a Chroma transformer, or may: its layers are FLUX.1's without the modulations."""
    return _changes(header, "chroma", FLUX, rf"{BLOCK}norm1") and _is_wide(header) is not True


def changes_stable_diffusion_3(header: Header) -> bool:
    """Whether a LoRA changes a Stable Diffusion 3 transformer, or may."""
    # UNets have blocks of that name inside others.
    return not changes_unet(header) and _changes(header, "stable_diffusion_3", FLUX, rf"{SINGLE}|double_blocks")


def changes_wan(header: Header) -> bool:
    """Whether a LoRA changes a Wan transformer."""
    return _has(header, ONLY["wan"])


def changes_flux(header: Header) -> bool:
    """Whether a LoRA changes a FLUX.1 transformer, or may."""
    return _changes(header, "flux", FLUX, r"a^") and _is_wide(header) is not True


def _changes(header: Header, family: str, like: str, never: str) -> bool:
    """Whether a LoRA has names of one family alone, or names of several and none that contradicts this family."""
    if _has(header, ONLY[family]):
        return True
    others = [pattern for name, pattern in ONLY.items() if name != family]
    return _has(header, like) and not _has(header, "|".join([never, *others])) and not changes_unet(header)


def _has(names: Iterable[str], pattern: str) -> bool:
    known = re.compile(pattern)
    return any(known.search(name) for name in names)


def _is_wide(header: Header) -> bool | None:
    """Whether layers are as wide as FLUX.2's; None of a LoRA that has none of them."""
    for layer, times in WIDER.items():
        found = [_size(header, rf"{layer}\.", ends) for ends in (("lora_down", "lora_A"), ("lora_up", "lora_B"))]
        if found[0] is not None and found[1] is not None:
            return found[1][0] >= times * found[0][1]
    return None


def _size(header: Header, layer: str, ends: tuple[str, str]) -> list[int] | None:
    """The shape of the first factor of a layer."""
    known = re.compile(rf"{layer}({'|'.join(ends)})\.")
    return next((entry["shape"] for name, entry in sorted(header.items()) if known.search(name)), None)
