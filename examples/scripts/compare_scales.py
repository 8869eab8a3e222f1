"""Compares the scales of a LoRA on one labelled sheet: `python compare_scales.py [FOLDER]`."""

from __future__ import annotations

import sys
from pathlib import Path

from graphengine_nodes import image_grid

from graphengine import load

PROMPTS = ["a red circle", "a blue house on a green background"]
SCALES = [0.0, 0.5, 1.0]


def main(folder: Path) -> None:
    """Make every picture and the sheet; what a scale does not change is computed once."""
    graph = load("lora")
    pictures = [graph(prompt=prompt, lora_scale=scale, steps=8) for prompt in PROMPTS for scale in SCALES]
    sheet = image_grid(pictures, column_labels=[f"scale {scale:g}" for scale in SCALES], row_labels=PROMPTS)
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(folder / "scales.png")
    print(folder / "scales.png")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2]))
