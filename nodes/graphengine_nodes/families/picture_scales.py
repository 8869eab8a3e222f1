"""Scales of picture prompts (IP-Adapter): a number for the whole model, or one for each block of its denoiser."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from graphengine_nodes.families.family import PictureScales
from graphengine_nodes.values.types import Model

Blocks = Mapping[str, int]
"""The blocks of a UNet that attend to prompts (`down.block_1`, `mid`), and how many layers each has that do."""

ATTENTION = re.compile(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.attentions\.(\d+)\.")


def blocks_of(names: Iterable[str]) -> Blocks:
    """The blocks of a UNet of diffusers, by the names of its tensors."""
    found: dict[str, set[int]] = {}
    for name in names:
        if (match := ATTENTION.match(name)) and ".attn2." in name:
            side, block, layer = match.groups()
            found.setdefault(f"{side}.block_{block}" if side else "mid", set()).add(int(layer))
    return {name: len(layers) for name, layers in sorted(found.items())}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(value: Any) -> bool:
    """Whether it is a number, or a list of some."""
    many = value if isinstance(value, list) else [value]
    return bool(many) and all(map(_is_number, many))


def check_scale(scale: Any, model: Model, form: PictureScales) -> None:
    """Refuse what is no scale for any model of a family.

    Args:
        form: The family's.

    Raises:
        ValueError: It is no finite number, and no list or dictionary of some as the family takes it.
    """
    layers = form == "layers"
    if isinstance(scale, dict if layers else list):
        wanted = "a list with a number for each double block" if layers else "a dictionary of numbers by block"
        raise ValueError(f"scale is {scale!r:.80}; for {model.source}, {model.family}, give a number, or {wanted}")
    if isinstance(scale, dict):
        _check_form(scale)
    elif not _are_numbers(scale):
        raise ValueError(f"scale is {scale!r:.80}; give a finite number such as 1.0")


def _check_form(scale: Mapping[str, Any]) -> None:
    """Refuse scales by block that are not of the form that diffusers takes."""
    example = "{down: 1.0, mid: 0.5, up: {block_0: [0, 1, 0]}}"
    if not scale:
        raise ValueError(f"scale is empty: the pictures would do nothing; give a number, or some by block: {example}")
    for side, value in scale.items():
        inner = list(value.values()) if isinstance(value, dict) and side in ("up", "down") else [value]
        names = list(value) if isinstance(value, dict) else []
        named = all(isinstance(name, str) and re.fullmatch(r"block_\d+", name) for name in names)
        if side not in ("up", "mid", "down") or not named or not inner or not all(map(_are_numbers, inner)):
            raise ValueError(f"scale has {side!r:.40}: {value!r:.80}; give a number, or numbers by block: {example}")


def check_blocks(scale: Mapping[str, Any], blocks: Blocks, source: str) -> None:
    """Refuse scales for blocks that a model does not have: diffusers passes over them, and the pictures do nothing.

    Args:
        scale: By block, as diffusers takes it.
        source: The model's, for messages.

    Raises:
        ValueError: One is for no block, or has another number of layers.
    """
    for side, value in scale.items():
        for name, one in value.items() if isinstance(value, dict) else ((None, value),):
            block = side if name is None else f"{side}.{name}"
            counts = {count for known, count in blocks.items() if known == block or known.startswith(f"{block}.")}
            if not counts:
                raise ValueError(
                    f"scale has a number for {block}, which {source} does not have or which does not see prompts; "
                    f"it has {', '.join(blocks)}"
                )
            if isinstance(one, list) and len(one) != 1 and counts != {len(one)}:
                wanted = " or ".join(map(str, sorted(counts)))
                raise ValueError(f"scale has {len(one)} numbers for {block} of {source}, which has {wanted} layers")
