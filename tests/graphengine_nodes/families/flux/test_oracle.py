"""FLUX's pictures are bit-identical to those of diffusers' one-call pipelines, made by another process.

Masked image to image, which diffusers does not have, is compared with a plain loop there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import pytest
import torch
from graphengine_nodes.nodes import images
from graphengine_nodes.values.types import RandomState

from tests.graphengine_nodes.families.flux import cases

CASES = cases.cases()


def seed_of(case: dict[str, Any]) -> Any:
    if case["one"]:
        return RandomState.of(torch.Generator().manual_seed(case["seeds"][0]))
    return case["seeds"] if len(case["seeds"]) > 1 else case["seeds"][0]


def make(models: Path, case: dict[str, Any]) -> std.Image:
    """A case's picture through the nodes."""
    model = std.load_model(models / case["model"])
    for name, scale in case["loras"]:
        model = std.apply_lora(model, std.load_lora(models / f"{name}.safetensors"), scale)
    length = case["length"]
    positive = std.encode_prompt(model, case["prompt"], prompt_2=case["prompt_2"], max_sequence_length=length)
    steered = case["controls"] and case["kind"] != "text"  # where the pipelines know no negative prompt
    guided = case["negative"] is not None and not steered
    negative = std.encode_prompt(model, case["negative"], max_sequence_length=length) if guided else None
    controls = [
        std.apply_controlnet(std.load_controlnet(models / name), images.from_pil(picture), scale, start, end)
        for (name, scale, start, end), picture in zip(case["controls"], cases.control_pictures(case), strict=True)
    ]
    arguments = ({"true_cfg_scale": case["true_cfg"]} if guided else {}) | (
        {"control_mode": case["modes"]} if case["modes"] else {}
    )
    common: dict[str, Any] = {
        "negative": negative,
        "control": controls[0] if len(controls) == 1 else controls or None,
        "seed": seed_of(case),
        "count": len(case["seeds"]),
        "steps": case["steps"],
        "guidance_scale": case["guidance"],
        "strength": case["strength"],
        "arguments": arguments or None,
    }
    picture = images.from_pil(cases.picture())
    if case["kind"] == "inpaint":
        mask = std.mask_from_image(images.from_pil(cases.mask()))
        latent = std.inpaint(model, positive, picture, mask, **common)
    elif case["kind"] == "repaint":
        common.pop("control")
        original, painted = (std.encode_image(model, one) for one in (picture, images.from_pil(cases.painted())))
        mask = std.mask_from_image(images.from_pil(cases.mask()))
        mode = case["sample_mode"]
        latent = std.repaint(model, positive, original, painted, mask, sample_mode=mode, **common)
    elif case["kind"] == "image":
        latent = std.sample(model, positive, latent=std.encode_image(model, picture), **common)
    else:
        width, height = case["size"]
        latent = std.sample(model, positive, width=width, height=height, **common)
    return std.decode_latent(model, latent)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_equals_the_one_call_pipeline(
    case: dict[str, Any], models: Path, references: dict[str, np.ndarray[Any, Any]]
) -> None:
    expected = references[case["name"]]
    found = make(models, case).pixels.numpy()
    assert found.shape == expected.shape
    assert np.array_equal(found, expected), f"differs by {np.abs(found - expected).max()}"


def test_the_cases_ask_different_things(references: dict[str, np.ndarray[Any, Any]]) -> None:
    """A reference that ignores an argument would make equal pictures, and a test that passes for the wrong reason."""
    names: dict[bytes, list[str]] = {}
    for name, pictures in references.items():
        names.setdefault(pictures.tobytes(), []).append(name)
    assert [group for group in names.values() if len(group) > 1] == []
