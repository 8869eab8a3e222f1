"""The graph's pictures are bit-identical to those of diffusers' one-call pipelines, made by another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import pytest
from graphengine_nodes import images

from . import cases

CASES = cases.cases()


def make(models: Path, case: dict[str, Any]) -> std.Image:
    """A case's picture through the nodes."""
    model = std.load_model("tiny" if case["model"] == "tiny" else models / case["model"])
    for name, scale in case["loras"]:
        source = "tiny-blueprint" if name == "blueprint" else models / f"{name}.safetensors"
        model = std.apply_lora(model, std.load_lora(source), scale)
    positive = std.encode_prompt(model, case.get("prompt", cases.PROMPT), case.get("clip_skip", 0))
    negative = None if case["negative"] is None else std.encode_prompt(model, case["negative"])
    net = std.load_controlnet("tiny-canny") if case["controls"] else None
    pictures = [images.from_pil(picture) for picture in cases.control_pictures(case)]
    controls = [
        std.apply_controlnet(net, edges, scale, start, end)
        for (scale, start, end), edges in zip(case["controls"], pictures, strict=True)
        if net
    ]
    common: dict[str, Any] = {
        "negative": negative,
        "control": controls[0] if len(controls) == 1 else controls or None,
        "seed": case["seeds"] if len(case["seeds"]) > 1 else case["seeds"][0],
        "steps": case["steps"],
        "guidance_scale": case["guidance"],
        "scheduler": case["scheduler"],
        "timestep_spacing": case.get("spacing"),
        "strength": case["strength"],
    }
    picture = images.from_pil(cases.picture())
    if case["kind"] == "inpaint":
        mask = std.mask_from_image(images.from_pil(cases.mask()))
        latent = std.inpaint(model, positive, picture, mask, **common)
    else:
        width, height = case.get("size", (None, None))
        start = std.encode_image(model, picture) if case["kind"] == "image" else None
        rescale = case.get("rescale")
        latent = std.sample(
            model, positive, latent=start, width=width, height=height, guidance_rescale=rescale, **common
        )
    return std.decode_latent(model, latent)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_equals_the_one_call_pipeline(
    case: dict[str, Any], models: Path, references: dict[str, np.ndarray[Any, Any]]
) -> None:
    expected = references[case["name"]]
    found = make(models, case).pixels.numpy()
    assert found.shape == expected.shape
    assert np.array_equal(found, expected), f"differs by {np.abs(found - expected).max()}"


# Equal on purpose: the model's own scheduler and spacing by name, guidance that is off, and the absent negative prompt,
# which Stable Diffusion reads as the empty one.
EQUAL = [
    {"text DDIMScheduler", "trailing DDIMScheduler", "empty negative"},
    {"text EulerDiscreteScheduler", "trailing EulerDiscreteScheduler"},
    {"guidance 0.0", "guidance 1.0"},
    {"guidance 0.0 image", "guidance 1.0 image"},
    {"guidance 0.0 inpaint", "guidance 1.0 inpaint"},
]


def test_the_cases_ask_different_things(references: dict[str, np.ndarray[Any, Any]]) -> None:
    """A reference that ignores an argument would make equal pictures, and a test that passes for the wrong reason."""
    names: dict[bytes, set[str]] = {}
    for name, pictures in references.items():
        names.setdefault(pictures.tobytes(), set()).add(name)
    assert [group for group in names.values() if len(group) > 1] == EQUAL
