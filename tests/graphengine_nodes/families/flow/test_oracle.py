"""The pictures of families that are records are bit-identical to those of diffusers' one-call pipelines, made by
another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphengine_nodes as std
import numpy as np
import pytest
from graphengine_nodes.nodes import images

from tests.graphengine_nodes.families.flow import cases

CASES = cases.cases()


def make(models: Path, case: dict[str, Any]) -> std.Image:
    """A case's picture through the nodes."""
    model = std.load_model(models / case["model"], precision=case["precision"])
    if case["lora"]:
        model = std.apply_lora(model, std.load_lora(models / f"{case['model']}.safetensors"))
    asks = case["task"].split("+")
    picture, other = images.from_pil(cases.picture()), images.from_pil(cases.other())
    references = [picture, other][: case["references"]] if "references" in asks else None
    if "inpaint" in asks and references:
        references = [other]
    seen = picture if case["model"] == "qwen_image_edit" else references  # it sees what it paints over, too
    positive = std.encode_prompt(model, cases.PROMPT, references=seen)
    negative = None
    if case["negative"] is not None:
        negative = std.encode_prompt(model, case["negative"], references=seen)
    control = None
    if "controlnet" in asks:
        net = std.load_controlnet(models / case["net"], precision=case["precision"])
        control = std.apply_controlnet(net, images.from_pil(cases.edges()), 0.75)
    elif "control" in asks:
        control = std.follow_picture(images.from_pil(cases.edges()))
    common: dict[str, Any] = {
        "negative": negative,
        "control": control,
        "references": references,
        "seed": case["seeds"] if len(case["seeds"]) > 1 else case["seeds"][0],
        "steps": case["steps"],
        "guidance_scale": case["scale"],
        "scheduler": case["scheduler"],
        "arguments": case["arguments"] or None,
    }
    if "inpaint" in asks:
        mask = std.mask_from_image(images.from_pil(cases.mask()))
        latent = std.inpaint(model, positive, picture, mask, **common)
    elif "image" in asks:
        latent = std.sample(model, positive, latent=std.encode_image(model, picture), strength=0.5, **common)
    else:
        width, height = case["size"]
        latent = std.sample(model, positive, width=width, height=height, **common)
    return std.decode_latent(model, latent)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_record_equals_the_one_call_pipeline(
    case: dict[str, Any], models: Path, references: dict[str, np.ndarray[Any, Any]]
) -> None:
    expected = references[case["name"]]
    found = make(models, case).channels.numpy()
    assert found.shape == expected.shape
    assert np.array_equal(found, expected), f"differs by {np.abs(found - expected).max()}"


def test_the_cases_of_records_ask_different_things(references: dict[str, np.ndarray[Any, Any]]) -> None:
    """A reference that ignores an argument would make equal pictures, and a test that passes for the wrong reason."""
    names: dict[bytes, list[str]] = {}
    for name, pictures in references.items():
        names.setdefault(pictures.tobytes(), []).append(name)
    assert [group for group in names.values() if len(group) > 1] == []
