"""Dynamic inputs: the inputs that a choice of a class brings with it (`resize_type` and `resize_type.width`).

Our nodes have such an input under a name with an underscore for the dot: `resize_type_width`.
"""

from __future__ import annotations

from collections.abc import Mapping

DYNAMIC_COMBOS: Mapping[str, Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "ResizeImageMaskNode": {
        "resize_type": {
            "scale dimensions": ("width", "height", "crop"),
            "scale by multiplier": ("multiplier",),
            "scale longer dimension": ("longer_size",),
            "scale total pixels": ("megapixels",),
        },
    },
    "TextGenerate": {
        "sampling_mode": {
            "on": ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "presence_penalty"),
            "off": (),
        },
    },
    "SaveImageAdvanced": {"format": {"png": ("bit_depth", "input_color_space")}},
}
"""By class and input: the further inputs of each choice, in their order."""
